"""Shared by all rooms' tests: one thread per process, offline hubs, and no silent skips."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of shared data run where the data is; browser tests where Chromium is."""
    without_data = [item for item in items if item.get_closest_marker("shared_data") and not _shared()]
    if without_data:
        config.hook.pytest_deselected(items=without_data)
        items[:] = [item for item in items if item not in without_data]
    for item in items:
        if item.get_closest_marker("browser") and CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason="needs Chromium; enable with: sudo apt-get install chromium"))


def _shared() -> Path | None:
    folder = os.environ.get("WINGSPAN_SHARED")
    return Path(folder) if folder and Path(folder).is_dir() else None


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets that are not part of the project."""
    folder = _shared()
    assert folder is not None, "mark tests that use shared_data with @pytest.mark.shared_data"
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    assert CHROMIUM is not None, "mark tests that use chromium with @pytest.mark.browser"
    return CHROMIUM


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped and the command that would enable it; in CI a skip is a failure."""
    skipped = terminalreporter.stats.get("skipped", [])
    for reason in sorted({report.longrepr[2] for report in skipped}):
        terminalreporter.write_line(f"not run: {reason.removeprefix('Skipped: ')}", yellow=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("WINGSPAN_FAIL_ON_SKIP") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = 1
