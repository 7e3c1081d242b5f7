"""What interrupts a run and how often: published rates, one row of failures.csv per cause."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Cause:
    """One cause of interruptions.

    `per_node_day` and `per_site_day` are rates, of which one is zero; the run stands still for `down_h` hours
    beyond its restart; `nodes_lost` nodes are away for `repair_h` hours on average; `lag_h` hours pass on average
    until the damage is noticed. Where `memory_copy_survives`, a checkpoint kept in the memory of other nodes does.
    """

    name: str
    per_node_day: float
    per_site_day: float
    nodes_lost: int
    down_h: float
    repair_h: float
    memory_copy_survives: bool
    lag_h: float
    source: str

    def per_day(self, nodes: int, scale: float = 1.0) -> float:
        """Interruptions a day of a run on `nodes` nodes that fail `scale` times as often as the source's."""
        return self.per_node_day * nodes * scale + self.per_site_day


@cache
def causes() -> tuple[Cause, ...]:
    """The catalogue."""
    with files(__package__).joinpath("failures.csv").open() as lines:
        return tuple(_cause(row) for row in csv.DictReader(lines))


def _cause(row: dict[str, str]) -> Cause:
    def rate(days: str) -> float:
        return float(row["events"]) / float(row[days]) if row[days] else 0.0

    return Cause(
        name=row["cause"],
        per_node_day=rate("node_days"),
        per_site_day=rate("site_days"),
        nodes_lost=int(row["nodes_lost"]),
        down_h=float(row["down_h"]),
        repair_h=float(row["repair_h"]),
        memory_copy_survives=row["memory_copy_survives"] == "yes",
        lag_h=float(row["lag_h"]),
        source=row["source"],
    )
