"""What every benchmark ends with: a table of targets and, for machines, one JSON object on the last line."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

Figures = dict[str, float]
Targets = dict[str, tuple[float, float, bool]]  # name -> (value, target, lower is better)


def holds(value: float, target: float, lower: bool) -> bool:
    """Whether a value meets its target."""
    return value <= target if lower else value >= target


def as_json(figures: Figures, targets: Targets, library: str) -> dict[str, Any]:
    """The object of --json; `library` is the one whose version decides the speed."""
    return {
        "figures": figures,
        "targets": {
            name: {"value": value, "target": target, "holds": holds(value, target, lower)}
            for name, (value, target, lower) in targets.items()
        },
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), library: version(library)},
    }


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)
