"""How well a model predicts what it never saw: loss, and bits per byte, which no tokenizer changes."""

from __future__ import annotations

import math

import numpy as np
import torch

from wingspan.progress import Progress
from wingspan.train.data.batches import Batches, TokenSplit
from wingspan.train.parallel.part import Part


def bits_per_byte(
    part: Part, split: TokenSplit, sequence: int, global_batch: int, progress: Progress, name: str
) -> float | None:
    """Sum of -log2 p(token) over the UTF-8 bytes of the documents; None without documents. Every rank calls this."""
    if not split.bytes.sum():
        return None
    nats = total_loss(part, split.packed(sequence), global_batch, progress, name)
    return nats / math.log(2) / float(split.bytes.sum())


def total_loss(part: Part, batches: Batches, global_batch: int, progress: Progress, name: str) -> float:
    """Sum of the cross-entropies, in nats, over all samples. Every rank calls this."""
    rows = global_batch // part.layout.data_parallel
    nats = torch.zeros((), dtype=torch.float64, device=part.device)
    part.model.eval()  # no expert's load is counted
    with progress.task(name, len(batches), "sequences") as task:
        for first in range(0, len(batches), global_batch):
            mine = np.arange(first + part.data_rank * rows, first + (part.data_rank + 1) * rows)
            batch = batches.batch(mine[mine < len(batches)])
            if part.mesh is not None:  # ranks keep in step, so all work on equally many rows
                batch = batch.padded(rows)
            nats += part.loss(batch.to(part.device))
            task.advance(min(global_batch, len(batches) - first))
    part.model.train()
    return float(part.sum_over_data(nats).item())
