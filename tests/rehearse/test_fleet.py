"""A fleet of ten thousand devices, rehearsed on this machine."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape
from wingspan.plan.devices.chips import chip_named
from wingspan.project import Layout, Train
from wingspan.rehearse.fleet import choose_ranks, rehearse
from wingspan.rehearse.rank import kinds_of_ranks
from wingspan.rehearse.terminal import render
from wingspan.rehearse.timeline import Prices

SHAPE = ModelShape("qwen3", 6, 256, 8, 8, 32, 512, 2048, tie_embeddings=False)
LAYOUT = Layout(dp_shard=320, tp=8, pp=4, recompute="full")
TRAIN = Train(sequence=64, global_batch=320 * 6)
GIB = 2**30


def plan(memory: float) -> dict[str, Any]:
    items = ("parameters", "gradients", "optimizer", "gathered_blocks", "activations", "logits")
    unseen = ("communication", "framework", "fragmentation")
    return {
        "device": "H100 SXM",
        "device_memory_bytes": memory,
        "memory_items_bytes": dict.fromkeys(items, 10**6) | dict.fromkeys(unseen, 0.5 * GIB),
    }


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, since the memory it reports is that of the whole process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        prices, file = Prices(chip_named("H100 SXM"), 8, LAYOUT, 32), tmp_path_factory.mktemp("trace") / "t.json.gz"
        asked = {"plan": plan(80 * GIB), "title": "one step of tiny", "prices": prices, "trace_to": file}
        return pool.submit(rehearse, SHAPE, LAYOUT, TRAIN, 10240, **asked).result() | {"drawn": str(file)}


def shown(rehearsal: dict[str, Any]) -> str:
    console = Console(width=110, file=io.StringIO(), record=True)
    console.print(render(rehearsal))
    return console.export_text()


@pytest.mark.slow
def test_every_kind_of_rank_of_ten_thousand(rehearsal: dict[str, Any]) -> None:
    assert json.loads(json.dumps(rehearsal)) == rehearsal
    kinds = {kind["kind"]: kind for kind in rehearsal["kinds"]}
    assert {name: (kind["rank"], kind["ranks"]) for name, kind in kinds.items()} == {
        "first stage": (0, 2560),
        "stages 2 to 3": (2560, 5120),
        "last stage": (7680, 2560),
    }
    assert rehearsal["peak_rss_gib"] < 2
    for kind in kinds.values():
        assert sum(kind["at_peak"].values()) == kind["peak_bytes"] > kind["static_bytes"] > 0
    assert not [one for one in rehearsal["findings"] if one["severity"] == "stops"]


@pytest.mark.slow
def test_micro_batches_that_were_not_run_are_reckoned_exactly(rehearsal: dict[str, Any]) -> None:
    middle = rehearsal["kinds"][1]
    assert (middle["rehearsed_micro_batches"], middle["micro_batches"]) == (4, 6)
    calls = {(one["op"], one["group"]): one for one in middle["collectives"]}
    hidden = 64 // 8 * 256 * 2  # bytes of a micro-batch between stages, tokens split over tensor-parallel ranks
    assert calls["send", "pp"] == {"op": "send", "group": "pp", "size": 4, "count": 12, "bytes": 12 * hidden}
    assert calls["_reduce_scatter_base_", "dp_shard"]["count"] == 2  # once a step for each of two blocks
    forward = 6 * 64 * (SHAPE.attention_parameters + 3 * 256 * 512) * 2 * 2 / 8
    assert middle["flops_by_operation"]["mm"] == pytest.approx(3 * forward + forward, rel=0.12)  # recomputed once


@pytest.mark.slow
def test_the_step_is_drawn_as_a_trace_that_viewers_open(rehearsal: dict[str, Any]) -> None:
    events = json.loads(gzip.decompress(Path(rehearsal["drawn"]).read_bytes()))["traceEvents"]
    names = [one["args"]["name"] for one in events if one["name"] == "process_name"]
    assert [name.split(":")[0] for name in names] == [kind["kind"] for kind in rehearsal["kinds"]]
    drawn = [one for one in events if one["ph"] == "X"]
    assert all(one["dur"] >= 0 and one["ts"] >= 0 for one in drawn)
    assert {"F0", "B3", "update", "multiply", "allgather base over dp_shard"} <= {one["name"] for one in drawn}
    for kind in rehearsal["kinds"]:
        parts = kind["compute_s"] + kind["exposed_s"] + kind["bubble_s"]
        assert parts == pytest.approx(kind["step_s"])
        assert kind["bubble_s"] > 0


@pytest.mark.slow
def test_a_checkpoint_of_the_whole_fleet_is_planned(rehearsal: dict[str, Any]) -> None:
    checkpoint = rehearsal["checkpoint"]
    assert checkpoint["bytes"] == 12 * SHAPE.parameters  # weights and two moments
    assert checkpoint["files"] == 10_240
    assert checkpoint["resume"]["files_per_rank"] == 16  # half the shards, and no tensor parallelism
    assert checkpoint["planning_s"] > 0


@pytest.mark.slow
def test_the_screen_shows_kinds_collectives_and_findings(rehearsal: dict[str, Any]) -> None:
    text = shown(rehearsal)
    for words in ("10,240 × H100 SXM", "stages 2 to 3", "5,120", "dp_shard (320)", "plan says"):
        assert words in text


def test_a_layout_that_train_refuses_is_a_finding_not_a_crash() -> None:
    result = rehearse(SHAPE, Layout(tp=3), TRAIN, 3)
    assert result["kinds"] == []
    (found,) = result["findings"]
    assert found["severity"] == "stops"
    assert "layout.tp" in found["problem"]
    assert "train refuses" in shown(result)


def test_ranks_are_chosen_by_kind_or_by_number() -> None:
    kinds = kinds_of_ranks(SHAPE, LAYOUT, TRAIN, accelerator=True)
    assert [task.rank for task in choose_ranks("first,last,4321", kinds)] == [0, 7680, 4321]
    with pytest.raises(InputError, match="no rank of 10240"):
        choose_ranks("10240", kinds)


def test_a_fleet_without_parallelism_has_one_kind() -> None:
    (task,) = kinds_of_ranks(SHAPE, Layout(), TRAIN, accelerator=False)
    assert (task.kind, task.ranks) == ("the device", 1)
