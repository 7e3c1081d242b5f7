"""Who does the pieces of work of a flow: processes of this machine, or a Ray cluster.

Ray's core tasks and not Ray Data: a piece of work that was done is a file in the run folder, which all machines of a
cluster share for checkpoints anyway. So the order of rows holds and a killed run goes on, neither of which Ray Data's
exchange promises.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from wingspan.errors import WorkError
from wingspan.prepare.flow.flow import BATCH, Engine, Job

WORKERS = "WINGSPAN_WORKERS"
RAY = "RAY_ADDRESS"  # Ray's own variable: names the cluster to work on
_ONE_THREAD = {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
_IN_FLIGHT = 4  # pieces of work per processor that a cluster is given ahead


@contextmanager
def open_engine() -> Iterator[Engine]:
    """Ray where RAY_ADDRESS names a cluster, else as many processes as there are processors (or WINGSPAN_WORKERS)."""
    if address := os.environ.get(RAY):
        yield RayCluster(address)
        return
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = Processes(int(os.environ.get(WORKERS) or processors))
    try:
        yield processes
    finally:
        processes.close()


class Processes:
    """Worker processes of one thread each; one piece of work, or fewer than `least` rows, needs none."""

    def __init__(self, workers: int, least: int = BATCH) -> None:
        self._workers, self._least = workers, least
        self._pool: ProcessPoolExecutor | None = None

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Perform them; the first that fails ends it."""
        if self._workers == 1 or len(jobs) == 1 or sum(job.rows for job in jobs) < self._least:
            yield from ((number, job.perform()) for number, job in enumerate(jobs))
            return
        if self._pool is None:
            context = mp.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, _start_worker)
        with _environment(_ONE_THREAD):  # which the processes inherit, before they load a library
            numbers: dict[Future[Any], int] = {self._pool.submit(_perform, job): at for at, job in enumerate(jobs)}
        try:
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BrokenProcessPool as error:
            raise WorkError(
                "a worker process was killed, perhaps for want of memory",
                remedy=f"Give the same command again, finished work is kept; {WORKERS}=1 needs the least memory",
            ) from error
        finally:
            for future in numbers:
                future.cancel()

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start_worker() -> None:
    """No worker outlives its parent."""
    parent = mp.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _perform(job: Job) -> Any:
    return job.perform()


class RayCluster:
    """A Ray cluster whose machines all see the run folder."""

    def __init__(self, address: str) -> None:
        import ray

        self._ray = ray
        ray.init(address, ignore_reinit_error=True, runtime_env={"env_vars": _ONE_THREAD}, log_to_driver=False)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Perform them; Ray repeats what a lost machine was doing."""
        perform = self._ray.remote(_perform)
        room = _IN_FLIGHT * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        waiting: dict[Any, int] = {}
        for number, job in enumerate(jobs):
            waiting[perform.remote(job)] = number
            if len(waiting) >= room:
                yield from self._finished(waiting)
        while waiting:
            yield from self._finished(waiting)

    def _finished(self, waiting: dict[Any, int]) -> Iterator[tuple[int, Any]]:
        for one in self._ray.wait(list(waiting))[0]:
            yield waiting.pop(one), self._ray.get(one)
