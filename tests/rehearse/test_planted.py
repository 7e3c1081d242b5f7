"""Defects planted in what train builds and steps: the rehearsal of the real code finds them."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import fully_shard

from wingspan.errors import WorkError
from wingspan.model import network
from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Train
from wingspan.rehearse import findings
from wingspan.rehearse.rank import RankRehearsal, kinds_of_ranks, rehearse_rank
from wingspan.train import loop
from wingspan.train.parallel import build

SHAPE = ModelShape("qwen3", 2, 64, 4, 4, 16, 128, 256, tie_embeddings=False)
LAYOUT = Layout(pp=2, dp_shard=32)


def rehearsed() -> list[RankRehearsal]:
    """Both kinds of rank, in forks of this process: what was planted here is there too."""
    tasks = kinds_of_ranks(SHAPE, LAYOUT, Train(sequence=64, global_batch=64), accelerator=True)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(rehearse_rank, tasks, chunksize=1)


def test_a_sound_fleet_gives_no_finding() -> None:
    assert findings.check_ranks(rehearsed(), None, 0) == []


def test_a_parameter_left_whole_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(module: torch.nn.Module, **options: Any) -> Any:
        left = {one for name, one in module.named_parameters() if name.endswith("input_layernorm.weight")}
        for one in left:
            one.requires_grad_(False)  # else the optimizer refuses it beside sharded ones
        return fully_shard(module, ignored_params=left, **options)

    monkeypatch.setattr(build, "fully_shard", forgetful)
    found = findings.check_ranks(rehearsed(), None, 0)
    assert [one.severity for one in found] == ["warns", "warns"]
    assert "first stage: 1 parameters lie whole" in found[0].problem
    assert "model.layers.0.input_layernorm.weight" in found[0].problem


def test_a_stage_that_leaves_out_a_collective_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = loop.gradient_norms

    def quiet(part: Any) -> torch.Tensor:
        return torch.ones(part.layout.world_size) if part.mesh.get_local_rank("pp") == 0 else stock(part)

    monkeypatch.setattr(loop, "gradient_norms", quiet)
    (found,) = findings.check_ranks(rehearsed(), None, 0)
    assert found.severity == "stops"
    assert "first stage and last stage make different calls" in found.problem


def test_a_failure_names_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("widths do not match")

    monkeypatch.setattr(network.RMSNorm, "forward", broken)
    with pytest.raises(WorkError, match="widths do not match") as caught:
        rehearsed()
    assert "model.layers.0.input_layernorm" in str(caught.value)
