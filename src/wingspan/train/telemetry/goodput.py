"""Goodput: what every nanosecond of a run went to, in time, tokens, energy and money, across all its restarts.

`goodput.jsonl` has a line for each stretch of at most ten seconds. A stretch begins where the one before ended, be it
in another process, so the times of all kinds add up to the time since the run first started. Needs no torch.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
    "restart": "from a process's last word to the first step of the next",
    "lost": "steps left out, or done again after a restart",
    "idle": "the rest of the loop",
}
_STEPS = ("compute", "communication")  # what is lost with a step
_EVERY_NS = 10_000_000_000


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

    def add(self, line: dict[str, Any], *, lost: bool = False) -> None:
        """Add a line; the steps of a lost one were done again."""
        whole = max(1, sum(line["ns"].values()))
        for kind, ns in line["ns"].items():
            share = self.shares["lost" if lost and kind in _STEPS else kind]
            share.ns += ns
            share.kwh += line["kwh"] * ns / whole
            share.usd += line["usd"] * ns / whole
        self.shares["lost" if lost else "compute"].tokens += line["tokens"]
        self.shares["lost"].tokens += line["tokens_left_out"]
        self.energy.add(line["energy"])
        self.price.add(line["price"])


def total(lines: Iterable[dict[str, Any]], next_step: tuple[str, int] | None = None) -> Totals:
    """Add lines up. Steps from the first of a later line of the same loop on, or from `next_step` on, were lost."""
    totals, kept = Totals(), defaultdict[str, list[dict[str, Any]]](list)

    def lose(loop: str, step: int) -> None:
        while kept[loop] and kept[loop][-1]["first"] + kept[loop][-1]["steps"] > step:
            before, after = _cut(kept[loop].pop(), step)
            totals.add(after, lost=True)
            if before["steps"]:
                kept[loop].append(before)

    for line in lines:
        if line["steps"]:
            lose(line["loop"], line["first"])
            kept[line["loop"]].append(line)
        else:
            totals.add(line)
    if next_step:
        lose(*next_step)
    for line in (one for lines_of_loop in kept.values() for one in lines_of_loop):
        totals.add(line)
    return totals


def _cut(line: dict[str, Any], step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A line as two, the second from this step on; within a line all steps count alike."""
    steps = max(0, step - line["first"])
    before = {
        "steps": steps,
        "ns": {kind: ns * steps // line["steps"] for kind, ns in line["ns"].items()},
        "tokens": line["tokens"] * steps // line["steps"],
        "tokens_left_out": line["tokens_left_out"] * steps // line["steps"],
    }
    after = {
        "first": line["first"] + steps,
        "steps": line["steps"] - steps,
        "ns": {kind: ns - before["ns"][kind] for kind, ns in line["ns"].items()},
        "tokens": line["tokens"] - before["tokens"],
        "tokens_left_out": line["tokens_left_out"] - before["tokens_left_out"],
    }
    share = sum(before["ns"].values()) / max(1, sum(line["ns"].values()))
    of_before, of_after = ({name: line[name] * part for name in ("kwh", "usd")} for part in (share, 1 - share))
    return line | before | of_before, line | after | of_after


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines below a stage's folder, none where there is no ledger; a line that a kill cut short is left out."""
    path = folder / FILE
    return [json.loads(one) for one in path.read_text().splitlines(True) if one[-1] == "\n"] if path.is_file() else []


@dataclass
class _Stretch:
    """A line in the making."""

    first: int  # step
    steps: int = 0
    tokens: int = 0  # of steps that count
    tokens_left_out: int = 0
    ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


class Goodput:
    """Keeps the ledger of this process's share of a run; time is of one kind at any moment."""

    def __init__(self, folder: Path, machines: Machines, now: Callable[[], int] | None = None) -> None:
        self._folder, self._machines, self._now = folder, machines, now or _steady_clock()
        before = read_lines(folder)
        self._before = total(before)
        self._until = self._at = before[-1]["until"] if before else self._now()
        self._set_back = max(0, self._at - self._now())  # the clock, since the last process: its time away is not known
        self.kind = "restart" if before else "start"
        self._energy = EnergyMeter(machines.watts, machines.devices)
        self._lines = JsonLines(folder / FILE)
        self._loop, self._next, self._told_until = "", 0, 0
        self._before_step: dict[str, int] = {}
        self._begin_line()

    def turn_to(self, kind: str) -> str:
        """From now on time is of this kind; returns the kind until now."""
        now = self._now() + self._set_back
        self._line.ns[self.kind] += now - self._at
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
        if step != self._next:  # the run went back to a checkpoint; the line ended with the step before
            self._go_to(step)
        self.turn_to(self.kind)
        line = self._line
        if left_out:
            for kind in _STEPS:
                line.ns["lost"] += line.ns[kind] - self._before_step[kind]
                line.ns[kind] = self._before_step[kind]
            line.tokens_left_out += tokens
        else:
            line.tokens += tokens
        line.steps, self._next, self._before_step = line.steps + 1, step + 1, dict(line.ns)
        if left_out or self._at - self._until >= _EVERY_NS:
            self._write()

    def share(self) -> float:
        """Goodput from the first start until now."""
        good = self._before.good_ns + sum(self._line.ns[kind] for kind in _STEPS)
        return good / max(1, self._before.wall_ns + self._at - self._until)

    def values(self) -> dict[tuple[str, ...], float]:
        """Seconds, tokens, kWh and US dollars of each kind, by name and kind; none until a line has been added."""
        found: dict[tuple[str, ...], float] = {}
        if self._told_until == self._until:
            return found
        self._told_until = self._until
        for kind, share in self._before.shares.items():
            found["seconds", kind] = share.ns / 1e9
            found["kwh", kind], found["usd", kind] = share.kwh, share.usd
            if kind in ("compute", "lost"):
                found["tokens", kind] = share.tokens
        return found

    def close(self) -> None:
        """Write what has passed since the last line."""
        self.turn_to("idle")
        self._write()
        self._lines.close()

    def _go_to(self, step: int) -> None:
        self._next = self._line.first = step
        self._before = total(read_lines(self._folder), (self._loop, step))

    def _begin_line(self) -> None:
        self._line = _Stretch(self._next)
        self._before_step = dict(self._line.ns)

    def _write(self) -> None:
        seconds = (self._at - self._until) / 1e9
        kwh, energy = self._energy.since_last(seconds)
        usd, price = self._machines.cost(seconds, kwh)
        line = {"until": self._at, "loop": self._loop, **asdict(self._line)}
        line |= {"kwh": kwh, "energy": energy, "usd": usd, "price": price}
        self._lines.append(line)
        self._before.add(line)
        self._until = self._at
        self._begin_line()


def _steady_clock() -> Callable[[], int]:
    """Nanoseconds since 1970 as they were when it was made, and steady since: the system's clock may be set."""
    offset = time.time_ns() - time.monotonic_ns()
    return lambda: offset + time.monotonic_ns()
