"""Whole runs beside their makers' reports."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from wingspan.plan.published.wholeruns import backtest_whole_runs, is_whole_runs, network_like, render_whole_runs

HEADER = (
    "id,model,params_b,active_params_b,tokens_t,seq_len,device,n_devices,gpu_hours_reported,days_reported,"
    "energy_mwh_reported,power_basis,failures_per_day,goodput_pct,source,quality,notes"
)


def write(folder: Path, *rows: str) -> Path:
    path = folder / "wholeruns.csv"
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    return path


def test_a_file_is_known_by_its_columns() -> None:
    assert is_whole_runs(HEADER.split(","))
    assert not is_whole_runs(["device", "n_devices", "layers", "hidden", "heads", "seq_len"])


def test_rows_are_compared_in_what_they_report_and_others_say_why_not(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "big,Some 405B,405.9,405.9,15.6,,H100-SXM,16384,30840000,,,,7.76,>90,card,A,",
        "kin,Some 8B,8.03,8.03,15,,H100-SXM,,1300000,,,,,,card,A,",
        "days,Other 7B,6.7,,1.0,2048,A100-80GB,128,,50,,,0.14-0.29 (1-2 per week),,arXiv 2302.1,B,",
        "basis,Third 7B,6.7,6.7,1.0,2048,A100-80GB,,100000,,44,400W x PUE 1.1,,,arXiv 2302.1,C,",
        "chip,Fourth,1,1,1,,Abacus,8,1000,,,,,,x,C,",
        "minus,Fifth 7B,6.7,6.7,1.0,2048,A100-80GB,-128,100000,,,,,,x,C,",
        "many,Sixth 7B,6.7,6.7,1.0,2048,A100-80GB,1e12,100000,,,,,,x,C,",
        "cluster,Cluster,,,,,A100-80GB,16384,,,,,6.50 per 1000 node-days,,x,C,",
    )
    found = backtest_whole_runs(path)
    figures = {row["id"]: row["figures"] for row in found["rows"]}
    assert set(figures["big"]) == {"device_hours", "failures_per_day", "goodput"}
    assert figures["big"]["goodput"]["error"] == 0  # above 90% is what was reported
    kin = next(row for row in found["rows"] if row["id"] == "kin")
    assert (kin["devices"], kin["inferred"]) == (16384, ["devices", "shape", "batch", "layout"])
    assert figures["days"]["device_hours"]["reported"] == 128 * 50 * 24
    assert figures["days"]["failures_per_day"]["reported"] == pytest.approx(0.215)
    assert figures["basis"]["energy_mwh"]["predicted"] == pytest.approx(44)
    assert figures["cluster"]["failures_per_day"]["reported"] == pytest.approx(6.5 * 2.048)
    assert {one["id"]: one["reason"] for one in found["refused"]}.keys() == {"chip", "minus", "many"}
    console = Console(width=130, record=True)
    console.print(render_whole_runs(found))
    assert "16,384*" in console.export_text()


@given(size=st.floats(1e8, 1e12), spread=st.sampled_from([1.0, 4.0, 18.0]))
def test_a_shape_has_the_parameters_it_was_made_for(size: float, spread: float) -> None:
    network = network_like(size * spread, size, vocab=32_000)
    if size > 2e9:
        assert network.parameters == pytest.approx(size * spread, rel=0.12)
    assert network.heads % network.kv_heads == 0


@pytest.mark.shared_data
def test_published_runs_take_what_plan_says(shared_data: Path) -> None:
    found = backtest_whole_runs(shared_data / "plan" / "wholeruns.csv")
    hours, best = found["errors"]["device_hours"], found["quality_a"]["device_hours"]
    assert best["rows"] == 16
    assert best["median"] < 0.12
    assert best["within_15"] > 0.65  # not the two distilled models, whose teacher's work is not told apart
    assert hours["coverage90"] >= 0.85
    assert found["errors"]["goodput"]["mape"] < 0.03
    energy = {
        row["id"]: row["figures"]["energy_mwh"]["error"] for row in found["rows"] if "energy_mwh" in row["figures"]
    }
    assert abs(energy["wr32"]) < 0.3  # OLMo 2 7B: neither its hours nor its watts are told
