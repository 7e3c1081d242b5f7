"""Months of a run in seconds: interruptions strike, nodes are swapped, work is lost and done again.

A discrete-event simulation, written as one NumPy loop over the interruptions that treats all lives at once: a life is
one seed under one way to operate the run. Interruptions are a Poisson process of the clock, whatever the run is doing,
so they can be drawn before; every operation faces the same ones, and only the state after each is carried along.
(SimPy would spend a generator per node: 100 lives x 90 days x 10,240 devices in minutes, not seconds.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingspan.rehearse.failures import Cause, causes

Floats = NDArray[np.float64]

LOSSES = (
    "work done again",
    "restarts",
    "waiting for nodes",
    "site down",
    "checkpoints",
    "maintenance",
    "running slower",
)
_HOURS = 24.0
_SLOTS, _SLOTS_PER_NODE_AWAY = 16, 4  # repairs remembered: never as few as can be under way at a time


@dataclass(frozen=True)
class Campaign:
    """A run to live through: `work_h` hours of uninterrupted steps at full speed, at most `days` days of clock."""

    nodes: int
    work_h: float
    days: float
    restart_h: float
    failure_scale: float = 1.0  # of the catalogue's rates per node
    maintenance_every_days: float = 0.0  # a planned window, of
    maintenance_h: float = 0.0
    speed: float = 1.0  # of full speed: heat, a power cap


@dataclass(frozen=True)
class Operation:
    """How the run is operated: what the people in charge may choose.

    A checkpoint every `interval_h` stops the step for `stall_h`; a second one in other nodes' memory every
    `memory_interval_h` (0: none) costs nothing and survives what its cause says. With `replicas` > 1 that carry on
    without the one that lost a node, a restart costs the fleet only that replica's share.
    """

    interval_h: float
    stall_h: float
    spares: int
    memory_interval_h: float = 0.0
    replicas: int = 1


@dataclass(frozen=True)
class Lives:
    """What became of each life: arrays over seeds (and over LOSSES). `finished_day` is inf where the clock ran out."""

    kept_h: Floats
    clock_h: Floats
    finished_day: Floats
    interruptions: Floats
    lost_h: Floats  # (seeds, len(LOSSES))

    @property
    def goodput(self) -> Floats:
        """Hours of steps that were kept, at full speed, over hours of the clock."""
        return self.kept_h / self.clock_h


@dataclass(frozen=True)
class _Strikes:
    """What interrupts each seed, in order of time, (seeds, most events); time is inf past the last."""

    at_h: Floats
    nodes_lost: Floats
    down_h: Floats
    repair_h: Floats
    lag_h: Floats
    memory_copy_survives: NDArray[np.bool_]
    planned: NDArray[np.bool_]


def live(
    campaign: Campaign, operations: Sequence[Operation], seeds: int, seed: int, catalogue: Sequence[Cause] | None = None
) -> list[Lives]:
    """The lives of a run under each operation, `seeds` of them, all operations facing the same interruptions."""
    return _replay(campaign, operations, _draw(campaign, seeds, seed, catalogue or causes()))


def _draw(campaign: Campaign, seeds: int, seed: int, catalogue: Sequence[Cause]) -> _Strikes:
    """Interruptions at random, and the planned windows before which the run saves."""
    rng = np.random.default_rng(seed)
    rates = np.array([cause.per_day(campaign.nodes, campaign.failure_scale) for cause in catalogue])
    counts = rng.poisson(rates.sum() * campaign.days, seeds)
    random_h = rng.uniform(0, campaign.days * _HOURS, (seeds, int(counts.max())))
    random_h[np.arange(random_h.shape[1]) >= counts[:, None]] = np.inf
    random_cause = rng.choice(len(catalogue), random_h.shape, p=rates / rates.sum())

    every = campaign.maintenance_every_days or campaign.days
    windows_h = np.tile(np.arange(every, campaign.days, every) * _HOURS, (seeds, 1))
    window = Cause("maintenance", 0, 0, 0, campaign.maintenance_h, 0, True, 0, "")

    at_h = np.concatenate([random_h, windows_h], axis=1)
    which = np.concatenate([random_cause, np.full(windows_h.shape, len(catalogue))], axis=1)
    order = np.argsort(at_h, axis=1, kind="stable")
    at_h, which = np.take_along_axis(at_h, order, axis=1), np.take_along_axis(which, order, axis=1)

    def of_cause(field: str) -> Floats:
        return np.take(np.array([getattr(cause, field) for cause in (*catalogue, window)], dtype=float), which)

    return _Strikes(
        at_h=at_h,
        nodes_lost=of_cause("nodes_lost"),
        down_h=of_cause("down_h"),
        repair_h=of_cause("repair_h") * rng.exponential(size=which.shape),
        lag_h=of_cause("lag_h") * rng.exponential(size=which.shape),
        memory_copy_survives=of_cause("memory_copy_survives") > 0,
        planned=which == len(catalogue),
    )


def _replay(campaign: Campaign, operations: Sequence[Operation], strikes: _Strikes) -> list[Lives]:
    """Go through the interruptions in order, all lives at once: arrays are (operations, seeds)."""
    lives = _LivesSoFar(campaign, operations, seeds=len(strikes.at_h))
    away = _NodesAway(campaign, strikes)
    for event in range(strikes.at_h.shape[1]):
        at = np.minimum(strikes.at_h[:, event], lives.end_h)
        ran = lives.run_until(at)
        away.add(at, strikes.nodes_lost[:, event], strikes.repair_h[:, event])
        lives.interrupt(at, ran, strikes, event, away)
    lives.run_until(np.full(len(strikes.at_h), lives.end_h))
    return lives.per_operation()


class _NodesAway:
    """When the nodes that broke return, (seeds, slots), latest first; what the spares do not cover is waited for."""

    def __init__(self, campaign: Campaign, strikes: _Strikes) -> None:
        on_average = (strikes.nodes_lost * strikes.repair_h).sum() / len(strikes.at_h) / (campaign.days * _HOURS)
        self.back_h = np.full((len(strikes.at_h), _SLOTS + int(_SLOTS_PER_NODE_AWAY * on_average)), -np.inf)

    def add(self, at: Floats, nodes: Floats, repair_h: Floats) -> None:
        """Nodes break at `at`, all (seeds,). The slots that are overwritten are those that returned first."""
        for number in range(int(nodes.max(initial=0))):
            self.back_h[:, -1 - number] = np.where(nodes > number, at + repair_h, self.back_h[:, -1 - number])
        self.back_h = -np.sort(-self.back_h, axis=1)

    def wait_h(self, at: Floats, spares: NDArray[np.int64]) -> Floats:
        """Hours until no more nodes are away than there are spares, (operations, seeds)."""
        covered = spares >= self.back_h.shape[1]
        back_h = self.back_h[:, np.minimum(spares, self.back_h.shape[1] - 1)].T
        return np.where(covered[:, None], 0.0, np.maximum(back_h - at, 0.0))


class _LivesSoFar:
    """The state of all lives between two interruptions; arrays are (operations, seeds), in hours."""

    def __init__(self, campaign: Campaign, operations: Sequence[Operation], seeds: int) -> None:
        def chosen(field: str) -> Floats:
            return np.array([getattr(one, field) for one in operations], dtype=float)[:, None]

        self.campaign = campaign
        self.interval, self.stall, self.memory_interval = map(chosen, ("interval_h", "stall_h", "memory_interval_h"))
        self.replicas, self.spares = chosen("replicas"), chosen("spares").astype(np.int64)[:, 0]
        self.end_h = campaign.days * _HOURS
        nothing = np.zeros((len(operations), seeds))
        self.kept, self.resumes, self.interruptions = nothing, nothing, nothing
        self.finished = np.full_like(nothing, np.inf)
        self.lost = dict.fromkeys(LOSSES, nothing)

    def run_until(self, at: Floats) -> Floats:
        """Run from when the steps resume to `at` or the end of the work; returns the hours run."""
        cycle = self.interval + self.stall
        pace = self.campaign.speed * self.interval / cycle  # hours of work in an hour of running
        ends = self.resumes + (self.campaign.work_h - self.kept) / pace
        running = np.isinf(self.finished)
        ran = np.where(running, np.maximum(np.minimum(at, ends) - self.resumes, 0.0), 0.0)
        self.finished = np.where(running & (ends <= at), ends, self.finished)
        self.kept = self.kept + ran * pace
        self.resumes = self.resumes + ran
        self._lose("checkpoints", ran * self.stall / cycle)
        self._lose("running slower", ran * self.interval / cycle * (1 - self.campaign.speed))
        return ran

    def interrupt(self, at: Floats, ran: Floats, strikes: _Strikes, event: int, away: _NodesAway) -> None:
        """Stop at `at` after `ran` hours: back to the last checkpoint, wait for nodes, restart."""
        struck = np.isinf(self.finished) & (at < self.end_h)
        planned, nodes, lag = strikes.planned[:, event], strikes.nodes_lost[:, event], strikes.lag_h[:, event]
        carries_on = (self.replicas > 1) & (nodes > 0) & (lag == 0)  # the other replicas do, and lose nothing

        again = (self._since_checkpoint(ran, strikes.memory_copy_survives[:, event]) + lag) * self.campaign.speed
        again = np.where(struck & ~planned & ~carries_on, np.minimum(again, self.kept), 0.0)
        self.kept = self.kept - again
        self._lose("work done again", again)

        share = np.where(carries_on, 1 / self.replicas, 1.0)  # of the fleet that stands still
        still = {
            "restarts": self.campaign.restart_h * share,
            "waiting for nodes": away.wait_h(at, self.spares) * share,
            "maintenance": np.where(planned, strikes.down_h[:, event], 0.0),
            "site down": np.where(planned, 0.0, strikes.down_h[:, event]),
        }
        total = sum(still.values(), np.zeros_like(self.kept))
        before = np.maximum(self.resumes, at)
        after = np.minimum(np.maximum(self.resumes, at + total), self.end_h)
        for name, hours in still.items():  # an interruption during a restart prolongs it, and is not counted twice
            self._lose(name, np.where(struck & (total > 0), (after - before) * hours / np.maximum(total, 1e-12), 0.0))
        self.resumes = np.where(struck, after, self.resumes)
        self.interruptions = self.interruptions + struck

    def _since_checkpoint(self, ran: Floats, copy_survives: NDArray[np.bool_]) -> Floats:
        """Hours of work since the last checkpoint that survived; a stretch of running begins at one."""
        stored = np.minimum(ran % (self.interval + self.stall), self.interval)
        every = np.where(self.memory_interval > 0, self.memory_interval, np.inf)
        return np.where(copy_survives, np.minimum(stored, np.mod(ran, every)), stored)

    def _lose(self, name: str, hours: Floats) -> None:
        self.lost[name] = self.lost[name] + hours

    def per_operation(self) -> list[Lives]:
        """The lives of each operation."""
        clock = np.minimum(self.finished, self.end_h)
        lost = np.stack(list(self.lost.values()), axis=-1)
        columns = zip(self.kept, clock, self.finished / _HOURS, self.interruptions, lost, strict=True)
        return [Lives(*column) for column in columns]
