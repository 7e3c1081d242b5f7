"""Findings name what would stop a run, and only that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wingspan.rehearse import findings
from wingspan.rehearse.rank import RankRehearsal
from wingspan.rehearse.trackers import KINDS, Collective

GIB = 2**30


def rank(kind: str, stage: int, calls: list[Collective], stages: int = 1) -> RankRehearsal:
    return RankRehearsal(
        kind=kind,
        rank=stage * 8,
        ranks=8,
        stage=stage,
        stages=stages,
        micro_batches=2,
        rehearsed_micro_batches=2,
        peak_bytes=60 * GIB,
        static_bytes=20 * GIB,
        at_peak=dict.fromkeys(KINDS, 10 * GIB),
        flops={"mm": 10**15},
        operations=1000,
        collectives={},
        calls=calls,
        unsharded={},
    )


def pipeline(sent: int = 64, received: int = 64, norm: int = 4) -> list[RankRehearsal]:
    first = [Collective("send", "pp", sent, 1)] * 2 + [Collective("recv_", "pp", 32, 1)] * 2
    last = [Collective("recv_", "pp", received, 0)] * 2 + [Collective("send", "pp", 32, 0)] * 2
    return [
        rank("first stage", 0, [*first, Collective("allreduce_", "pp+tp", 4)], stages=2),
        rank(
            "last stage",
            1,
            [*last, Collective("allreduce_", "pp+tp", norm), Collective("allreduce_", "tp", 9)],
            stages=2,
        ),
    ]


def test_stages_that_agree_give_no_finding() -> None:
    assert findings.check_calls(pipeline()) == []


def test_a_message_of_another_size_than_expected_would_hang() -> None:
    (found,) = findings.check_calls(pipeline(sent=64, received=128))
    assert found.severity == "stops"
    assert "next stage" in found.problem


def test_a_stage_that_receives_nothing_would_hang_the_one_before() -> None:
    first, last = pipeline()
    deaf = replace(last, calls=[one for one in last.calls if one.op != "recv_"])
    (found,) = findings.check_calls([first, deaf])
    assert "last stage receives 0 messages" in found.problem


@pytest.mark.parametrize("norm", [8, 0])
def test_a_call_that_differs_between_ranks_of_a_group_is_named(norm: int) -> None:
    (found,) = findings.check_calls(pipeline(norm=norm))
    assert found.severity == "stops"
    assert "first stage and last stage" in found.problem
    assert "call 1 is allreduce_ of 4 B" in found.problem


def test_a_missing_call_is_named() -> None:
    first, last = pipeline()
    (found,) = findings.check_calls([first, replace(last, calls=last.calls[:4])])
    assert "missing" in found.problem


def test_too_little_memory_stops_the_run_with_what_no_tensor_shows() -> None:
    fits, does_not = rank("a", 0, []), rank("b", 0, [])
    assert findings.check_ranks([fits], device_memory=65 * GIB, unseen=4 * GIB) == []
    (found,) = findings.check_ranks([does_not], device_memory=65 * GIB, unseen=6 * GIB)
    assert (found.severity, found.problem) == ("stops", "b: needs 66 GiB, the device has 65 GiB")


def test_a_parameter_left_whole_is_named() -> None:
    (found,) = findings.check_ranks([replace(rank("a", 0, []), unsharded={"norm.weight": GIB})], None, 0)
    assert "norm.weight" in found.problem


def test_only_differences_from_plan_above_five_per_cent_are_findings() -> None:
    items = dict.fromkeys(("parameters", "gradients", "activations", "logits", "gathered_blocks"), 10 * GIB)
    plan = {
        "memory_items_bytes": items | {"optimizer": 9 * GIB},
        "flops_per_token": 1e12,
        "tokens_per_step": 8000,
        "hfu": {"value": 0.42},
        "mfu": {"value": 0.42},
    }
    rows = findings.compare(plan, [rank("a", 0, [])])
    found = findings.check_plan(rows)
    assert [one.problem.split(":")[0] for one in found] == ["optimizer"]
    assert "(+11%)" in found[0].problem
    assert rows[-1]["rehearsed"] == rows[-1]["plan"] == 8e15
