"""This machine's stages against the run of the laptop example that the README shows."""

from pathlib import Path

import pytest

from wingspan import assets
from wingspan.model.shape import shape_of
from wingspan.plan.devices.machine import Measurement
from wingspan.plan.laptop import predict_stages
from wingspan.project import Layout
from wingspan.project_file import load_project
from wingspan.units import GIB

EXAMPLE = Path(__file__).parents[2] / "examples" / "laptop"
TWO_CORES = Measurement("two cores of a server", 2, 25_276_502_016, 28.8e9, 203e9, 421e9, 2.1)
README = {  # seconds and GiB, the open model converted for the first time
    "prepare": (12, 1.02),
    "train": (163, 3.89),
    "align": (165, 3.57),
    "evaluate": (74, 2.71),
}


@pytest.mark.parametrize("stage", README)
def test_predictions_hold_the_readmes_run_in_their_bands(
    stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(assets, "converted_folder", lambda name: tmp_path / "not yet")
    project = load_project(EXAMPLE)
    shape = shape_of(project.model)
    predicted = predict_stages(project, shape, Layout(micro_batch=8), TWO_CORES, 4200)[stage]
    seconds, gib = README[stage]
    assert predicted["wall_s"]["low"] <= seconds <= predicted["wall_s"]["high"]
    memory = predicted["peak_memory_bytes"]
    assert memory["low"] <= gib * GIB <= memory["high"]


def test_an_open_model_is_converted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    project = load_project(EXAMPLE)
    shape = shape_of(project.model)

    def prepare_s(folder: Path) -> float:
        monkeypatch.setattr(assets, "converted_folder", lambda name: folder)
        found = predict_stages(project, shape, Layout(micro_batch=8), TWO_CORES, 4200)
        return float(found["prepare"]["wall_s"]["value"])

    assert prepare_s(tmp_path / "not yet") > prepare_s(tmp_path) + 5
