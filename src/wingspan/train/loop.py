"""The training loop: `fit` is all of it. train feeds it posts, align feeds it conversations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from wingspan.progress import Progress
from wingspan.project import Optimizer
from wingspan.train.checkpoint import Checkpoints, Position
from wingspan.train.data import Batch, Batches
from wingspan.train.ledger import Entry
from wingspan.train.optimizer import Optimizers, make_optimizers, schedule
from wingspan.train.order import sample_indices
from wingspan.train.parallel import Part, gradient_norm, scale_gradients
from wingspan.train.record import Fitted, Record


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and with which record a model trains. `global_batch` counts sequences of all ranks."""

    name: str
    steps: int
    global_batch: int
    optimizer: Optimizer
    seed: int
    checkpoint_every: int
    keep_checkpoints: int
    log_every: int = 1


@dataclass(frozen=True)
class Step:
    """What a step did, the same on every rank: mean loss, gradient norm before clipping, tokens predicted."""

    loss: float
    gradient_norm: float
    predictions: int
    skipped: bool


def fit(part: Part, batches: Batches, recipe: Recipe, folder: Path, progress: Progress) -> Fitted:
    """Train a part of a network, on from the newest checkpoint under `folder`, to the end of the recipe.

    Writes metrics.jsonl, ledger/ and checkpoints/ below `folder`. Every rank calls this.
    """
    optimizers = make_optimizers(part.model, recipe.optimizer)
    rows = recipe.global_batch // part.layout.data_parallel
    with (
        Checkpoints(folder / "checkpoints", part, optimizers, recipe.keep_checkpoints) as checkpoints,
        Record(folder, recipe.name, recipe.steps, recipe.log_every, progress) as record,
    ):
        position = checkpoints.restore(progress.say)
        record.start(position.step)
        while position.step < recipe.steps:
            mine = position.samples + part.data_rank * rows
            batch = batches.batch(sample_indices(mine, rows, len(batches), recipe.seed)).to(part.device)
            learning_rate = schedule(recipe.optimizer, position.step, recipe.steps)
            done = take_step(part, optimizers, batch, recipe.optimizer.clip, learning_rate)
            entry = Entry(position.step, position.samples, recipe.global_batch, done.predictions, done.skipped)
            record.step(entry, done.loss, done.gradient_norm, learning_rate)
            position = Position(position.step + 1, position.samples + recipe.global_batch)
            if position.step % recipe.checkpoint_every == 0 and position.step < recipe.steps:
                checkpoints.save(position)
    return record.fitted()


def take_step(part: Part, optimizers: Optimizers, batch: Batch, clip: float, learning_rate: float) -> Step:
    """One optimizer step on this rank's rows; every rank calls this. A loss or gradient that is not finite skips it."""
    predictions = int(part.sum_over_data(_count(part, batch.predictions)).item())
    loss = part.sum_over_data(part.backward(batch, max(1, predictions))).item()
    norm = gradient_norm(part)
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite:
        scale_gradients(part.model, min(1.0, clip / (norm + 1e-6)))
        optimizers.step(learning_rate)
    else:
        optimizers.zero_grad()
    return Step(loss, norm, predictions, skipped=not finite)


def _count(part: Part, predictions: int) -> torch.Tensor:
    """A count that the ranks with the loss contribute, so that it is summed as losses are."""
    return torch.tensor(float(predictions if part.holds_loss else 0), dtype=torch.float64, device=part.device)
