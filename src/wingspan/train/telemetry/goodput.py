"""Goodput: what every nanosecond of a run went to, in time, tokens, energy and money, across all its restarts.

`goodput.jsonl` has a line for each step, from the end of the one before, be it in another process: so the times of all
kinds add up to the time since the run first started. Needs no torch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wingspan.meter import EnergyMeter
from wingspan.train.data.ledger import JsonLines
from wingspan.train.telemetry.machines import Machines

FILE = "goodput.jsonl"
KINDS = {
    "compute": "steps that count",
    "communication": "waiting for other ranks in them",
    "data": "waiting for data",
    "checkpoint": "saving, and writing the result",
    "evaluation": "scoring held-out text",
    "start": "the first start, to its first step",
    "restart": "from one process's last step to the first of the next",
    "lost": "steps left out, or done again after a restart",
    "idle": "the rest of the loop",
}
_STEPS = ("compute", "communication")  # what is lost with a step


@dataclass
class Share:
    """What one kind took; `tokens` were trained on (compute) or lost."""

    ns: int = 0
    tokens: int = 0
    kwh: float = 0.0
    usd: float = 0.0


@dataclass
class Totals:
    """All of a run so far, by kind; `energy` and `price` say what the figures rest on."""

    shares: dict[str, Share] = field(default_factory=lambda: {kind: Share() for kind in KINDS})
    energy: set[str] = field(default_factory=set)
    price: set[str] = field(default_factory=set)

    @property
    def wall_ns(self) -> int:
        """From the first start to the last line."""
        return sum(share.ns for share in self.shares.values())

    @property
    def good_ns(self) -> int:
        """Of steps that count."""
        return sum(self.shares[kind].ns for kind in _STEPS)

    @property
    def goodput(self) -> float:
        """Share of the time that went into steps that count; 0 before any."""
        return self.good_ns / max(1, self.wall_ns)

    def add(self, line: dict[str, Any], *, lost: bool) -> None:
        """Add a line; a lost step was left out or done again."""
        whole = max(1, sum(line["ns"].values()))
        for kind, ns in line["ns"].items():
            share = self.shares["lost" if lost and kind in _STEPS else kind]
            share.ns += ns
            share.kwh += line["kwh"] * ns / whole
            share.usd += line["usd"] * ns / whole
        self.shares["lost" if lost else "compute"].tokens += line["tokens"]
        self.energy.add(line["energy"])
        self.price.add(line["price"])


def total(lines: Sequence[dict[str, Any]], resumed: tuple[str, int] | None = None) -> Totals:
    """Add lines up. A step of a loop was lost if a later line has it or one before it, or the loop `resumed` there."""
    totals, again = Totals(), dict([resumed] if resumed else [])
    for line in reversed(lines):
        step, since = line["step"], again.get(line["loop"], math.inf)
        totals.add(line, lost=line["left_out"] or step >= since)
        if step >= 0:
            again[line["loop"]] = min(step, since)
    return totals


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines below a stage's folder, none where there is no ledger; a line that a kill cut short is left out."""
    path = folder / FILE
    return [json.loads(one) for one in path.read_text().splitlines(True) if one[-1] == "\n"] if path.is_file() else []


class Goodput:
    """Keeps the ledger of this process's share of a run; time is of one kind at any moment."""

    def __init__(self, folder: Path, machines: Machines, now: Callable[[], int] | None = None) -> None:
        self._folder, self._machines, self._now = folder, machines, now or _steady_clock()
        before = read_lines(folder)
        self.totals = total(before)
        self.kind = "restart" if before else "start"
        self._until = self._at = before[-1]["until"] if before else self._now()
        self._set_back = max(0, self._at - self._now())  # the clock, since the last process: its time away is not known
        self._loop, self._next, self._ns = "", 0, dict.fromkeys(KINDS, 0)
        self._energy = EnergyMeter(machines.watts, machines.devices)
        self._lines = JsonLines(folder / FILE)

    def turn_to(self, kind: str) -> str:
        """From now on time is of this kind; returns the kind until now."""
        now = self._now() + self._set_back
        self._ns[self.kind] += now - self._at
        before, self.kind, self._at = self.kind, kind, now
        return before

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """The time of the block is of this kind, but for blocks within it."""
        before = self.turn_to(kind)
        try:
            yield
        finally:
            self.turn_to(before)

    def begin(self, loop: str, step: int) -> None:
        """The steps of a loop begin, at this one."""
        self.turn_to("idle")
        self._write()
        self._loop = loop
        self._go_to(step)

    def step(self, step: int, tokens: int, *, left_out: bool) -> None:
        """A step was done; its time is lost when it was left out."""
        if step != self._next:  # the run went back to a checkpoint
            self._go_to(step)
        self.turn_to(self.kind)
        self._write(step, tokens, left_out)
        self._next = step + 1

    def values(self) -> dict[tuple[str, ...], float]:
        """Figures so far, by name and kind."""
        shares = self.totals.shares
        return {
            ("goodput",): self.totals.goodput,
            ("kwh",): sum(share.kwh for share in shares.values()),
            ("usd",): sum(share.usd for share in shares.values()),
            **{("tokens", kind): shares[kind].tokens for kind in ("compute", "lost")},
            **{("seconds", kind): share.ns / 1e9 for kind, share in shares.items()},
        }

    def close(self) -> None:
        """Write what has passed since the last line."""
        self.turn_to("idle")
        self._write()
        self._lines.close()

    def _go_to(self, step: int) -> None:
        self._next, self.totals = step, total(read_lines(self._folder), (self._loop, step))

    def _write(self, step: int = -1, tokens: int = 0, left_out: bool = False) -> None:
        """Write a line; -1: it holds no step."""
        seconds = (self._at - self._until) / 1e9
        kwh, energy = self._energy.since_last(seconds)
        usd, price = self._machines.cost(seconds, kwh)
        line = {"until": self._at, "loop": self._loop, "step": step, "tokens": tokens, "left_out": left_out}
        line |= {"ns": {kind: ns for kind, ns in self._ns.items() if ns}}
        line |= {"kwh": kwh, "energy": energy, "usd": usd, "price": price}
        self._lines.append(line)
        self.totals.add(line, lost=left_out)
        self._until, self._ns = self._at, dict.fromkeys(KINDS, 0)


def _steady_clock() -> Callable[[], int]:
    """Nanoseconds since 1970 as they were when it was made, and steady since: the system's clock may be set."""
    offset = time.time_ns() - time.monotonic_ns()
    return lambda: offset + time.monotonic_ns()
