"""What is done, stale, running or damaged in a run folder; looks, touches nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from wingspan.errors import WingspanError
from wingspan.report.record import read_record
from wingspan.stages import STAGES, state
from wingspan.train.telemetry.goodput import total
from wingspan.units import count, duration, money, size
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
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 60  # characters of a curve


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """Stage, state, time, peak memory, when it was finished, what it does now or what is wrong with it."""
    return [
        [
            record["stage"],
            record["state"],
            duration(record["wall_s"]) if "wall_s" in record else "",
            size(record["peak_memory_bytes"]) if "peak_memory_bytes" in record else "",
            record.get("finished_at", ""),
            _doing(record["progress"]) if "progress" in record else record.get("problem", ""),
        ]
        for record in records
    ]


def _doing(progress: dict[str, Any]) -> str:
    whole = f" of {count(progress['total'])}" if progress["total"] else ""
    note = f", {progress['note']}" if progress["note"] else ""
    return f"{progress['task']}: {count(progress['done'])}{whole} {progress['unit']}{note}"


def table(records: list[dict[str, Any]]) -> Table:
    """The records as a person reads them."""
    view = Table("stage", "state", "time", "peak memory", "finished", "", box=None, pad_edge=False)
    for stage, state_, *rest in rows(records):
        view.add_row(stage, f"[{_STYLES[state_]}]{state_}[/]", *map(escape, rest))
    return view


def screen(run: Run) -> Group:
    """The table and, below it, how train and align fare: their losses so far, and where their time went."""
    record = read_record(run, unfinished=True)
    parts: list[Any] = [table(describe(run)), ""]
    for name, lines in [("train", record.training), *((f"align: {one}", of) for one, of in record.aligning.items())]:
        if losses := [line["loss"] for line in lines if line["loss"] is not None]:
            parts.append(Text(f"{name} loss  {losses[0]:.3f} {curve(losses)} {losses[-1]:.3f}"))
    for stage, lines in record.goodput.items():
        if lines:
            totals = total(lines)
            shares = sorted(totals.shares.items(), key=lambda item: -item[1].ns)
            told = ", ".join(f"{kind} {100 * share.ns / totals.wall_ns:.0f}%" for kind, share in shares if share.ns)
            cost = sum(share.usd for share in totals.shares.values())
            parts.append(Text(f"{stage} goodput {100 * totals.goodput:.0f}%: {told}; {money(cost)}", style="dim"))
    return Group(*parts)


def curve(values: Sequence[float]) -> str:
    """Numbers as a line of blocks, each a mean of neighbours; the highest tenth is cut off."""
    width = min(_WIDTH, len(values))
    edges = [len(values) * place // width for place in range(width + 1)]
    means = [fmean(values[first:last]) for first, last in pairwise(edges)]
    low, high = min(means), sorted(means)[9 * (width - 1) // 10]  # the first losses would flatten all others
    return "".join(_BLOCKS[round((min(one, high) - low) / ((high - low) or 1) * (len(_BLOCKS) - 1))] for one in means)


def watch(run: Run, console: Console) -> None:
    """Draw the screen again every second, or as often as takes a tenth of the time, until interrupted."""
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            live.update(screen(run), refresh=True)
            time.sleep(max(1.0, 9 * (time.monotonic() - began)))
