"""Measured runs beside predictions: reading them, the errors, and published runs as a whole."""

from pathlib import Path

import pytest

from wingspan.errors import InputError
from wingspan.plan.devices.chips import chip_named
from wingspan.plan.layouts.choice import Problem
from wingspan.plan.published.backtest import Errors, back_test, calibrate
from wingspan.plan.published.runs import read_runs, software_of
from wingspan.plan.step import steptime
from wingspan.plan.step.calibration import CONSTANTS, groups_of, read_calibration, shipped, write_calibration
from wingspan.plan.step.grid import Grid, Software, Workload
from wingspan.plan.step.network import Network
from wingspan.plan.whole.wholerun import whole_run
from wingspan.project import Fleet

HEADER = (
    "id,source_family,device,n_devices,layers,hidden,heads,seq_len,tp,pp,dp,micro_batch,global_batch_seqs,step_time_s"
)
LLAMA3_405B = Network(126, 16384, 128, 8, 128, 53248, 128256)


def write(folder: Path, *rows: str) -> Path:
    path = folder / "runs.csv"
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    return path


def test_good_rows_are_used_and_bad_ones_listed_with_the_reason(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "good,mine,H100 SXM,8,32,4096,32,4096,1,1,8,1,64,2.0",
        "lean,mine,H100-SXM,8,32,4096,32,4096,,,,,,1.0",
        "nan,mine,H100 SXM,8,32,4096,32,4096,1,1,8,1,64,nan",
        "chip,mine,H1000,8,32,4096,32,4096,1,1,8,1,64,2.0",
        "zero,mine,H100 SXM,0,32,4096,32,4096,1,1,8,1,64,2.0",
        "none,mine,H100 SXM,8,,4096,32,4096,1,1,8,1,64,2.0",
    )
    runs, refused = read_runs(path)
    assert [run.id for run in runs] == ["good", "lean"]
    reasons = {one.id: one.reason for one in refused}
    assert "step_time_s" in reasons["nan"]
    assert "no chip 'H1000'" in reasons["chip"]
    assert "n_devices" in reasons["zero"]
    assert "layers is missing" in reasons["none"]
    assert {"tp", "micro_batch", "recompute"} <= set(runs[1].inferred)
    assert runs[1].grid.shard[0] == 8


def test_errors_are_those_of_the_predictions(tmp_path: Path) -> None:
    found = back_test(write(tmp_path, "a,one,H100 SXM,8,32,4096,32,4096,1,1,8,1,64,2.0"))
    errors = Errors.of(found.rows)
    assert errors.rows == 1
    assert errors.mape == pytest.approx(abs(found.rows[0].step_s / 2.0 - 1))
    assert found.errors_by(lambda run: run.family) == {"one": errors}


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("name,speed\nx,1\n")
    with pytest.raises(InputError, match="columns are missing: device"):
        read_runs(path)


def test_one_measured_step_of_a_cluster_mends_its_other_layouts(tmp_path: Path) -> None:
    """A cluster that is slower than published ones throughout: one of its rows tells how much."""
    path = write(tmp_path, *(f"r{tp},mine,H100 SXM,64,32,4096,32,4096,{tp},1,{64 // tp},1,256,1.0" for tp in (1, 2, 4)))
    usual = back_test(path)
    rows = [
        f"{row.run.id},mine,H100 SXM,64,32,4096,32,4096,{2**i},1,{64 >> i},1,256,{1.3 * row.step_s}"
        for i, row in enumerate(usual.rows)
    ]
    own = calibrate(read_runs(write(tmp_path, rows[0]))[0], shipped())
    mended = back_test(write(tmp_path, *rows), own)
    assert max(abs(row.error or 0) for row in back_test(write(tmp_path, *rows)).rows) > 0.2
    assert max(abs(row.error or 0) for row in mended.rows) < 0.1


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    write_calibration(tmp_path / "mine.json", shipped())
    assert read_calibration(tmp_path / "mine.json") == shipped()
    (tmp_path / "other.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="not a calibration"):
        read_calibration(tmp_path / "other.json")


def test_few_constants_belong_to_a_device_and_to_a_release() -> None:
    counts = shipped().counts()
    assert counts["per_device"] <= 5
    assert counts["per_generation"] <= 3
    assert {one.name for one in CONSTANTS} == {constant for constant, _ in shipped().corrections}


def test_a_device_and_a_software_that_nobody_measured_have_wider_bands() -> None:
    new = Software("unheard of", generation=("fsdp", "unheard of", "unheard of 2030", ""))
    known = software_of({"framework": "Megatron-LM", "year": "2024"})
    h100, gaudi3 = chip_named("H100 SXM"), chip_named("Gaudi3")
    cases = ((h100, known), (h100, new), (gaudi3, new))
    bands = [shipped().band(groups_of(chip, one), experts=False) for chip, one in cases]
    assert bands[0].runs > 50
    assert bands[2].runs == 0
    assert bands[0].high < min(bands[1].high, bands[2].high)


def llama_step_s() -> float:
    """Llama 3 405B on 16,384 H100 (arXiv 2407.21783): tp 8, pp 16 interleaved, dp 128, 16M tokens of 8k sequences."""
    layout = Grid.product({"shard": [128], "tp": [8], "pp": [16], "interleave": [8], "zero": [1]})
    problem = Problem(
        LLAMA3_405B,
        Workload(8192, 2048),
        chip_named("H100 SXM"),
        16_384,
        8,
        software_of({"framework": "Meta internal 4D parallel", "year": "2024"}),
    )
    return float(steptime.total(problem.step_time(layout))[0])


def test_llama_405b_runs_as_fast_as_its_paper_says() -> None:
    """41% MFU with full attention counted, 38 to 43% over the run; within 20% here."""
    flops = (6 * LLAMA3_405B.matmul_parameters + 12 * 126 * 8192 * 16384) * 2048 * 8192
    assert flops / (llama_step_s() * 16_384 * 989e12) == pytest.approx(0.41, rel=0.2)


def test_llama_405b_takes_the_published_device_hours_and_breaks_as_often() -> None:
    """30.84M H100-hours (model card), 7.8 unexpected interruptions a day, more than 90% effective time."""
    run = whole_run(
        tokens=15.6e12,
        tokens_per_step=2048 * 8192,
        step_s=llama_step_s(),
        busy=0.8,
        parameters=405.9e9,
        chip=chip_named("H100 SXM"),
        fleet=Fleet(device="H100 SXM", devices=16_384),
    )
    assert run.device_hours == pytest.approx(30.84e6, rel=0.2)
    assert run.failures / run.days == pytest.approx(7.8, rel=0.05)
    assert 0.88 < run.goodput < 0.97


@pytest.mark.shared_data
def test_published_runs_are_predicted_within_the_bands_that_plan_shows(shared_data: Path) -> None:
    found = back_test(shared_data / "plan" / "runs_public.csv")
    step = found.step_time()
    assert not found.refused
    assert step["mape"] < 0.08
    assert step["median"] < 0.05
    assert 0.85 <= step["coverage90"] <= 0.97
