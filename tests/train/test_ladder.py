"""The scaling law finds the constants it was made of; the ladder is climbed once and foretells with a band."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from train import prepared
from wingspan.cli.main import app
from wingspan.train.ladder.law import Law, fit_law, predict

TRUE = Law(1.7, 400.0, 0.35, 410.0, 0.275)
SIZES, BUDGETS = np.repeat([1e5, 2e5, 4e5], 3), np.tile([3e6, 6e6, 12e6], 3)


def test_a_law_is_found_again_and_extrapolates() -> None:
    found = fit_law(SIZES, BUDGETS, TRUE.loss(SIZES, BUDGETS))
    assert found.model_exponent == pytest.approx(TRUE.model_exponent)
    assert found.data_exponent == pytest.approx(TRUE.data_exponent)
    assert found.loss(4e6, 1e8) == pytest.approx(TRUE.loss(4e6, 1e8), rel=1e-6)


def test_the_band_holds_the_truth_about_as_often_as_it_says() -> None:
    random, truth, held = np.random.default_rng(0), float(TRUE.loss(1.6e6, 48e6)), 0
    for seed in range(8):
        losses = TRUE.loss(SIZES, BUDGETS) * (1 + 0.003 * random.standard_normal(len(SIZES)))
        law = fit_law(SIZES, BUDGETS, losses)
        band = predict(law, SIZES, BUDGETS, losses, (1.6e6, 48e6), seed)
        assert band.low <= band.value <= band.high
        held += band.low <= truth <= band.high
    assert held >= 6


def test_constants_are_never_negative_and_too_few_runs_are_refused() -> None:
    law = fit_law(SIZES, BUDGETS, np.linspace(5, 6, len(SIZES)))  # larger models are worse: no term can say so
    assert min(law.floor, law.model, law.data) >= 0
    with pytest.raises(ValueError, match="five runs"):
        fit_law(SIZES[:4], BUDGETS[:4], np.ones(4))


def climb(folder: Path, *options: str) -> dict:
    done = CliRunner().invoke(app, ["train", "ladder", str(folder), "--runs", str(folder / "runs"), "--json", *options])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_ladder_is_climbed_once_and_predicts(tmp_path: Path) -> None:
    prepared.prepared_run(tmp_path, tokens=40 * 256, model="")
    options = ("--set", "model.hidden=128", "--set", "model.heads=16", "--set", "model.kv_heads=8", "--compute", "0.4")
    first = climb(tmp_path, *options)
    assert len(first["rungs"]) >= 6
    assert len({rung["parameters"] for rung in first["rungs"]}) >= 2
    largest = max(first["rungs"], key=lambda rung: (rung["parameters"], rung["tokens"]))
    assert largest["parameters"] < first["parameters"]
    assert largest["tokens"] < first["tokens"]
    assert first["loss"]["low"] <= first["loss"]["value"] <= first["loss"]["high"]
    assert 0 < first["compute_share"] < 0.8
    results = sorted((tmp_path / "runs/tiny/ladder").glob("*/result.json"))
    assert len(results) == len(first["rungs"])
    times = [path.stat().st_mtime_ns for path in results]
    results[0].unlink()  # as if it had been stopped in this one
    assert climb(tmp_path, *options) == first
    assert [path.stat().st_mtime_ns for path in results[1:]] == times[1:]


def test_a_model_of_others_weights_has_no_family(tmp_path: Path) -> None:
    prepared.prepared_run(tmp_path, start=str(tmp_path / "model"))
    done = CliRunner().invoke(app, ["train", "ladder", str(tmp_path), "--runs", str(tmp_path / "runs")])
    assert done.exit_code == 2
    assert "model.start" in done.output
