"""The terminal: progress bars with rate and time left, one form for errors, JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
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


_LINE_EVERY_S = 30.0  # where bars cannot be drawn
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
    """What a finished task said last, cut where the terminal ends: all other columns keep their width."""

    def render(self, task: Bar) -> Text:
        return Text(task.fields["note"] if task.finished else "", style="dim", no_wrap=True, overflow="ellipsis")


class _Bars(Bars):
    """Bars, and below them in full width what the running ones say."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"] and not task.finished:
                yield Text(f"  {task.fields['note'].replace(', ', ' · ')}", style="dim")


class TerminalProgress:
    """Draws the bars of one stage on stderr and keeps `progress.json` for other processes."""

    def __init__(self, stage: str, file: Path | None, *, quiet: bool = False) -> None:
        self._file = ProgressFile(file, stage) if file else None
        self._bars = _Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24, complete_style="cyan", finished_style="green", table_column=Column()),  # gives way
            _Rate(table_column=Column(no_wrap=True)),
            _Note(),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("[dim]left", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=notices,
            disable=quiet or not notices.is_terminal,
        )
        self._quiet = quiet
        self._said_at = time.monotonic()
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
        task = _TerminalTask(self._bars, identifier, self._file, name, total, unit, self._in_lines)
        yield task
        if total is None:
            self._bars.update(identifier, total=task.done, completed=task.done)
        if not task.note:  # a bar that says something beside itself stays
            self._finished.append(identifier)
        if len(self._finished) > _FINISHED_SHOWN:
            self._bars.update(self._finished.pop(0), visible=False)

    def _in_lines(self, identifier: Any) -> None:
        """Say now and then in a line what a bar would show, where there is no terminal for bars."""
        if not self._bars.disable or self._quiet or time.monotonic() - self._said_at < _LINE_EVERY_S:
            return
        self._said_at = time.monotonic()
        bar = self._bars.tasks[self._bars.task_ids.index(identifier)]
        left = f", {units.duration(bar.time_remaining)} left" if bar.time_remaining else ""
        note = f", {bar.fields['note']}" if bar.fields["note"] else ""
        self.say(f"{bar.description}: {_Rate().render(bar)}{left}{note}")

    def say(self, line: str) -> None:
        """A line above the bars."""
        if not self._quiet:
            self._bars.console.print(f"  {line}", style="dim", markup=False)


class _TerminalTask:
    def __init__(
        self,
        bars: Bars,
        identifier: Any,
        file: ProgressFile | None,
        name: str,
        total: float | None,
        unit: str,
        moved: Callable[[Any], None],
    ) -> None:
        self._bars, self._identifier, self._file, self._moved = bars, identifier, file, moved
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
        self._moved(self._identifier)


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
