"""The terminal: progress bars with rate and time left, one form for errors, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.text import Text

from wingspan import units
from wingspan.errors import WingspanError
from wingspan.progress import ProgressFile, Task

output = Console(highlight=False)
notices = Console(stderr=True, highlight=False)


class _Rate(ProgressColumn):
    """`12.3k / 40k tokens, 410/s`."""

    def render(self, task: Bar) -> Text:
        unit = task.fields["unit"]
        done = units.count(task.completed)
        whole = f"/{units.count(task.total)}" if task.total else ""
        speed = task.finished_speed or task.speed
        rate = f", {units.count(round(speed, 1 if speed < 10 else 0))}/s" if speed else ""
        return Text(f"{done}{whole} {unit}{rate}", style="dim")


class TerminalProgress:
    """Draws the bars of one stage on stderr and keeps `progress.json` for other processes."""

    def __init__(self, stage: str, file: Path | None, *, quiet: bool = False) -> None:
        self._file = ProgressFile(file, stage) if file else None
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24, complete_style="cyan", finished_style="green"),
            _Rate(),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(compact=True),
            console=notices,
            disable=quiet or not notices.is_terminal,
        )
        self._quiet = quiet

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """One bar; see `wingspan.progress.Progress`."""
        identifier = self._bars.add_task(name, total=total, unit=unit, note="")
        task = _TerminalTask(self._bars, identifier, self._file, name, total, unit)
        yield task
        if total is None:
            self._bars.update(identifier, total=task.done, completed=task.done)

    def say(self, line: str) -> None:
        """A line above the bars."""
        if not self._quiet:
            self._bars.console.print(f"  {line}", style="dim", markup=False)


class _TerminalTask:
    def __init__(
        self, bars: Bars, identifier: Any, file: ProgressFile | None, name: str, total: float | None, unit: str
    ) -> None:
        self._bars, self._identifier, self._file = bars, identifier, file
        self._name, self._total, self._unit = name, total, unit
        self.done = 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Say that `amount` more units are done."""
        self.done += amount
        self._bars.update(self._identifier, advance=amount, note=note)
        if self._file:
            self._file.update(self._name, self.done, self._total, self._unit, note)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()  # a server's first line must reach a pipe at once


def print_error(error: WingspanError) -> None:
    """`error: what` and below it where and what to do, on stderr."""
    notices.print(Text.assemble(("error: ", "bold red"), error.problem), soft_wrap=True)
    if error.where:
        notices.print(Text.assemble(("   at: ", "dim"), error.where), soft_wrap=True)
    if error.remedy:
        notices.print(Text.assemble(("   do: ", "dim"), error.remedy), soft_wrap=True)
