"""The ledger proves exactly-once, and says where that broke."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from wingspan.errors import WorkError
from wingspan.train.data.ledger import FILE, Audit, Entry, JsonLines, audit


def write(folder: Path, steps: list[tuple[int, int]]) -> None:
    ledger = JsonLines(folder / FILE)
    for step, first in steps:
        ledger.append(asdict(Entry(step, first, samples=8, tokens=100)))
    ledger.close()


def test_steps_repeated_after_a_crash_count_once(tmp_path: Path) -> None:
    write(tmp_path, [(0, 0), (1, 8), (2, 16)])
    with (tmp_path / FILE).open("a") as stream:
        stream.write('{"step": 3, "fir')  # the line that kill -9 tore
    write(tmp_path, [(2, 16), (3, 24)])
    assert audit(tmp_path) == Audit(steps=4, samples=32, passed_over=0, tokens=400, repeated=1, skipped=0)


@pytest.mark.parametrize("steps", [[(0, 0), (1, 16)], [(0, 0), (1, 0)], [(0, 0), (2, 8)], [(1, 0)]])
def test_gaps_and_repetitions_are_found(tmp_path: Path, steps: list[tuple[int, int]]) -> None:
    write(tmp_path, steps)
    with pytest.raises(WorkError, match="expected step"):
        audit(tmp_path)
