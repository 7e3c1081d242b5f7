"""The wide search: its optimum against every layout one at a time, its fronts, its speed and size."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingspan.plan.devices.chips import chip_named
from wingspan.plan.layouts.problem import WIDE, Problem, meshes
from wingspan.plan.layouts.search import front, search
from wingspan.plan.step import memory as memory_of
from wingspan.plan.step import steptime
from wingspan.plan.step.accounting import MEGATRON
from wingspan.plan.step.grid import RECOMPUTE, SCHEDULES, Grid, Software, Workload
from wingspan.plan.step.network import Network

H100 = chip_named("H100 SXM")
SOFTWARE = Software("Megatron-Core", accounting=MEGATRON)
DENSE = Network(8, 2048, 16, 4, 128, 5632, 32000)
EXPERTS = Network(8, 2048, 16, 4, 128, 0, 32000, experts=8, experts_per_token=2, expert_ffn=2048)
DEEPSEEK = Network(
    61, 7168, 128, 128, 192, 18432, 129280, experts=256, experts_per_token=8, shared_experts=1, expert_ffn=2048,
    dense_layers=3, q_rank=1536, kv_rank=512, rope_dim=64, value_head_dim=128,
)  # fmt: skip


def one_at_a_time(problem: Problem) -> float:
    """Seconds of the fastest layout that fits, found by loops over every number that could be a dial's."""
    network, batch, sequence = problem.network, problem.workload.global_batch, problem.workload.sequence
    numbers = range(1, problem.devices + 1)
    best = float("inf")
    for replicate, shard, tp, cp, pp in itertools.product(numbers, repeat=5):
        if replicate * shard * tp * cp * pp != problem.devices or pp > network.layers:
            continue
        if any(width % tp for width in (network.heads, network.kv_heads, network.ffn, network.expert_ffn, sequence)):
            continue
        if sequence % (2 * cp) or sequence // cp < 256:
            continue
        for ep in range(1, max(1, network.experts) + 1):
            if (network.experts or 1) % ep or (shard * cp) % ep:
                continue
            best = min(best, *all_dials(problem, (replicate, shard, tp, cp, pp, ep), batch), float("inf"))
    return best


def all_dials(problem: Problem, ranks: tuple[int, ...], batch: int) -> list[float]:
    replicate, shard, tp, cp, pp, ep = ranks
    found = [float("inf")]
    dials = itertools.product(
        range(1, 65), range(len(RECOMPUTE)), range(1, 13), range(len(SCHEDULES)), (0, 2), range(4)
    )
    for micro_batch, recompute, interleave, schedule, precision, zero in dials:
        m, left = divmod(batch, replicate * shard * micro_batch)
        if left or m < pp or (pp == 1 and (interleave > 1 or schedule)) or (interleave > 1 and schedule):
            continue
        if interleave > 1 and problem.network.layers % (pp * interleave):
            continue
        if schedule >= 2 and problem.network.layers % (2 * pp):
            continue
        grid = Grid.product(
            {"replicate": [replicate], "shard": [shard], "tp": [tp], "cp": [cp], "pp": [pp], "ep": [ep]}
            | {"micro_batch": [micro_batch], "recompute": [recompute], "interleave": [interleave]}
            | {"schedule": [schedule], "precision": [precision], "zero": [zero]}
        )
        if memory_of.total(problem.memory(grid))[0] <= problem.usable:
            found.append(float(steptime.total(problem.step_time(grid))[0]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("network", [DENSE, EXPERTS])
def test_the_wide_optimum_is_that_of_every_layout_tried_alone(network: Network) -> None:
    problem = Problem(network, Workload(1024, 4), H100, 4, 4, SOFTWARE)
    found = search(problem, WIDE)
    assert found.seconds[found.fastest] == pytest.approx(one_at_a_time(problem))


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([DENSE, EXPERTS]),
    st.sampled_from([1, 2, 6, 8, 16]),
    st.sampled_from([8, 12, 48]),
    st.sampled_from([1024, 4096]),
)
def test_broadcast_grids_weigh_what_flat_ones_do(network: Network, devices: int, batch: int, sequence: int) -> None:
    problem = Problem(network, Workload(sequence, batch), H100, devices, min(8, devices), SOFTWARE)
    for mesh in itertools.islice(meshes(problem, WIDE), 3):
        mesh = mesh.columns(slice(0, 40))
        flat = mesh.flattened()
        needed = np.broadcast_to(problem.memory_needed(mesh), mesh.shape).ravel()
        assert np.allclose(needed, memory_of.total(problem.memory(flat)), rtol=1e-9)
        seconds = np.broadcast_to(steptime.total(problem.step_time(mesh)), mesh.shape).ravel()
        assert np.allclose(seconds, steptime.total(problem.step_time(flat)), rtol=1e-9)


def test_every_layout_comes_once_and_uses_every_device() -> None:
    problem = Problem(EXPERTS, Workload(2048, 64), H100, 16, 8, SOFTWARE)
    flat = Grid.joined([mesh.flattened() for mesh in meshes(problem, WIDE)])
    rows = np.stack([getattr(flat, name) for name in flat.__dict__], axis=1)
    assert len(np.unique(rows, axis=0)) == len(flat) == search(problem, WIDE).weighed
    assert np.all(flat.devices == 16)
    assert np.all(flat.micro_batches(problem.workload) % 1 == 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_front_is_what_no_point_beats_in_everything(points: list[tuple[int, int, int]]) -> None:
    costs = np.array(points, dtype=float).T
    kept = {points[index] for index in front(*costs)}
    beaten = {one for one in points if any(beats(other, one) for other in points)}
    assert kept == set(points) - beaten


def beats(other: tuple[int, int, int], one: tuple[int, int, int]) -> bool:
    return other != one and all(b <= a for a, b in zip(one, other, strict=True))


def test_a_mixture_of_experts_on_ten_thousand_devices_is_searched_in_seconds() -> None:
    """All parallelisms of a DeepSeek-V3-class network: millions of layouts, over half a million a second."""
    problem = Problem(DEEPSEEK, Workload(4096, 10240), H100, 10240, 8, SOFTWARE)
    began = time.process_time()
    found = search(problem, WIDE)
    assert found.weighed > 1_000_000
    assert found.weighed / (time.process_time() - began) > 500_000
    assert found.grid.ep[found.fastest] > 1
