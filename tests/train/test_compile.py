"""A compiled network learns what the plain one learns, and is scored as it is."""

from __future__ import annotations

import pytest
import torch

from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Optimizer
from wingspan.train.data.batches import Batch
from wingspan.train.faults.health import Health
from wingspan.train.loop import take_step
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.start import start_part

SHAPE = ModelShape("qwen3", 1, 32, 2, 1, 16, 64, 67, tie_embeddings=True)


def learn(*, compiled: bool) -> list[float]:
    layout = Layout(micro_batch=2, precision="fp32")
    part = start_part(SHAPE, layout, 3, sequence=16, global_batch=4, device=torch.device("cpu"), compiled=compiled)
    tokens = torch.randint(67, (4, 17), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(16).repeat(4, 1)
    targets = tokens[:, 1:].clone()
    targets[0, 5:] = -100
    batch = Batch(tokens[:, :-1], targets, positions, positions // 9)
    optimizers = make_optimizers(part.model, Optimizer(name="muon"))
    found = [take_step(part, optimizers, batch, 1.0, 1e-2, Health(0, 0)).loss for _ in range(3)]
    assert part.model.skip_ignored != compiled  # one shape for all batches
    fewer = Batch(*(field[:3] for field in vars(batch).values()))
    return [*found, part.loss(fewer).item()]  # scoring compiles nothing: any number of rows


@pytest.mark.slow
def test_compiled_steps_are_those_of_the_plain_network() -> None:
    compiled = learn(compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert compiled == pytest.approx(learn(compiled=False), rel=2e-5)
