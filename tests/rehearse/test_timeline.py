"""The replayed step: known answers on invented ranks, and the trace that a viewer opens."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from wingspan.model.shape import ModelShape
from wingspan.plan.devices.chips import chip_named
from wingspan.project import Layout, Train
from wingspan.rehearse.levels import compare_bytes
from wingspan.rehearse.rank import RankRehearsal, one_forward_one_backward
from wingspan.rehearse.timeline import Prices, replay, schedule, times, trace
from wingspan.rehearse.trackers import KINDS, Collective, Work

STAGES, BATCHES = 4, 6
ORDER = [one_forward_one_backward(stage, STAGES, BATCHES) for stage in range(STAGES)]
PRICES = Prices(chip_named("H100 SXM"), 8, Layout(pp=STAGES), 128)
PRODUCT = Work("multiply", (8192, 8192, 8192, 1), 0)
SECOND = PRICES.compute(PRODUCT)  # of a forward pass below; a backward pass takes two


def device(order: list[list[str]], pipeline_ranks: tuple[int, ...], slower: int = 1) -> RankRehearsal:
    passes = [action[1] for action in order[pipeline_ranks[0]]]
    phases = ["before", *("forward" if one == "F" else "backward" for one in passes), "after"]
    products = {"B": 2 * slower}  # a half of a backward pass lasts as long as a forward pass
    work = [
        PRODUCT._replace(phase=number)
        for number, one in enumerate(passes, start=1)
        for _ in range(products.get(one, slower))
    ]
    return RankRehearsal(
        kind=f"stages {pipeline_ranks}",
        rank=pipeline_ranks[0],
        ranks=len(pipeline_ranks),
        stage=pipeline_ranks[0],
        stages=len(order),
        micro_batches=BATCHES,
        rehearsed_micro_batches=BATCHES,
        peak_bytes=0,
        static_bytes=0,
        at_peak=dict.fromkeys(KINDS, 0),
        flops={},
        operations=0,
        collectives={},
        calls=[],
        unsharded={},
        pipeline_ranks=pipeline_ranks,
        order=order,
        phases=phases,
        work=work,
    )


def test_equal_stages_wait_for_one_bubble() -> None:
    """(m + p - 1)(F + B) seconds, of which m (F + B) compute: Narayanan et al. 2019."""
    order = ORDER
    found = times([device(order, (0,)), device(order, (1, 2)), device(order, (3,))], PRICES)
    for kind in found.values():
        assert kind["compute_s"] == pytest.approx(BATCHES * 3 * SECOND, rel=1e-6)
        assert kind["step_s"] == pytest.approx((BATCHES + STAGES - 1) * 3 * SECOND, rel=1e-6)
        assert kind["bubble_s"] == pytest.approx((STAGES - 1) * 3 * SECOND, rel=1e-6)


def test_the_slowest_stage_sets_the_pace_and_waits_least() -> None:
    order = ORDER
    found = times([device(order, (0,)), device(order, (1, 2), slower=2), device(order, (3,))], PRICES)
    waits = {kind: one["bubble_s"] for kind, one in found.items()}
    assert min(waits, key=lambda kind: waits[kind]) == "stages (1, 2)"
    assert len({one["step_s"] for one in found.values()}) == 1


def test_backward_in_two_halves_fills_the_bubble_that_others_wait_in() -> None:
    split = [["0F0", "0F1", "0I0", "0W0", "0I1", "0W1"], ["1F0", "1I0", "1F1", "1I1", "1W0", "1W1"]]
    placed = schedule([device(split, (0,)), device(split, (1,))], PRICES)
    assert [action.what for action in placed[1]][1:-1] == ["F", "I", "F", "I", "W", "W"]
    whole = [["0F0", "0F1", "0B0", "0B1"], ["1F0", "1B0", "1F1", "1B1"]]
    before = times([device(whole, (0,)), device(whole, (1,))], PRICES)
    assert placed[1][-1].end < next(iter(before.values()))["step_s"]


def test_a_gather_hides_behind_what_computes_until_its_result_is_read() -> None:
    gather = Collective("_allgather_base_", "dp_shard", 8 * 2**30, ranks=64, stride=1)
    alone = [Work("call", (0,), 1), Work("wait", (0,), 1), PRODUCT._replace(phase=1)]
    behind = [Work("call", (0,), 1), *[PRODUCT._replace(phase=1)] * 1000, Work("wait", (0,), 1)]
    rank = replace(device([["0F0", "0B0"]], (0,)), calls=[gather])
    exposed = [replay(replace(rank, work=work), PRICES)[1].exposed_s for work in (alone, behind)]
    seconds = PRICES.exchange(gather)
    assert exposed[0] == pytest.approx(seconds)
    assert exposed[1] == pytest.approx(float(PRICES.constants.exposed_dp) * seconds)


def test_messages_of_a_few_bytes_do_not_go_round_the_whole_fleet() -> None:
    flag = Collective("allreduce_", "pp+dp_shard+tp", 8, ranks=10_240, stride=1)
    assert PRICES.exchange(flag) < 1e-3
    assert PRICES.exchange(replace(flag, bytes=2**30)) > 100 * PRICES.exchange(flag)


def test_the_trace_has_a_process_per_kind_and_no_two_things_at_once_on_a_stream() -> None:
    order = ORDER
    drawn = trace([device(order, (0,)), device(order, (1, 2)), device(order, (3,))], PRICES)["traceEvents"]
    names = [one["args"]["name"] for one in drawn if one["name"] == "process_name"]
    assert len(names) == 3
    for process in range(3):
        mine = [one for one in drawn if one["ph"] == "X" and (one["pid"], one["tid"]) == (process, 1)]
        assert len(mine) == BATCHES * 3
        assert all(one["ts"] + one["dur"] <= later["ts"] + 1e-3 for one, later in pairwise(mine))


def test_plan_and_a_rank_count_the_same_bytes_over_tensor_parallel_ranks() -> None:
    """Two gathers and two scatters each way, per layer and micro-batch (Korthikanti et al. 2022)."""
    shape, layout, train = ModelShape("qwen3", 4, 64, 4, 4, 16, 128, 256, False), Layout(tp=4), Train(sequence=64)
    message = 64 * 64 * 2
    collectives = {("all_gather_into_tensor", "tp", 4): (1, 8 * 4 * 8 * message)}
    rank = replace(device([["0F0", "0B0"]], (0,)), collectives=collectives)
    assert compare_bytes(shape, layout, train, [rank])[0] == ("sent over tp", *[8 * 4 * 8 * message * 3 / 4] * 2)
