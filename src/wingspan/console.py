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
from rich.table import Column
from rich.text import Text

from wingspan import units
from wingspan.errors import WingspanError
from wingspan.progress import ProgressFile, Task

output = Console(highlight=False)
notices = Console(stderr=True, highlight=False)


_FINISHED_SHOWN = 8  # bars: a stage of many steps must not fill the screen


class _Rate(ProgressColumn):
    """`12.3k / 40k tokens, 410/s`."""

    def render(self, task: Bar) -> Text:
        unit = task.fields["unit"]
        done = units.count(task.completed)
        whole = f"/{units.count(task.total)}" if task.total else ""
        speed = task.finished_speed or task.speed
        rate = f", {units.count(round(speed, 1 if speed < 10 else 0))}/s" if speed else ""
        return Text(f"{done}{whole} {unit}{rate}", style="dim")


class _Note(ProgressColumn):
    """What a task says beside its bar, cut where the terminal ends: all other columns keep their width."""

    def render(self, task: Bar) -> Text:
        return Text(task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis")


class TerminalProgress:
    """Draws the bars of one stage on stderr and keeps `progress.json` for other processes."""

    def __init__(self, stage: str, file: Path | None, *, quiet: bool = False) -> None:
        self._file = ProgressFile(file, stage) if file else None
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24, complete_style="cyan", finished_style="green", table_column=Column(no_wrap=True)),
            _Rate(table_column=Column(no_wrap=True)),
            _Note(),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("[dim]left", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=notices,
            disable=quiet or not notices.is_terminal,
        )
        self._quiet = quiet
        self._finished: list[Any] = []

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
        if not task.note:  # a bar that says something beside itself stays
            self._finished.append(identifier)
        if len(self._finished) > _FINISHED_SHOWN:
            self._bars.update(self._finished.pop(0), visible=False)

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
        self.note = ""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Say that `amount` more units are done."""
        self.done += amount
        self.note = note
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
