"""The stage: its files, what other stages read of them, and that the layout never changes by itself."""

import json
from pathlib import Path

import pytest

from wingspan.errors import InputError
from wingspan.figures import Figure
from wingspan.plan import stage
from wingspan.plan.devices.machine import Measurement, nominal
from wingspan.progress import SilentProgress
from wingspan.project import Layout, Project
from wingspan.project_file import load_project
from wingspan.workspace import Run, StageContext

EXAMPLES = Path(__file__).parents[2] / "examples"


def busy_machine(**_: object) -> Measurement:
    """A machine that measures a third of its rates because something else runs."""
    found = nominal()
    return Measurement(
        found.processor, found.cores, found.memory_bytes, 5e9, found.float32_flops / 3, found.float32_flops, 2.0
    )


def run_plan(project: Project, folder: Path) -> dict[str, object]:
    folder.mkdir(parents=True, exist_ok=True)
    return stage.work(StageContext(Run(folder, project, folder), folder, SilentProgress()))


@pytest.fixture
def laptop() -> Project:
    return load_project(EXAMPLES / "laptop")


@pytest.fixture
def frontier() -> Project:
    return load_project(EXAMPLES / "frontier")


def test_laptop_predicts_every_stage_of_this_machine(
    laptop: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "measure", busy_machine)
    summary = run_plan(laptop, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert set(plan["this_machine"]["stages"]) == {"prepare", "train", "align", "evaluate"}
    for figures in plan["this_machine"]["stages"].values():
        for name in ("wall_s", "peak_memory_bytes"):
            figure = Figure(**figures[name])
            assert figure.basis == "predicted"
            assert 0 < figure.low < figure.value < figure.high
    assert plan["machine"]["cores"] == nominal().cores
    assert plan["at_scale"]["could_train"]["parameters"] > 1e11
    assert "this machine" in str(summary["answer"])
    json.dumps(summary)


def test_layout_is_byte_stable_between_measurements(
    laptop: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "measure", busy_machine)
    run_plan(laptop, tmp_path / "busy")
    monkeypatch.setattr(stage, "measure", lambda **_: nominal())
    run_plan(laptop, tmp_path / "quiet")
    busy, quiet = (tmp_path / name / "layout.json" for name in ("busy", "quiet"))
    assert busy.read_bytes() == quiet.read_bytes()
    record = json.loads(busy.read_text())
    layout = Layout(**record["layout"])
    assert layout.world_size == 1
    assert record["source"] == "chosen"
    assert (record["device"], record["devices"]) == ("this-machine", 1)
    assert laptop.train.global_batch % layout.micro_batch == 0


def test_frontier_is_planned_without_an_accelerator(
    frontier: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "measure", busy_machine)
    run_plan(frontier, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    fleet, layout = plan["fleet"], Layout(**plan["fleet"]["layout"])
    assert layout.world_size == frontier.fleet.devices == 10_240
    assert layout.cp == layout.ep == 1
    assert frontier.train.global_batch % (layout.data_parallel * layout.micro_batch) == 0
    assert fleet["memory_bytes"]["value"] < fleet["device_memory_bytes"]
    assert sum(fleet["step_items_s"].values()) == pytest.approx(fleet["step_s"]["value"])
    assert 0.25 < fleet["mfu"]["value"] < fleet["hfu"]["value"] < 0.75
    own = next(chip for chip in plan["chips"] if chip["device"] == "H100 SXM")
    assert own["break_even_usd_per_hour"] == pytest.approx(frontier.fleet.price_per_device_hour)
    assert 0.85 < fleet["goodput"]["value"] < 1
    assert 30 < fleet["days"]["value"] < 120
    assert sorted(path.name for path in (tmp_path / "launch").iterdir()) == ["train.sbatch", "train.sh", "train.yaml"]


def test_a_given_layout_is_kept(frontier: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "measure", busy_machine)
    given = Layout(dp_shard=80, tp=8, pp=16, recompute="full")
    run_plan(frontier.model_copy(update={"layout": given}), tmp_path)
    record = json.loads((tmp_path / "layout.json").read_text())
    assert record["source"] == "given"
    assert Layout(**record["layout"]) == given


def test_an_impossible_fleet_is_refused_before_anything_is_written(
    frontier: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "measure", busy_machine)
    few = frontier.model_copy(update={"fleet": frontier.fleet.model_copy(update={"devices": 8})})
    with pytest.raises(InputError, match="fits on no layout of 8 H100 SXM"):
        run_plan(few, tmp_path)
    assert not list(tmp_path.iterdir())
