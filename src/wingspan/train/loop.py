"""The training loop: `fit` is all of it. train feeds it posts, align feeds it conversations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wingspan.progress import Progress
from wingspan.project import Optimizer
from wingspan.train.checkpoint.checkpoints import Checkpoints, Position
from wingspan.train.data.batches import Batch, Batches
from wingspan.train.data.ledger import Entry
from wingspan.train.data.order import sample_indices
from wingspan.train.faults.health import Health
from wingspan.train.faults.leaving import asked_to_leave
from wingspan.train.faults.watch import Watch
from wingspan.train.optimize.optimizers import Optimizers, make_optimizers, schedule
from wingspan.train.optimize.ramp import Plateau, batch_of
from wingspan.train.parallel.balance import balance_experts
from wingspan.train.parallel.gradients import gradient_norms, most_changed, scale_gradients, total_norm
from wingspan.train.parallel.part import Part
from wingspan.train.telemetry.record import Fitted, Record, Telemetry


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
    spike_deviations: float = 0.0
    rollback_after: int = 0
    local_checkpoints: str = ""
    local_checkpoint_every: int = 0
    hang_timeout_s: float = 300.0
    ramp: Sequence[Plateau] = ()

    def batch_of(self, step: int) -> int:
        """Sequences of a step, over all ranks."""
        return batch_of(step, self.ramp, self.global_batch)


@dataclass(frozen=True)
class Step:
    """What a step did, the same on every rank: mean loss, gradient norm before clipping, tokens predicted.

    `faulty_rank` is the one whose gradient was wrong at first and right when the step was computed again; `leave` says
    that some rank wants to end the run.
    """

    loss: float
    gradient_norm: float
    predictions: int
    skipped: bool
    faulty_rank: int | None = None
    leave: bool = False


def fit(
    part: Part, batches: Batches, recipe: Recipe, folder: Path, progress: Progress, telemetry: Telemetry | None = None
) -> Fitted:
    """Train a part of a network, on from the newest checkpoint under `folder`, to the end of the recipe.

    Writes metrics.jsonl, ledger/ and checkpoints/ below `folder`. Every rank calls this.
    """
    optimizers = make_optimizers(part.model, recipe.optimizer)

    def batch_at(position: Position) -> Batch:
        rows = recipe.batch_of(position.step) // part.layout.data_parallel
        mine = position.samples + part.data_rank * rows
        return batches.batch(sample_indices(mine, rows, len(batches), recipe.seed)).to(part.device)

    def sound(position: Position) -> bool:
        return math.isfinite(part.sum_over_data(part.loss(batch_at(position))).item())

    with (
        asked_to_leave() as asked,
        Checkpoints(
            folder / "checkpoints",
            part,
            optimizers,
            every=recipe.checkpoint_every,
            keep=recipe.keep_checkpoints,
            local=recipe.local_checkpoints,
            local_every=recipe.local_checkpoint_every,
        ) as checkpoints,
        Record(folder, recipe, progress, telemetry) as record,
        Watch(recipe.hang_timeout_s) as watch,
    ):
        position = checkpoints.restore(progress.say, sound)
        health = Health(recipe.spike_deviations, recipe.rollback_after, position.seen)
        record.start(position.step)
        while position.step < recipe.steps:
            watch.beat(position.step)
            with record.spent("data"):
                batch = batch_at(position)
            learning_rate = schedule(recipe.optimizer, position.step, recipe.steps)
            leave = asked.is_set() or checkpoints.failed
            with record.spent("compute"):
                done = take_step(part, optimizers, batch, recipe.optimizer.clip, learning_rate, health, leave=leave)
                balance_experts(part, learning_rate / recipe.optimizer.learning_rate, skipped=done.skipped)
            samples = recipe.batch_of(position.step)
            entry = Entry(position.step, position.samples, samples, done.predictions, done.skipped)
            record.step(entry, done.loss, done.gradient_norm, learning_rate)
            position = Position(position.step + 1, position.samples + samples, health.seen)
            if done.faulty_rank is not None:
                progress.say(
                    f"step {entry.step}: rank {done.faulty_rank} computed wrongly once; the step was done again"
                )
            record.evaluate(position.step)
            with record.spent("checkpoint"):
                if done.skipped and health.left_out():
                    position = _go_back(checkpoints, health, position, progress)
                elif position.step < recipe.steps:
                    checkpoints.offer(position, leave=done.leave)
    return record.fitted()


def take_step(
    part: Part,
    optimizers: Optimizers,
    batch: Batch,
    clip: float,
    learning_rate: float,
    health: Health,
    *,
    leave: bool = False,
) -> Step:
    """One optimizer step on this rank's rows; every rank calls this.

    A step that is not finite, or a spike, is computed once more: a fault of a device does not come twice, and what
    does come twice lies in the data and is left out. `leave` is this rank's wish, of which all ranks hear.
    """
    predictions, weight, wishes = _totals(part, batch, leave)
    loss, norms = _gradients(part, batch, weight)
    faulty = None
    if health.odd(loss, total_norm(norms)):
        first = norms
        optimizers.zero_grad()
        loss, norms = _gradients(part, batch, weight)
        faulty = None if health.odd(loss, total_norm(norms)) else most_changed(first, norms)
    norm = total_norm(norms)
    skipped = health.odd(loss, norm)
    if skipped:
        optimizers.zero_grad()
    else:
        scale_gradients(part.model, min(1.0, clip / (norm + 1e-6)))
        optimizers.step(learning_rate)
        health.took(loss, norm)
    return Step(loss, norm, predictions, skipped, faulty, leave=wishes > 0)


def _gradients(part: Part, batch: Batch, weight: int) -> tuple[float, torch.Tensor]:
    """Make the gradients; the mean loss, and each rank's share of the norm."""
    loss = part.sum_over_data(part.backward(batch, max(1, weight))).item()
    return loss, gradient_norms(part)


def _go_back(checkpoints: Checkpoints, health: Health, position: Position, progress: Progress) -> Position:
    """Weights of the last checkpoint, and data from here on: what lies between is passed over."""
    checkpoint = checkpoints.restore(progress.say, local=False)
    if not checkpoint.step:  # there is none yet: the weights are as good as any
        return position
    health.went_back(checkpoint.seen)
    progress.say(
        f"step {position.step}: the loss did not recover; back to the weights of step {checkpoint.step}, past samples "
        f"{checkpoint.samples:,} to {position.samples - 1:,}"
    )
    return Position(checkpoint.step, position.samples, checkpoint.seen)


def _totals(part: Part, batch: Batch, leave: bool) -> tuple[int, int, float]:
    """Predictions and weight of the batches of all ranks, and wishes to leave.

    Of the first two each is counted by one rank of those that read the same rows.
    """
    counts = [batch.predictions, batch.weight] if part.counts else [0, 0]
    mine = torch.tensor([*counts, leave], dtype=torch.float64, device=part.device)
    predictions, weight, wishes = part.sum_over_data(mine).tolist()
    return round(predictions), round(weight), wishes
