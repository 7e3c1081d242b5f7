"""What every benchmark ends with: a table of targets and, for machines, one JSON object on the last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from typing import Any

Figures = dict[str, float]
Targets = dict[str, tuple[float, float, bool]]  # name -> (value, target, lower is better)


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; `about` is its docstring."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="end within 50 s")
    made.add_argument("--json", action="store_true", help="one JSON object on the last line")
    return made


def finish(figures: Figures, targets: Targets, library: str, as_json: bool, **more: Any) -> None:
    """Print the targets and, for machines, everything; `library` is the one whose version decides the speed."""
    judged = {
        name: {"value": value, "target": target, "holds": value <= target if lower else value >= target}
        for name, (value, target, lower) in targets.items()
    }
    say(f"\n{'target':<36} {'value':>12} {'target':>12}")
    for name, one in judged.items():
        say(f"{name:<36} {one['value']:>12.4g} {one['target']:>12.4g}  {'holds' if one['holds'] else 'DOES NOT HOLD'}")
    if as_json:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), library: version(library)}
        print(json.dumps({"figures": figures, "targets": judged, "machine": machine, **more}))


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)
