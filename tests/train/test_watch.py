"""Hanging and slow ranks are named, a run that stands still ends, and no rank outlives its launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from train import prepared
from train.test_stage import TORCHRUN, losses, weights
from wingspan.train.faults.watch import Pulse, slow_ranks, who_hangs


def test_a_rank_that_says_nothing_is_the_one_that_hangs() -> None:
    pulses = {0: Pulse(9, step=5, waits=True), 1: Pulse(3, step=5), 2: Pulse(9, step=5, waits=True)}
    assert who_hangs(pulses, [1]) == "rank 1 does not answer"
    assert who_hangs(pulses, [1, 2]) == "ranks 1, 2 do not answer"


def test_a_rank_that_works_while_all_others_wait_is_the_one_that_hangs() -> None:
    pulses = {0: Pulse(9, step=5, waits=True), 1: Pulse(9, step=5), 2: Pulse(9, step=5, waits=True)}
    assert who_hangs(pulses, []) == "the others wait for rank 1 in step 5"


def test_a_rank_is_slow_by_its_own_work_and_not_by_its_waiting() -> None:
    pulses = {rank: Pulse(9, step=50, own_s=0.1) for rank in range(8)}
    assert slow_ranks(pulses) == []
    assert slow_ranks(pulses | {3: Pulse(9, step=50, own_s=0.2)}) == [3]
    assert slow_ranks({0: Pulse(1, step=0, own_s=9.0)}) == []


def launched(folder: Path, *, tokens: int, hang_timeout_s: float) -> tuple[subprocess.Popen[str], list[int]]:
    """Two ranks under torchrun, past their first checkpoint; the process and its ranks."""
    prepared.prepared_run(folder, {"dp_shard": 2}, tokens=tokens)
    project = folder / "wingspan.toml"
    project.write_text(project.read_text().replace("[train]", f"[train]\nhang_timeout_s = {hang_timeout_s}"))
    command = [*TORCHRUN, "--nproc-per-node=2", "--monitor-interval=0.1", prepared.__file__, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any((folder / "runs/tiny/.train.partial/checkpoints").glob("step-*")), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, [int(pid) for pid in children]


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prepared.prepared_run(folder, {"dp_shard": 2}, tokens=40 * 256)
    subprocess.run([*TORCHRUN, "--nproc-per-node=2", prepared.__file__, str(folder)], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("accident", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_run_which_goes_on_to_the_same_weights(
    accident: signal.Signals, undisturbed: Path, tmp_path: Path
) -> None:
    process, ranks = launched(tmp_path, tokens=40 * 256, hang_timeout_s=2)
    os.kill(ranks[1], accident)
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    if accident == signal.SIGSTOP:
        assert "wingspan watch: no step for 2 s: rank 1 does not answer" in said
    assert not any(map(alive, ranks))
    subprocess.run([*TORCHRUN, "--nproc-per-node=2", prepared.__file__, str(tmp_path)], check=True)
    assert losses(tmp_path) == losses(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.slow
def test_a_slow_rank_is_named(tmp_path: Path) -> None:
    process, ranks = launched(tmp_path, tokens=4000 * 256, hang_timeout_s=4)
    found = threading.Event()

    def read() -> None:
        for line in process.stderr:
            if "wingspan watch: rank 1 is slow" in line:
                found.set()
                return

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + 60
    try:
        while not found.is_set() and time.monotonic() < deadline:  # stopped for most of the time
            os.kill(ranks[1], signal.SIGSTOP)
            time.sleep(0.08)
            os.kill(ranks[1], signal.SIGCONT)
            time.sleep(0.02)
    finally:
        os.kill(ranks[1], signal.SIGCONT)
        process.terminate()
        process.wait(timeout=60)
    assert found.is_set()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    process, ranks = launched(tmp_path, tokens=4000 * 256, hang_timeout_s=60)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(alive(rank) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
