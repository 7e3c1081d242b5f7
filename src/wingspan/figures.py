"""A number shown to a person, with what it rests on: measured, published or predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Basis = Literal["measured", "published", "predicted"]


@dataclass(frozen=True)
class Figure:
    """A value with its unit and its basis; predictions carry a 90% band [low, high]."""

    value: float
    unit: str
    basis: Basis
    source: str = ""
    low: float | None = None
    high: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields that are known."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


def measured(value: float, unit: str, source: str = "") -> Figure:
    """A value that this run measured."""
    return Figure(value, unit, "measured", source)


def published(value: float, unit: str, source: str) -> Figure:
    """A value that somebody published; `source` says who."""
    return Figure(value, unit, "published", source)


def within(value: float, unit: str, band: tuple[float, float], source: str = "") -> Figure:
    """A prediction whose 90% band is `value` times the two shares."""
    return Figure(value, unit, "predicted", source, value * band[0], value * band[1])


def predicted(value: float, unit: str, *, error: float, source: str = "") -> Figure:
    """A prediction whose 90% band is `value` times (1 - error) to (1 + error); `error` is a fraction."""
    return Figure(value, unit, "predicted", source, value * (1 - error), value * (1 + error))
