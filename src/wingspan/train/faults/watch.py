"""A watch over the ranks: the one that hangs or lags is named, and a run that stands still ends, to be started again.

Every rank tells the others where it is, from a thread of its own through the launch's key-value store. A stopped
process tells nothing, a busy one says that it works, and the others wait for it.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Self

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from wingspan.errors import LOST
from wingspan.launch.blame import Blame, blame, node_name
from wingspan.train import torch_compat

_SLOW, _LOOKS = 1.3, 3  # times the median of all ranks, in so many looks one after another
_SMOOTH = 0.3  # weight of the last step


@dataclass(frozen=True)
class Pulse:
    """What a rank tells: `count` rises with every pulse, `own_s` are the seconds of a step less those it waited."""

    count: int = 0
    process: tuple[str, int] = ("", 0)  # node and process id
    step: int = -1
    waits: bool = False
    own_s: float = 0.0
    last: str = ""  # the collective that it began last


class Watch:
    """Watches a loop; call `beat` when a step begins. Without other ranks it does nothing.

    After `timeout_s` without a step the process ends with code 75, and the first rank that still answers says why.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._every_s = min(5.0, timeout_s / 4)
        self._mine = Pulse(process=(node_name(), os.getpid()))
        self._waited_s, self._beat_at = 0.0, time.monotonic()
        self._slow: dict[int, int] = {}
        self._stopped = threading.Event()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._store = _connect()
            self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
            self._open.enter_context(torch_compat.around_waits(self._waiting))
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()
            self._open.callback(self._thread.join)
            self._open.callback(self._stopped.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def beat(self, step: int) -> None:
        """A step begins."""
        now = time.monotonic()
        own_s = now - self._beat_at - self._waited_s
        if now - self._beat_at > self._timeout_s / 2 and step:
            _say(f"step {step - 1} took {now - self._beat_at:.0f} s: raise train.hang_timeout_s above twice that")
        before = self._mine
        smoothed = own_s if before.step < 1 else before.own_s + _SMOOTH * (own_s - before.own_s)
        self._mine = replace(before, step=step, own_s=smoothed)
        self._beat_at, self._waited_s = now, 0.0

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.monotonic()
        self._mine = replace(self._mine, waits=True)
        try:
            yield
        finally:
            self._mine = replace(self._mine, waits=False)
            self._waited_s += time.monotonic() - began

    def _watch(self) -> None:
        pulses: Mapping[int, Pulse] = {}
        while not self._stopped.wait(self._every_s):
            self._mine = replace(self._mine, count=self._mine.count + 1, last=torch_compat.last_collective())
            self._store.set(_key(self._rank), json.dumps(asdict(self._mine)))
            hangs = time.monotonic() - self._beat_at > self._timeout_s
            if self._rank and not hangs:
                continue
            before, pulses = pulses, self._read()
            if hangs and before:
                self._give_up(before, pulses)
            self._name_slow(pulses)

    def _read(self) -> dict[int, Pulse]:
        """The pulses of all ranks that have told any."""
        told = [rank for rank in range(self._ranks) if self._store.check([_key(rank)])]
        values = self._store.multi_get([_key(rank) for rank in told])
        read = {rank: json.loads(value) for rank, value in zip(told, values, strict=True)}
        return {rank: Pulse(**one | {"process": tuple(one["process"])}) for rank, one in read.items()}

    def _give_up(self, before: Mapping[int, Pulse], now: Mapping[int, Pulse]) -> None:
        silent = [rank for rank in range(self._ranks) if rank not in now or now[rank] == before.get(rank)]
        if self._rank == min(rank for rank in now if rank not in silent):
            last = next((f" (last collective: {now[rank].last})" for rank in hanging(now, silent) if rank in now), "")
            _say(f"no step for {self._timeout_s:.0f} s: {who_hangs(now, silent)}{last}; this run ends, start it again")
            for rank in hanging(now, silent):
                blame(Blame(rank, now.get(rank, Pulse()).process[0] or "a node unknown", "hung", 2))
        for rank in silent:  # its launcher would ask it to end, and wait for an answer
            host, process = now[rank].process if rank in now else ("", 0)
            if host == self._mine.process[0]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        os._exit(LOST)

    def _name_slow(self, pulses: Mapping[int, Pulse]) -> None:
        slow = slow_ranks(pulses)
        self._slow = {rank: self._slow.get(rank, 0) + 1 for rank in slow}
        for rank, looks in self._slow.items():
            if looks == _LOOKS:
                usual = statistics.median(pulse.own_s for pulse in pulses.values())
                _say(f"rank {rank} is slow: {pulses[rank].own_s:.2f} s of its own per step, the others {usual:.2f} s")


def who_hangs(pulses: Mapping[int, Pulse], silent: Sequence[int]) -> str:
    """In words, the ranks that hang."""
    if silent:
        return f"{_ranks(silent)} {'does' if len(silent) == 1 else 'do'} not answer"
    behind = hanging(pulses, silent)
    return f"the others wait for {_ranks(behind)} in step {pulses[behind[0]].step}"


def hanging(pulses: Mapping[int, Pulse], silent: Sequence[int]) -> list[int]:
    """The ranks that the others wait for: those that say nothing, else those that work while others wait."""
    if silent:
        return list(silent)
    busy = [rank for rank, pulse in pulses.items() if not pulse.waits] or list(pulses)
    behind = min(pulses[rank].step for rank in busy)
    return [rank for rank in busy if pulses[rank].step == behind]


def slow_ranks(pulses: Mapping[int, Pulse]) -> list[int]:
    """The ranks whose own work takes longer than that of most."""
    own = {rank: pulse.own_s for rank, pulse in pulses.items() if pulse.step > 1}
    usual = statistics.median_low(own.values()) if len(own) > 1 else float("inf")
    return [rank for rank, seconds in own.items() if seconds > _SLOW * usual]


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(ranks)[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def _connect() -> TCPStore:
    """A connection of our own to the store by which the ranks found each other: theirs may be blocked."""
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)


def _key(rank: int) -> str:
    """Where a rank tells; a restarted launch does not read what the one before told."""
    return f"wingspan/pulse/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"


def _say(line: str) -> None:
    print(f"wingspan watch: {line}", file=sys.stderr, flush=True)
