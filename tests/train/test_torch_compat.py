"""The private torch APIs do what wingspan uses them for: one rank of eight, on the meta device and fakes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Optimizer
from wingspan.train.data.batches import Batch
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.parallel.build import build
from wingspan.train.parallel.mesh import make_mesh
from wingspan.train.torch_compat import cpu_multiplies_bf16, static_pipeline_shapes

SHAPE = ModelShape("qwen3", 4, 64, 8, 4, 16, 128, 501, False)


@pytest.fixture(scope="module")
def last_rank() -> Iterator[None]:
    """One group for the whole module: DTensor remembers groups beyond their end."""
    dist.init_process_group("fake", store=FakeStore(), rank=7, world_size=8)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_rank_of_a_fake_fleet_takes_a_step(last_rank: None, recompute: str) -> None:
    layout = Layout(pp=2, dp_shard=2, tp=2, micro_batch=2, recompute=recompute)
    mesh = make_mesh(layout, "cpu")
    part = build(SHAPE, layout, sequence=32, rows=8, compute=torch.bfloat16, device=torch.device("cpu"), mesh=mesh)
    assert all(parameter.is_meta for parameter in part.model.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True), static_pipeline_shapes():
        part.model.to_empty(device="cpu")
        optimizers = make_optimizers(part.model, Optimizer())
        ids = torch.zeros(8, 32, dtype=torch.int64)
        part.backward(Batch(ids, ids, ids, ids), weight=256)
        assert all(parameter.grad is not None for parameter in part.model.parameters())
        optimizers.step(1e-3)
    assert part.holds_loss


def test_the_processor_answers_whether_it_multiplies_bf16() -> None:
    assert cpu_multiplies_bf16() in (True, False)
