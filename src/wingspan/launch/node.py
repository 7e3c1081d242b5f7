"""The ranks of one node: started together, ended together, and the first that was lost is blamed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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


def run_ranks(command: Sequence[str], place: Place, asked: list[int]) -> int:
    """Run `command` once per rank of this node; `asked` fills when they are to leave.

    Returns 0 if all did well, 2 if the input is wrong, 76 if they were asked to leave and saved, 75 if they lost a
    rank of another node, else 1.
    """
    ranks = [subprocess.Popen(command, env=place.environment(number)) for number in range(place.per_node)]
    store = _host_store(place) if place.node == 0 else None
    codes = _wait(ranks, asked)
    del store
    for code in (InputError.exit_code, LEFT):
        if code in codes.values():
            return code
    lost = [local for local, code in codes.items() if code not in (0, LOST)]
    if not lost:
        return LOST if LOST in codes.values() else 0
    if not asked:
        guilty = next((local for local in lost if codes[local] < 0), lost[0])
        how = f"was killed by {signal.Signals(-codes[guilty]).name}" if codes[guilty] < 0 else "ended with an error"
        weight = 2 if codes[guilty] < 0 else 1
        blame(Blame(place.node * place.per_node + guilty, node_name(), how, weight))
    return 1


def _wait(ranks: Sequence[subprocess.Popen[bytes]], asked: list[int]) -> dict[int, int]:
    """The exit codes of ranks in the order of their ends; those that do not follow a lost one are killed: lost too."""
    codes: dict[int, int] = {}
    lost_at, told = None, False
    while len(codes) < len(ranks):
        for local, rank in enumerate(ranks):
            if local not in codes and (code := rank.poll()) is not None:
                codes[local] = code
                lost_at = lost_at or (time.monotonic() if code not in (0, LEFT) else None)
        if asked and not told:
            told = True
            for rank in ranks:
                rank.terminate()
        if lost_at and time.monotonic() - lost_at > _OTHERS_END_S:
            for local, rank in enumerate(ranks):
                if local not in codes:
                    rank.kill()
                    rank.wait()
                    codes[local] = LOST
        time.sleep(_LOOK_S)
    return codes


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


def free_port() -> int:
    """A port of this node that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _host_store(place: Place) -> Any:
    """The key-value store by which all ranks find each other; they wait for it while torch is loaded here."""
    from torch._C._distributed_c10d import TCPStore

    with suppress(TimeoutError):
        return TCPStore(place.address, place.port, is_master=True, wait_for_workers=False)
