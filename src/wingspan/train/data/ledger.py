"""The ledger: which samples each step consumed, so that exactly-once can be proved after any crash.

One JSON line per step. A run that fell back to a checkpoint repeats steps; the last line of a step
counts, because its weights are the ones that went on. A run that went back from a spike repeats steps with later
samples: those between were passed over, and the ledger shows it, as they have lines that do not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wingspan.errors import WorkError

FILE = "steps.jsonl"  # below ledger/


@dataclass(frozen=True)
class Entry:
    """A step: the numbers of its first sample and of samples, tokens predicted, whether it was skipped."""

    step: int
    first: int
    samples: int
    tokens: int
    skipped: bool = False


@dataclass(frozen=True)
class Audit:
    """What a ledger proves: samples and tokens used, samples passed over, steps repeated after a resume, skipped."""

    steps: int
    samples: int
    passed_over: int
    tokens: int
    repeated: int
    skipped: int


class JsonLines:
    """A file of JSON lines to append to, each line written at once; a torn last line is cut off first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab+")
        self._stream.seek(0)
        self._stream.truncate(self._stream.read().rfind(b"\n") + 1)

    def append(self, record: dict[str, Any]) -> None:
        """Add one line."""
        self._stream.write((json.dumps(record) + "\n").encode())
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def entries(folder: Path) -> Iterator[Entry]:
    """All lines of a ledger, in the order they were written; one that a kill cut short is none."""
    for line in (folder / FILE).read_text().rpartition("\n")[0].splitlines():
        yield Entry(**json.loads(line))


def audit(folder: Path) -> Audit:
    """Prove that the steps used each sample number at most once, in order, and that gaps are spikes passed over.

    Raises WorkError naming the first step that did not.
    """
    lines = list(entries(folder))
    last = {entry.step: entry for entry in lines}
    tried = {entry.first: entry.samples for entry in lines}
    expected = passed_over = 0
    for number, step in enumerate(sorted(last)):
        entry = last[step]
        reached = expected
        while reached < entry.first and reached in tried:
            reached += tried[reached]
        if step != number or reached != entry.first:
            raise WorkError(
                f"step {step} starts at sample {entry.first}, expected step {number} at {expected}",
                where=folder / FILE,
                remedy="The run used some samples twice or never; train again",
            )
        passed_over += entry.first - expected
        expected = entry.first + entry.samples
    used = last.values()
    return Audit(
        steps=len(last),
        samples=sum(entry.samples for entry in used),
        passed_over=passed_over,
        tokens=sum(entry.tokens for entry in used),
        repeated=len(lines) - len(last),
        skipped=sum(entry.skipped for entry in used),
    )
