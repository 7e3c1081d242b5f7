"""The private torch APIs of a rehearsal do what it thinks they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wingspan.train import torch_compat


@pytest.fixture
def rank_5003() -> Iterator[None]:
    torch_compat.start_fake_process_group(5003, 10240)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("rank_5003")
def test_the_fake_process_group_has_the_whole_fleets_size() -> None:
    assert (dist.get_rank(), dist.get_world_size()) == (5003, 10240)
    mesh = init_device_mesh("cpu", (16, 80, 8), mesh_dim_names=("pp", "dp", "tp"))
    assert list(mesh.get_coordinate() or ()) == [7, 65, 3]
    ranks = torch_compat.group_ranks(mesh.get_group("tp").group_name)
    assert ranks == list(range(5000, 5008))


@pytest.mark.usefixtures("rank_5003")
def test_the_group_of_a_collective_is_found_in_both_families() -> None:
    mesh = init_device_mesh("cpu", (1280, 8), mesh_dim_names=("dp", "tp"))
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if (group := torch_compat.group_of(func, args)) is not None:
                seen.append(group)
            return func(*args, **(kwargs or {}))

    with Watch():
        dist.all_reduce(torch.ones(4), group=mesh.get_group("tp"))
        sharded = distribute_tensor(torch.ones(8, 4), mesh["dp"], [Shard(0)], src_data_rank=None)
        _ = sharded.full_tensor() + 1
    assert seen == [mesh.get_group("tp").group_name, mesh.get_group("dp").group_name]


def test_the_backward_pass_under_way_has_a_number() -> None:
    seen = []
    value = torch.ones(3, requires_grad=True)
    value.register_hook(lambda _: seen.append(torch_compat.backward_pass()))
    for _ in range(2):
        value.sum().backward()
    assert torch_compat.backward_pass() == -1
    assert seen[0] >= 0
    assert seen[1] > seen[0]


@pytest.mark.usefixtures("rank_5003")
def test_dtensor_asks_for_shapes_inside_the_given_context() -> None:
    mesh = init_device_mesh("cpu", (10240,), mesh_dim_names=("dp",))
    entered = []

    @contextmanager
    def note() -> Iterator[None]:
        entered.append(True)
        yield

    with torch_compat.around_sharding_propagation(note):
        sharded = distribute_tensor(torch.ones(20480, 3), mesh, [Shard(0)], src_data_rank=None)
        _ = sharded + 1
    assert entered
    entered.clear()
    _ = sharded * 3
    assert not entered


def test_waiting_for_a_collective_happens_inside_the_given_context(tmp_path) -> None:  # type: ignore[no-untyped-def]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    entered = []

    @contextmanager
    def note() -> Iterator[None]:
        entered.append(True)
        yield

    try:
        with torch_compat.around_waits(note):
            dist.all_reduce(torch.ones(2), async_op=True).wait()
    finally:
        dist.destroy_process_group()
    assert entered
