"""Layouts are fitted to the batch, and refused with the setting to change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.parallel.layouts import fit_layout, layers_of_stage

SHAPE = ModelShape("qwen3", 4, 64, 8, 4, 16, 128, 501, False)
EXPERTS = ModelShape("qwen3_moe", 4, 64, 8, 4, 16, 128, 501, False, experts=4, experts_per_token=2, expert_ffn=32)
TIED = ModelShape("qwen3", 4, 64, 8, 4, 16, 128, 501, True)


def fit(layout: Layout, shape: ModelShape = SHAPE, **changes: Any) -> Layout:
    options = {"sequence": 32, "global_batch": 8, "ranks": layout.world_size} | changes
    return fit_layout(layout, shape, **options)


def test_the_micro_batch_shrinks_until_it_divides() -> None:
    assert fit(Layout(micro_batch=16)).micro_batch == 8
    assert fit(Layout(micro_batch=5), global_batch=12).micro_batch == 4
    assert fit(Layout(micro_batch=8, pp=2)).micro_batch == 4  # two micro-batches keep two stages busy
    assert fit(Layout(micro_batch=3)).micro_batch == 2


@pytest.mark.parametrize(
    ("layout", "changes", "where"),
    [
        ({"dp_shard": 4}, {"ranks": 2}, "layout"),
        ({"dp_shard": 3}, {}, "train.global_batch"),
        ({"dp_shard": 8, "pp": 2}, {}, "train.global_batch"),
        ({"tp": 8}, {}, "layout.tp"),
        ({"tp": 4}, {"sequence": 30}, "layout.tp"),
        ({"pp": 8}, {}, "layout.pp"),
        ({"pp": 2, "schedule": "zbv"}, {"shape": TIED}, "layout.schedule"),
        ({"schedule": "zbv"}, {}, "layout.schedule"),
        ({"interleave": 2}, {}, "layout.interleave"),
        ({"pp": 2, "interleave": 4}, {}, "layout.pp"),
        ({"pp": 2, "interleave": 2}, {"global_batch": 3}, "train.global_batch"),
        ({"cp": 2}, {"sequence": 30}, "layout.cp"),
        ({"cp": 4, "tp": 4}, {"sequence": 40}, "layout.cp"),
        ({"dp_shard": 2, "ep": 2}, {}, "layout.ep"),
        ({"dp_shard": 3, "ep": 3}, {"shape": EXPERTS, "global_batch": 9}, "layout.ep"),
        ({"dp_shard": 2, "ep": 4}, {"shape": EXPERTS}, "layout.ep"),
        ({"tp": 2}, {"shape": replace(EXPERTS, expert_ffn=33)}, "layout.tp"),
        ({"precision": "fp8"}, {}, "layout.precision"),
    ],
)
def test_what_cannot_be_is_refused(layout: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        fit(Layout(**layout), **changes)
    assert caught.value.where == where
    assert caught.value.remedy


@given(layers=st.integers(1, 200), data=st.data())
def test_stages_share_all_layers_evenly_and_in_order(layers: int, data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, layers))
    ranges = [layers_of_stage(layers, stages, stage) for stage in range(stages)]
    assert [layer for one in ranges for layer in one] == list(range(layers))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
