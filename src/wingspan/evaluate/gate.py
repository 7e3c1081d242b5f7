"""A gate: bounds that scores must keep, so that a platform ships by rule."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from wingspan.errors import InputError, did_you_mean
from wingspan.project import NonNegativeFloat, Section

Scores = dict[str, Any]


class _NotWorse(Section):
    """[not_worse]: than another model of the run, or than the same model of another run, by more than `within`."""

    than: str = Field(description="'base', 'rival', a run folder or a scores.json")
    within: NonNegativeFloat = 0.0
    scores: tuple[str, ...] = Field(default=(), description="names; empty: all that both have")


class _Gates(Section):
    model: str = "assistant"
    at_least: dict[str, float] = Field(default_factory=dict)
    at_most: dict[str, float] = Field(default_factory=dict)
    not_worse: _NotWorse | None = None


@dataclass(frozen=True)
class Checked:
    """One rule on one score, and whether it is kept."""

    score: str
    value: float
    rule: Literal["at least", "at most"]
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the value is on the right side of the bound; on the bound is right."""
        return self.value >= self.bound if self.rule == "at least" else self.value <= self.bound


def check_gates(file: Path, scores: Scores) -> list[Checked]:
    """Every rule of a gates file on scores.json; raises InputError for a rule about what was not scored."""
    try:
        gates = _Gates.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise InputError(
            f"the gates cannot be read: {error}", where=file, remedy="docs/evaluate.md shows one"
        ) from error
    values = _values(scores, gates.model)
    checked = [Checked(name, _named(values, name, file), "at least", bound) for name, bound in gates.at_least.items()]
    checked += [Checked(name, _named(values, name, file), "at most", bound) for name, bound in gates.at_most.items()]
    if gates.not_worse:
        checked += _compared(gates.not_worse, values, scores, gates.model, file)
    if not checked:
        raise InputError("the file has no gate", where=file, remedy="Write [at_least], [at_most] or [not_worse]")
    return checked


def _compared(rule: _NotWorse, values: dict[str, float], scores: Scores, model: str, file: Path) -> Iterator[Checked]:
    if rule.than in scores["models"]:
        others = _values(scores, rule.than)
    else:
        path = file.parent / rule.than
        path = path / "evaluate/scores.json" if path.is_dir() else path
        others = _values(json.loads(path.read_text(encoding="utf-8")), model)
    higher = {row["name"]: row["higher_is_better"] for row in scores["tasks"]}
    for name in rule.scores or [name for name in values if name in others]:
        value, other = _named(values, name, file), _named(others, name, file)
        if higher[name]:
            yield Checked(name, value, "at least", other - rule.within)
        else:
            yield Checked(name, value, "at most", other + rule.within)


def _values(scores: Scores, model: str) -> dict[str, float]:
    return {row["name"]: row["scores"][model]["value"] for row in scores["tasks"] if model in row["scores"]}


def _named(values: dict[str, float], name: str, file: Path) -> float:
    if name not in values:
        raise InputError(
            f"there is no score '{name}'", where=file, remedy=did_you_mean(name, values, "These were scored")
        )
    return values[name]
