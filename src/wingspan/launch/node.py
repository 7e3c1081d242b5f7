"""The ranks of one node: started together, ended together, and the first that was lost is blamed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wingspan.errors import LEFT, LOST, InputError
from wingspan.launch.blame import Blame, blame, node_name

_OTHERS_END_S = 10.0  # what the ranks beside a lost one have to end by themselves
_LOOK_S = 0.05


@dataclass(frozen=True)
class Place:
    """Node number `node` of `nodes`, with `per_node` ranks; `address` and `port` are where all ranks meet."""

    nodes: int
    per_node: int
    node: int
    address: str
    port: int

    def environment(self, local_rank: int) -> dict[str, str]:
        """What a rank must know, by the names that torch.distributed reads."""
        threads = max(1, (os.cpu_count() or 1) // self.per_node)
        return {
            "OMP_NUM_THREADS": str(threads),
            **os.environ,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            "WORLD_SIZE": str(self.nodes * self.per_node),
            "RANK": str(self.node * self.per_node + local_rank),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.per_node),
            # The store is the launcher's, so that it outlives rank 0 and can say that rank 0 hangs.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }


def run_node(command: Sequence[str], nodes: int, per_node: int) -> int:
    """Run `command` once per rank of the node that srun or Kubernetes started this on; returns an exit code.

    Those that were asked to leave count as done: srun would end the others before they have saved.
    """
    number = int(os.environ.get("SLURM_NODEID") or os.environ.get("JOB_COMPLETION_INDEX", "0"))
    place = Place(nodes, per_node, number, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    asked: list[int] = []
    with ranks_asked_to_leave(asked):
        code = run_ranks(command, place, asked)
    return 0 if code == LEFT and "SLURM_JOB_ID" in os.environ else code


def run_ranks(command: Sequence[str], place: Place, asked: list[int]) -> int:
    """Run `command` once per rank of this node; `asked` fills when they are to leave.

    Returns 0 if all did well, 2 if the input is wrong, 76 if they were asked to leave and saved, 75 if they lost a
    rank of another node, else 1.
    """
    first = place.node * place.per_node

    def lost(local: int, code: int) -> None:
        if not asked:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended with an error"
            blame(Blame(first + local, node_name(), how, 2 if code < 0 else 1))

    ranks = [
        subprocess.Popen(command, env=place.environment(number), preexec_fn=_leave_usr1_to_the_launcher)
        for number in range(place.per_node)
    ]
    try:
        store = _host_store(place) if place.node == 0 else None
    except RuntimeError as error:  # the port was taken since it was found free
        print(f"wingspan launch: {error}", file=sys.stderr, flush=True)
        for rank in ranks:
            rank.kill()
            rank.wait()
        return LOST
    codes = wait_for(ranks, asked, lost)
    del store
    known = (InputError.exit_code, LEFT, LOST, 0)
    return next((code for code in known[:2] if code in codes), 1 if set(codes) - set(known) else max(codes))


def wait_for(
    processes: Sequence[subprocess.Popen[bytes]],
    asked: list[int],
    lost: Callable[[int, int], None],
    leave: signal.Signals = signal.SIGTERM,
) -> list[int]:
    """The exit codes of processes that end together: those left over some seconds after a lost one are killed.

    When `asked` fills, they are asked to leave by the signal `leave`. `lost` is called with the number and code of
    each that was lost.
    """
    codes: dict[int, int] = {}
    bad_at, told = 0.0, False
    while len(codes) < len(processes):
        for number, process in enumerate(processes):
            if number not in codes and (code := process.poll()) is not None:
                codes[number] = code
                bad_at = bad_at or (time.monotonic() if code not in (0, LEFT) else 0.0)
                if code not in (0, LEFT, LOST, InputError.exit_code):
                    lost(number, code)
        if asked and not told:
            told = True
            for process in processes:
                process.send_signal(leave)
        if bad_at and time.monotonic() - bad_at > _OTHERS_END_S:
            for number, process in enumerate(processes):
                if number not in codes:
                    process.kill()
                    process.wait()
                    codes[number] = LOST
        time.sleep(_LOOK_S)
    return [codes[number] for number in range(len(processes))]


@contextmanager
def ranks_asked_to_leave(asked: list[int]) -> Iterator[None]:
    """Note SIGTERM and SIGUSR1 in `asked`; a Ctrl-C reaches the ranks by itself, and they are waited for."""
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {one: signal.signal(one, lambda number, _: asked.append(number)) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _leave_usr1_to_the_launcher() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm sends it to all processes of a step; theirs is SIGTERM


def free_port() -> int:
    """A port of this node that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _host_store(place: Place) -> Any:
    """The key-value store by which all ranks find each other; they wait for it while torch is loaded here."""
    from torch._C._distributed_c10d import TCPStore

    return TCPStore(place.address, place.port, is_master=True, wait_for_workers=False)
