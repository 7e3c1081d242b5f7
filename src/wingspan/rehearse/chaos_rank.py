"""One rank of a small real training that is there to be broken: the trainer's loop, a tiny model, made-up text."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from wingspan.errors import WingspanError
from wingspan.model.shape import ModelShape
from wingspan.progress import SilentProgress
from wingspan.project import Layout, Optimizer
from wingspan.train.data.batches import Batch
from wingspan.train.data.order import Indices
from wingspan.train.loop import Recipe, fit
from wingspan.train.parallel.part import Part
from wingspan.train.processes import is_first_rank, processes
from wingspan.train.start import start_part

SEQUENCE, ROWS = 16, 8
CHECKPOINT_EVERY = 5
NAMESPACE = "WINGSPAN_CHAOS_NAMESPACE"  # names the network namespace that a rank lives in
FLIP = "flip-a-bit"  # a file of this name, and a rank's number, asks that rank to
_TOP_EXPONENT_BIT = 1 << 30
_SAMPLES = 4096


@dataclass(frozen=True)
class Drill:
    """The training: `pace_s` is the least a step takes, so that there is time to break it."""

    folder: Path
    shape: ModelShape
    optimizer: Optimizer
    steps: int
    seed: int
    hang_timeout_s: float
    pace_s: float = 0.0


def train(drill: Drill, layout: Layout, environment: dict[str, str], log: Path) -> None:
    """Be the rank that the environment says, with what it says in a log."""
    os.environ |= environment
    if NAMESPACE in environment:
        with Path("/run/netns", environment[NAMESPACE]).open() as namespace:
            ctypes.CDLL(None).setns(namespace.fileno(), 0)
    torch.set_num_threads(1)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        with processes(drill.hang_timeout_s) as device:
            part = start_part(drill.shape, layout, drill.seed, sequence=SEQUENCE, global_batch=ROWS, device=device)
            flipping = _Flipping(**{one.name: getattr(part, one.name) for one in fields(part)})
            object.__setattr__(flipping, "asked", drill.folder / f"{FLIP}-{environment['RANK']}")
            fit(flipping, _Rows(drill.shape.vocab, drill.pace_s), _recipe(drill), drill.folder, _Said())
    except WingspanError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def _recipe(drill: Drill) -> Recipe:
    return Recipe(
        name="chaos",
        steps=drill.steps,
        global_batch=ROWS,
        optimizer=drill.optimizer,
        seed=drill.seed,
        checkpoint_every=CHECKPOINT_EVERY,
        keep_checkpoints=3,
        spike_deviations=6.0,
        hang_timeout_s=drill.hang_timeout_s,
    )


class _Rows:
    """Rows that count up from a number, here and there with another one."""

    def __init__(self, vocab: int, pace_s: float) -> None:
        self._vocab, self._pace_s = vocab, pace_s

    def __len__(self) -> int:
        return _SAMPLES

    def batch(self, samples: Indices) -> Batch:
        time.sleep(self._pace_s)
        rows = np.stack([self._row(int(sample)) for sample in samples])
        tokens, targets = torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())
        positions = torch.arange(SEQUENCE).repeat(len(samples), 1)
        return Batch(tokens, targets, positions, torch.zeros_like(positions))

    def _row(self, sample: int) -> np.ndarray[Any, Any]:
        random = np.random.default_rng(sample)
        row = (np.arange(SEQUENCE + 1) + sample % 7) % self._vocab
        return np.where(random.random(SEQUENCE + 1) < 0.1, random.integers(self._vocab), row)


class _Said(SilentProgress):
    def say(self, line: str) -> None:
        if is_first_rank():
            print(line, file=sys.stderr, flush=True)


class _Flipping(Part):
    """A part whose memory errs when asked to: one bit of one gradient, once."""

    asked: Path

    def backward(self, batch: Batch, weight: int) -> Tensor:
        loss = super().backward(batch, weight)
        if self.asked.exists():
            self.asked.unlink()
            gradients = (one.grad for one in self.model.parameters() if one.grad is not None)
            local = [one.to_local() if isinstance(one, DTensor) else one for one in gradients]
            gradient = next(one for one in local if one.numel() and one.abs().max() > 0).view(-1)
            bits = gradient.view(torch.int32)
            bits[gradient.abs().argmax()] ^= _TOP_EXPONENT_BIT
        return loss
