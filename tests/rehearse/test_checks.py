"""Each defect of a first day is planted, and must be found; sound settings must pass."""

from __future__ import annotations

import pytest
from torch.distributed.fsdp import FSDPModule

from wingspan.project import Layout, Train
from wingspan.rehearse.checks import check_samples, check_scale, check_timeouts, gradient_scale
from wingspan.train.parallel.part import Part

LAYOUT = Layout(dp_replicate=4, dp_shard=320, tp=8)
TRAIN = Train(sequence=64, global_batch=2560)


def test_a_fleet_that_reads_each_sample_once_passes() -> None:
    assert check_samples(LAYOUT, TRAIN, seed=1) == []


@pytest.mark.parametrize("wrong", ["replicas", "everybody"])
def test_data_ranks_that_repeat_samples_are_found(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    read = {"replicas": lambda part: part.mesh.get_local_rank("dp_shard"), "everybody": lambda part: 0}[wrong]
    monkeypatch.setattr(Part, "data_rank", property(read))
    (found,) = check_samples(LAYOUT, TRAIN, seed=1)
    assert found.severity == "stops"
    assert "too often" in found.problem


@pytest.mark.parametrize("layout", [Layout(dp_shard=1280), LAYOUT, Layout(dp_replicate=64)])
def test_gradients_of_the_fleet_are_those_of_one_process(layout: Layout) -> None:
    assert gradient_scale(layout) == pytest.approx(1, abs=1e-5)


def test_a_wrong_divide_factor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = FSDPModule.set_gradient_divide_factor
    monkeypatch.setattr(FSDPModule, "set_gradient_divide_factor", lambda module, factor: stock(module, 2.0))
    (found,) = check_scale(Layout(dp_shard=320))
    assert "0.5 times" in found.problem


def test_a_timeout_shorter_than_a_step_is_found() -> None:
    def severities(step_s: float) -> list[str]:
        return [one.severity for one in check_timeouts(TRAIN, {"step_s": {"value": step_s}})]

    assert [severities(step_s) for step_s in (30.0, 150.0, 400.0)] == [[], ["warns"], ["stops"]]
