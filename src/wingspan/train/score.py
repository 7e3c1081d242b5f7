"""Bits per byte of held-out posts: how well a model predicts text it never saw, whatever its tokenizer."""

from __future__ import annotations

import math

import numpy as np
import torch

from wingspan.progress import Progress
from wingspan.train.data import TokenSplit
from wingspan.train.parallel import Part


def bits_per_byte(
    part: Part, split: TokenSplit, sequence: int, global_batch: int, progress: Progress, name: str
) -> float | None:
    """Sum of -log2 p(token) over the UTF-8 bytes of the documents; None without documents. Every rank calls this."""
    if not split.bytes.sum():
        return None
    batches = split.packed(sequence)
    rows = global_batch // part.layout.data_parallel
    nats = torch.zeros((), dtype=torch.float64, device=part.device)
    with progress.task(name, len(batches), "sequences") as task:
        for first in range(0, len(batches), global_batch):
            mine = np.arange(first + part.data_rank * rows, first + (part.data_rank + 1) * rows)
            batch = batches.batch(mine[mine < len(batches)])
            if part.mesh is not None:  # ranks keep in step, so all work on equally many rows
                batch = batch.padded(rows)
            nats += part.loss(batch.to(part.device))
            task.advance(min(global_batch, len(batches) - first))
    return float(part.sum_over_data(nats).item()) / math.log(2) / float(split.bytes.sum())
