"""What is done, stale, running or damaged in a run folder; looks, touches nothing."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from wingspan.errors import WingspanError
from wingspan.stages import STAGES, state
from wingspan.units import count, duration, size
from wingspan.workspace import Run, is_locked, verify


def describe(run: Run, *, verify: bool = False) -> list[dict[str, Any]]:
    """One record per stage: stage, state (absent, done, stale, running, damaged), figures, problem."""
    running = _running(run)
    return [_describe_stage(run, spec.name, running, check=verify) for spec in STAGES]


def _describe_stage(run: Run, name: str, running: dict[str, Any] | None, *, check: bool) -> dict[str, Any]:
    spec = next(one for one in STAGES if one.name == name)
    record: dict[str, Any] = {"stage": name, "state": state(run, spec)}
    if running and running["stage"] == name:
        return record | {"state": "running", "progress": running}
    manifest = run.manifest(name)
    if manifest:
        record |= {key: manifest[key] for key in ("finished_at", "wall_s", "peak_memory_bytes")}
    if check and manifest:
        try:
            verify(run, name)
        except WingspanError as error:
            record |= {"state": "damaged", "problem": str(error)}
    return record


def _running(run: Run) -> dict[str, Any] | None:
    """What the process that holds the lock last said of its work."""
    if not is_locked(run):
        return None
    try:
        progress: dict[str, Any] = json.loads((run.folder / "progress.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return progress


_STYLES = {"done": "green", "stale": "yellow", "running": "cyan", "absent": "dim", "damaged": "bold red"}


def table(records: list[dict[str, Any]]) -> Table:
    """The records as a person reads them."""
    view = Table("stage", "state", "time", "peak memory", "finished", "", box=None, pad_edge=False)
    for record in records:
        progress = record.get("progress")
        note = record.get("problem", "")
        if progress:
            whole = f" of {count(progress['total'])}" if progress["total"] else ""
            note = f"{progress['task']}: {count(progress['done'])}{whole} {progress['unit']} {progress['note']}"
        view.add_row(
            record["stage"],
            f"[{_STYLES[record['state']]}]{record['state']}[/]",
            duration(record["wall_s"]) if "wall_s" in record else "",
            size(record["peak_memory_bytes"]) if "peak_memory_bytes" in record else "",
            record.get("finished_at", ""),
            note,
        )
    return view
