"""The search against brute force, its errors, and properties of memory and time."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wingspan.errors import InputError
from wingspan.plan.devices.chips import chip_named, this_machine
from wingspan.plan.devices.machine import nominal
from wingspan.plan.layouts.choice import Problem, Space, candidates, check, choose, problem_of
from wingspan.plan.layouts.search import search
from wingspan.plan.step import memory as memory_of
from wingspan.plan.step import steptime
from wingspan.plan.step.grid import Grid, Workload
from wingspan.plan.step.network import Network
from wingspan.project import Fleet, Layout

H100 = chip_named("H100 SXM")
SMALL = Network(12, 1024, 16, 4, 64, 2816, 32000)
LARGE = Network(80, 8192, 64, 8, 128, 28672, 128256)


MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)  # divisors of the batch below


def brute_force(problem: Problem) -> tuple[float, Layout]:
    """Every combination of the dials, one at a time, kept when `check` lets it pass."""
    numbers = range(1, problem.devices + 1)
    best: tuple[float, Layout] | None = None
    for replicate, shard, tp, pp in itertools.product(numbers, repeat=4):
        if replicate * shard * tp * pp != problem.devices or tp > problem.devices_per_node:
            continue
        for micro_batch, recompute in itertools.product(
            (1, 2, 3, 4, 6, 8, 12, 16, 24, 48), ("none", "selective", "full")
        ):
            layout = Layout(
                dp_replicate=replicate, dp_shard=shard, tp=tp, pp=pp, micro_batch=micro_batch, recompute=recompute
            )
            try:
                check(problem, layout)
            except InputError:
                continue
            seconds = float(steptime.total(problem.step_time(Grid.of(layout)))[0])
            if best is None or seconds < best[0]:
                best = seconds, layout
    assert best is not None
    return best


@pytest.mark.parametrize("devices", [1, 4, 8, 12])
@pytest.mark.parametrize("network", [SMALL, Network(16, 4096, 32, 8, 128, 11008, 64000)])
def test_search_equals_brute_force(network: Network, devices: int) -> None:
    problem = Problem(network, Workload(2048, 48), H100, devices, devices)
    seconds, _ = brute_force(problem)
    chosen = choose(problem).layout
    assert steptime.total(problem.step_time(Grid.of(chosen)))[0] == pytest.approx(seconds)


def test_given_layouts_of_the_search_pass_the_check() -> None:
    problem = Problem(SMALL, Workload(2048, 64), H100, 16)
    grid = search(problem).grid
    for index in range(0, len(grid), max(1, len(grid) // 50)):
        check(problem, grid.layout(index))


def test_search_finds_the_same_layout_again() -> None:
    problem = Problem(LARGE, Workload(8192, 1024), H100, 1024)
    assert choose(problem) == choose(problem)


def test_context_and_expert_parallelism_are_searched_when_asked() -> None:
    moe = Network(16, 2048, 16, 4, 128, 0, 64000, experts=32, experts_per_token=4, expert_ffn=1024)
    grid = candidates(Problem(moe, Workload(32768, 64), H100, 64), Space(cp=True, ep=True))
    assert {1.0, 8.0} <= set(grid.ep)
    assert {1.0, 8.0} <= set(grid.cp)
    assert np.all((grid.shard * grid.cp) % grid.ep == 0)


layouts = st.builds(
    lambda tp, pp, shard, replicate, micro_batch, recompute: Grid.product(
        {
            "tp": [tp],
            "pp": [pp],
            "shard": [shard],
            "replicate": [replicate],
            "micro_batch": [micro_batch],
            "recompute": [recompute],
        }
    ),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 64),
    st.integers(1, 16),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 2),
)


def problem_for(grid: Grid, network: Network = LARGE) -> Problem:
    per_step = int((grid.data_parallel * grid.micro_batch)[0])
    return Problem(network, Workload(4096, per_step * 16), H100, int(grid.devices[0]))


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_time_is_positive_and_finite_and_the_sum_of_its_items(grid: Grid) -> None:
    items = problem_for(grid).step_time(grid)
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in items.values())
    assert set(items) == set(steptime.ITEMS)
    assert steptime.total(items)[0] > 0


@settings(max_examples=60, deadline=None)
@given(layouts, st.sampled_from(["shard", "replicate", "tp"]), st.booleans())
def test_more_devices_never_need_more_memory(grid: Grid, dial: str, last: bool) -> None:
    """Per device, at the same micro-batch, at both ends of the pipeline; one device alone shards nothing."""
    assume(grid.devices[0] > 1)
    doubled = Grid.product({name: getattr(grid, name) * (2 if name == dial else 1) for name in grid.__dict__})
    assert tensors(doubled, last) <= tensors(grid, last) * (1 + 1e-9)


def tensors(grid: Grid, last: bool) -> float:
    """Bytes of all tensors: what a device holds, without the buffers that every new group opens."""
    problem = problem_for(grid)
    stage = grid.pp - 1 if last else 0
    items = memory_of.stage_memory(LARGE, grid, problem.workload, H100, problem.software, stage)
    return float((memory_of.total(items) - items["communication"])[0])


def test_pipeline_memory_shrinks_from_stage_to_stage_count() -> None:
    grid = Grid.product({"pp": [2, 4, 8, 16], "shard": [8]})
    items = Problem(LARGE, Workload(4096, 256), H100, 128).memory(grid)
    for item in ("parameters", "gradients", "optimizer", "gathered_blocks"):
        assert list(items[item]) == sorted(items[item], reverse=True)


@settings(max_examples=40, deadline=None)
@given(layouts)
def test_recomputation_trades_memory_for_time(grid: Grid) -> None:
    policies = Grid.product(
        {name: (getattr(grid, name) if name != "recompute" else [0, 1, 2]) for name in grid.__dict__}
    )
    problem = problem_for(grid)
    activations = problem.memory(policies)["activations"]
    again = problem.step_time(policies)["recompute"]
    assert activations[0] >= activations[1]
    assert again[0] == 0 < again[1] < again[2]


@pytest.mark.parametrize(
    ("layout", "message", "remedy"),
    [
        (Layout(tp=3, dp_shard=1), "16 query and 4 key heads", "[1, 2, 4]"),
        (Layout(pp=16), "16 pipeline stages", "at most 12"),
        (Layout(dp_shard=7), "does not divide", "global_batch = 70"),
        (Layout(pp=12, micro_batch=8), "cannot fill 12", "global_batch = 96"),
        (Layout(ep=2, dp_shard=2), "0 experts", "layout.ep = 1"),
        (Layout(cp=3), "over cp = 3", "multiple of 6"),
    ],
)
def test_impossible_layouts_name_the_way_out(layout: Layout, message: str, remedy: str) -> None:
    problem = Problem(SMALL, Workload(2048, 64), H100, layout.world_size)
    with pytest.raises(InputError) as caught:
        check(problem, layout)
    assert message in caught.value.problem
    assert remedy in caught.value.remedy


def test_a_layout_for_another_fleet_is_refused() -> None:
    with pytest.raises(InputError, match="the layout is for 8 devices, the fleet has 16"):
        check(Problem(SMALL, Workload(2048, 64), H100, 16), Layout(dp_shard=8))


def test_a_layout_that_does_not_fit_names_what_fills_the_device() -> None:
    problem = Problem(LARGE, Workload(8192, 64), H100, 64)
    with pytest.raises(InputError) as caught:
        check(problem, Layout(dp_shard=64, micro_batch=1))
    assert "activations" in caught.value.problem
    assert caught.value.remedy.startswith("Set layout.recompute = 'full': then it needs ")
    check(problem, Layout(dp_shard=64, micro_batch=1, recompute="full"))


def test_a_model_that_fits_nowhere_names_the_smallest_fleet() -> None:
    with pytest.raises(InputError) as caught:
        choose(Problem(LARGE, Workload(4096, 1024), H100, 4, 4))
    assert "fits on no layout of 4 H100 SXM" in caught.value.problem
    devices = int(caught.value.remedy.rpartition("= ")[2])
    choose(Problem(LARGE, Workload(4096, 1024), H100, devices))
    with pytest.raises(InputError):
        choose(Problem(LARGE, Workload(4096, 1024), H100, devices // 2, min(8, devices // 2)))


def test_a_batch_that_divides_over_no_layout_names_the_nearest_that_does() -> None:
    prime = Problem(SMALL, Workload(2048, 13), H100, 64)
    with pytest.raises(InputError) as caught:
        choose(prime)
    batch = int(caught.value.remedy.rpartition("= ")[2])
    choose(Problem(SMALL, Workload(2048, batch), H100, 64))


def test_one_device_of_this_machine_has_one_layout_kind() -> None:
    tiny = Network(4, 128, 4, 2, 32, 384, 4096)
    layout = choose(Problem(tiny, Workload(128, 8), this_machine(nominal()), 1, 1)).layout
    assert layout.world_size == 1
    assert layout.micro_batch == 8


def test_every_item_of_memory_is_counted() -> None:
    items = Problem(SMALL, Workload(2048, 64), H100, 8).memory(Grid.product({"shard": [8]}))
    assert set(items) == set(memory_of.ITEMS)


def test_tied_embeddings_have_no_pipeline() -> None:
    tied = Network(12, 1024, 16, 4, 64, 2816, 32000, tied=True)
    problem = Problem(tied, Workload(2048, 64), H100, 8)
    assert set(candidates(problem).pp) == {1.0}
    with pytest.raises(InputError, match="tied embeddings"):
        check(problem, Layout(pp=2, dp_shard=4))


def test_experts_are_not_split_over_tensor_parallel_ranks() -> None:
    moe = Network(16, 2048, 16, 4, 128, 768, 64000, experts=32, experts_per_token=4, expert_ffn=1024)
    problem = Problem(moe, Workload(4096, 64), H100, 8)
    assert set(candidates(problem).tp) == {1.0}
    with pytest.raises(InputError, match="experts would have to"):
        check(problem, Layout(tp=2, dp_shard=4))


def test_ranks_on_this_machine_share_it() -> None:
    tiny = Network(4, 128, 4, 2, 32, 384, 4096)
    machine = this_machine(nominal())
    alone = problem_of(tiny, Workload(128, 8), machine, Fleet(devices=1))
    shared = problem_of(tiny, Workload(128, 8), machine, Fleet(devices=2))
    assert shared.capacity == alone.capacity / 2
    assert choose(shared).layout.world_size == 2
    layout = Layout(micro_batch=4), Layout(dp_shard=2, micro_batch=4)
    one, two = (steptime.total(p.step_time(Grid.of(x)))[0] for p, x in zip((alone, shared), layout, strict=True))
    assert two > 0.9 * one


def test_a_model_too_big_for_this_machine_is_refused_with_a_way_out() -> None:
    with pytest.raises(InputError) as caught:
        choose(problem_of(LARGE, Workload(8192, 8), this_machine(nominal()), Fleet()))
    assert "fits on no layout of 1 this-machine" in caught.value.problem
    assert "smaller model" in caught.value.remedy


def test_links_that_no_source_states_make_a_fleet_unknown() -> None:
    pcie = chip_named("RTX 4090")
    choose(Problem(SMALL, Workload(2048, 64), pcie, 8))
    with pytest.raises(InputError, match="does not know network_gb_s of RTX 4090"):
        choose(Problem(SMALL, Workload(2048, 64), pcie, 64))
