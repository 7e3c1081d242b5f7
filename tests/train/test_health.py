"""Spikes in the data are left out, faults of a device are computed again, and a run that is lost goes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from wingspan.errors import WorkError
from wingspan.model.shape import ModelShape
from wingspan.progress import SilentProgress
from wingspan.project import Layout, Optimizer
from wingspan.train.data.batches import Batch
from wingspan.train.data.ledger import audit, entries
from wingspan.train.data.order import Indices
from wingspan.train.faults.health import Health
from wingspan.train.loop import Recipe, fit
from wingspan.train.parallel.part import Part
from wingspan.train.start import start_part

SHAPE = ModelShape("qwen3", 2, 32, 4, 2, 8, 64, 101, tie_embeddings=True)
STEPS, ROWS, SEQUENCE = 100, 2, 16


@dataclass
class Counting:
    """Rows that count up; the samples in `poison` hold noise instead."""

    poison: frozenset[int] = frozenset()
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return STEPS * ROWS * 4

    def batch(self, samples: Indices) -> Batch:
        self.asked += samples.tolist()
        rows = [self._row(int(sample)) for sample in samples]
        tokens = torch.tensor(np.array(rows)[:, :-1])
        positions = torch.arange(SEQUENCE).repeat(len(samples), 1)
        return Batch(tokens, torch.tensor(np.array(rows)[:, 1:]), positions, torch.zeros_like(positions))

    def _row(self, sample: int) -> np.ndarray:
        rng = np.random.default_rng(sample)
        noise = rng.integers(0, 101, SEQUENCE + 1)
        return noise if sample in self.poison else np.arange(SEQUENCE + 1) + sample % 3


class Listening(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def part() -> Part:
    return start_part(
        SHAPE, Layout(precision="fp32"), 3, sequence=SEQUENCE, global_batch=ROWS, device=torch.device("cpu")
    )


def recipe(**changes: float) -> Recipe:
    optimizer = Optimizer(learning_rate=3e-3, warmup=0.05)
    settings = {"checkpoint_every": 10, "keep_checkpoints": 2, "spike_deviations": 4.0, "rollback_after": 4} | changes
    return Recipe("test", STEPS, ROWS, optimizer, 1, **settings)


def run(folder: Path, batches: Counting, one: Part | None = None, **changes: float) -> tuple[Part, Listening]:
    one, progress = one or part(), Listening()
    fit(one, batches, recipe(**changes), folder, progress)
    return one, progress


def weights(one: Part) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in one.model.parameters()])


def of_steps(folder: Path, first: int, count: int) -> frozenset[int]:
    """The samples that an undisturbed run reads in these steps."""
    batches = Counting()
    run(folder, batches)
    return frozenset(batches.asked[first * ROWS : (first + count) * ROWS])


def test_a_spike_is_left_out_and_the_ledger_says_so(tmp_path: Path) -> None:
    poison = of_steps(tmp_path / "whole", 90, 1)
    _, progress = run(tmp_path / "run", Counting(poison))
    assert [one.step for one in entries(tmp_path / "run/ledger") if one.skipped] == [90]
    assert audit(tmp_path / "run/ledger").skipped == 1
    assert progress.lines == []


def test_a_run_that_is_lost_goes_back_to_its_checkpoint_and_past_the_data(tmp_path: Path) -> None:
    poison = of_steps(tmp_path / "whole", 83, 4)
    one, progress = run(tmp_path / "run", Counting(poison))
    assert progress.lines == [
        "step 87: the loss did not recover; back to the weights of step 80, past samples 160 to 173"
    ]
    proof = audit(tmp_path / "run/ledger")
    assert (proof.steps, proof.samples, proof.passed_over) == (STEPS, STEPS * ROWS, 14)
    assert torch.isfinite(weights(one)).all()


def test_a_run_killed_after_going_back_ends_with_the_same_weights(tmp_path: Path) -> None:
    poison = of_steps(tmp_path / "whole", 83, 4)
    undisturbed, _ = run(tmp_path / "run", Counting(poison))

    class Killed(Exception):
        pass

    class Cut(Counting):
        def batch(self, samples: Indices) -> Batch:
            if len(self.asked) == 90 * ROWS:
                raise Killed
            return super().batch(samples)

    with pytest.raises(Killed):
        run(tmp_path / "cut", Cut(poison))
    resumed, _ = run(tmp_path / "cut", Counting(poison))
    assert torch.equal(weights(resumed), weights(undisturbed))
    assert audit(tmp_path / "cut/ledger").passed_over == 14


def test_a_loss_that_never_recovers_ends_the_run_with_advice(tmp_path: Path) -> None:
    good = of_steps(tmp_path / "whole", 0, 85)
    with pytest.raises(WorkError, match="did not recover") as stopped:
        run(tmp_path / "run", Counting(frozenset(range(len(Counting()))) - good))
    assert "learning_rate" in str(stopped.value.where)


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), 2.0**40])
def test_a_fault_of_the_device_is_computed_again_and_costs_nothing(fault: float, tmp_path: Path) -> None:
    undisturbed, _ = run(tmp_path / "whole", Counting())
    one = part()
    calls = 0
    weight = next(one.model.parameters())

    def flip(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 29 * ROWS + 1:  # a micro-batch is a row
            gradient = gradient.clone()
            gradient[5, 5] = fault
        return gradient

    weight.register_hook(flip)
    _, progress = run(tmp_path / "run", Counting(), one)
    assert progress.lines == ["step 29: rank 0 computed wrongly once; the step was done again"]
    assert torch.equal(weights(one), weights(undisturbed))


def test_before_there_is_a_history_only_what_is_not_finite_is_odd() -> None:
    health = Health(6.0, 4)
    assert not health.odd(1e9, 1.0)
    assert health.odd(float("nan"), 1.0)
    for _ in range(16):
        health.took(2.0, 1.0)
    assert not health.odd(2.3, 1.1)
    assert health.odd(2.5, 1.0)
    assert health.odd(2.0, 1.3)
    assert not Health(0.0, 4, health.seen).odd(1e9, 1e9)
