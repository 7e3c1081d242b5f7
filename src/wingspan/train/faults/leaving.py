"""Leaving when asked to: a scheduler that wants its machines back sends SIGTERM, and the run saves and goes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wingspan.errors import LEFT, WorkError


class Left(WorkError):
    """The run was asked to end, and has saved: exit code 76, which no crash has and a supervisor may wait upon."""

    exit_code = LEFT


@contextmanager
def asked_to_leave() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; outside of the main thread nothing does."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
