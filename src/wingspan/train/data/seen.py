"""Which steps of a training run learned from which documents: the ledger and the order of samples say it exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wingspan.train.data.batches import TokenSplit
from wingspan.train.data.ledger import entries
from wingspan.train.data.order import Indices, sample_indices

_BLOCK = 1 << 20  # sample numbers looked at together


def steps_that_learned(ledger: Path, posts: TokenSplit, documents: Indices, sequence: int, seed: int) -> list[int]:
    """Steps, in order, whose samples held any of these documents (rows of `posts`) and whose update was made.

    `sequence` and `seed` are those of the run. A step that was repeated counts as it was done last.
    """
    samples, size = posts.samples_with(documents, sequence)
    last = {entry.step: entry for entry in entries(ledger)}
    steps = [last[step] for step in sorted(last)]
    ends = np.array([entry.first + entry.samples for entry in steps], dtype=np.int64)
    if not samples.size or not steps:
        return []
    found: set[int] = set()
    for first in range(0, int(ends[-1]), _BLOCK):
        numbers = np.arange(first, min(first + _BLOCK, int(ends[-1])))
        hits = numbers[np.isin(sample_indices(first, len(numbers), size, seed), samples)]
        found.update(
            number
            for number, hit in zip(np.searchsorted(ends, hits, side="right"), hits, strict=True)
            if steps[number].first <= hit and not steps[number].skipped
        )
    return [steps[number].step for number in sorted(found)]
