"""What a fake rank predicts is what a real one does: 1, 2 and 4 gloo processes of the same code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Train
from wingspan.rehearse.fleet import in_processes
from wingspan.rehearse.rank import RankRehearsal, kinds_of_ranks
from wingspan.train.parallel.layouts import stages_of_rank

DENSE = ModelShape("qwen3", 2, 64, 4, 2, 16, 176, 512, tie_embeddings=False)
TIED = ModelShape("llama", 2, 96, 6, 3, 16, 256, 640, tie_embeddings=True)
EXPERTS = ModelShape("qwen3_moe", 2, 64, 4, 2, 16, 128, 512, False, experts=4, experts_per_token=2, expert_ffn=64)

DEEP = ModelShape("qwen3", 4, 64, 4, 2, 16, 176, 512, tie_embeddings=False)

CASES: dict[str, tuple[ModelShape, Layout]] = {
    "one rank": (DENSE, Layout()),
    "one rank, tied": (TIED, Layout(micro_batch=2)),
    "one rank, recomputing": (DENSE, Layout(recompute="full")),
    "one rank, experts": (EXPERTS, Layout()),
    "2 shards": (DENSE, Layout(dp_shard=2)),
    "2 shards, tied": (TIED, Layout(dp_shard=2, micro_batch=2)),
    "2 shards, recomputing selectively": (DENSE, Layout(dp_shard=2, recompute="selective")),
    "2 tensor ranks": (DENSE, Layout(tp=2)),
    "2 stages": (DENSE, Layout(pp=2)),
    "2 replicas of 2 shards": (DENSE, Layout(dp_replicate=2, dp_shard=2)),
    "2 shards of 2 tensor ranks": (DENSE, Layout(dp_shard=2, tp=2)),
    "2 stages of 2 shards": (DENSE, Layout(pp=2, dp_shard=2, recompute="full")),
    "2 context ranks": (DENSE, Layout(cp=2)),
    "2 expert ranks": (replace(EXPERTS, experts_per_token=4), Layout(dp_shard=2, ep=2)),  # all: none gets more rows
    "2 tensor ranks, experts": (EXPERTS, Layout(tp=2)),
    "2 stages, tied": (TIED, Layout(pp=2)),
    "2 ranks in turns": (DEEP, Layout(pp=2, interleave=2)),
    "2 ranks in a V": (DEEP, Layout(pp=2, schedule="zbv")),
    "2 shards, 5 micro-batches": (DENSE, Layout(dp_shard=2)),
    "2 stages, 5 micro-batches": (DENSE, Layout(pp=2)),
}


def train_of(name: str) -> Train:
    """Two micro-batches, or five, of which all but two are reckoned and not run."""
    layout = CASES[name][1]
    micro_batches = 5 if name.endswith("5 micro-batches") else 4 if len(stages_of_rank(layout, 0)) > 1 else 2
    return Train(sequence=64, global_batch=micro_batches * layout.data_parallel * layout.micro_batch)


pytestmark = pytest.mark.xdist_group("gloo")  # the ranks are run once


@pytest.fixture(scope="module")
def rehearsed() -> dict[str, list[RankRehearsal]]:
    """One fake rank of every kind of every case."""
    tasks = [
        (name, task)
        for name, (shape, layout) in CASES.items()
        for task in kinds_of_ranks(shape, layout, train_of(name), accelerator=False)
    ]
    found: dict[str, list[RankRehearsal]] = {}
    for (name, _), one in zip(tasks, in_processes([task for _, task in tasks])[0], strict=True):
        found.setdefault(name, []).append(one)
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gloo")
    return {key: one for world_size in (1, 2, 4) for key, one in run_gloo(world_size, folder).items()}


def run_gloo(world_size: int, folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    names = [name for name, (_, layout) in CASES.items() if layout.world_size == world_size]
    cases = [
        {"shape": asdict(shape), "layout": layout.model_dump(), "train": train_of(name).model_dump()}
        for name, (shape, layout) in ((name, CASES[name]) for name in names)
    ]
    file = folder / f"{world_size}.json"
    file.write_text(json.dumps(cases))
    command = [sys.executable, str(Path(__file__).with_name("gloo_rank.py")), str(file)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world_size), f"{file}.store"], stdout=subprocess.PIPE, text=True)
        for rank in range(world_size)
    ]
    printed = [rank.communicate(timeout=200)[0] for rank in ranks]
    return {
        (name, rank): one
        for rank, text in enumerate(printed)
        for name, one in zip(names, json.loads(text.splitlines()[-1]), strict=True)
    }


def sums(calls: Iterable[tuple[str, int, int]]) -> dict[str, tuple[int, int]]:
    """Calls and bytes of each operation."""
    found: dict[str, tuple[int, int]] = {}
    for op, count, bytes_ in calls:
        before = found.get(op, (0, 0))
        found[op] = before[0] + count, before[1] + bytes_
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory_flops_and_collectives_of_every_rank(
    rehearsed: dict[str, list[RankRehearsal]], measured: dict[tuple[str, int], dict[str, Any]], name: str
) -> None:
    checked = 0
    for predicted in rehearsed[name]:
        for rank in range(predicted.rank, predicted.rank + predicted.ranks):
            real = measured[name, rank]
            assert predicted.peak_bytes == pytest.approx(real["peak_bytes"], rel=0.03)
            assert sum(predicted.flops.values()) == real["flops"]
            assert sums((op, *total) for (op, _, _), total in predicted.collectives.items()) == sums(
                (op, 1, bytes_) for op, bytes_, _ in real["calls"]
            )
            if predicted.rehearsed_micro_batches == predicted.micro_batches:
                assert [[one.op, one.bytes, one.peer] for one in predicted.calls] == real["calls"]
            checked += 1
    assert checked == CASES[name][1].world_size
