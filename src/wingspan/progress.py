"""What long work says while it runs: steps done, rate, time left.

Stages depend only on `Progress` and `Task`. The command line draws them in the terminal;
tests and libraries use `SilentProgress`. Every progress also keeps `progress.json` in the run
folder up to date (at most once a second), which is what `wingspan status` reads.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Task(Protocol):
    """One bar."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Say that `amount` more units are done; `note` is shown beside the bar."""


class Progress(Protocol):
    """Where a stage reports."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Open a bar of `total` units (None: unknown length); it closes with the block."""
        ...

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        ...


class _SilentTask:
    def advance(self, amount: float = 1, note: str = "") -> None:
        pass


class SilentProgress:
    """Progress for tests and for use as a library."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """A bar that nobody sees."""
        yield _SilentTask()

    def say(self, line: str) -> None:
        """A line that nobody reads."""


class ProgressFile:
    """`progress.json`: what the running stage is doing, for other processes to read."""

    def __init__(self, path: Path, stage: str, every_s: float = 1.0) -> None:
        self._path = path
        self._stage = stage
        self._every_s = every_s
        self._last = 0.0

    def update(self, name: str, done: float, total: float | None, unit: str, note: str = "") -> None:
        """Write what is being done, unless that was done less than `every_s` ago."""
        now = time.time()
        if now - self._last < self._every_s and done != total:
            return
        self._last = now
        record = {
            "stage": self._stage,
            "task": name,
            "done": done,
            "total": total,
            "unit": unit,
            "note": note,
            "pid": os.getpid(),
            "time": now,
        }
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(self._path)
