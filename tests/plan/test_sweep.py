"""Sweeps over fleets, and what a budget or a deadline allows."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from wingspan.cli.main import app
from wingspan.errors import InputError
from wingspan.plan.devices.chips import chip_named
from wingspan.plan.layouts.sweep import Sweep, days, device_counts, dollars
from wingspan.plan.step.grid import Workload
from wingspan.plan.step.network import Network
from wingspan.project import Fleet

EXAMPLES = Path(__file__).parents[2] / "examples"
LLAMA_8B = Network(32, 4096, 32, 8, 128, 14336, 128256)


def sweep_of(network: Network = LLAMA_8B, batch: int = 512, tokens: float = 1e12, devices: int = 256) -> Sweep:
    chip = chip_named("H100 SXM")
    return Sweep(network, Workload(8192, batch), tokens, chip, Fleet(device=chip.name, devices=devices))


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e6", 5e6), ("5M", 5e6), ("$5,000,000", 5e6), (" 2.5 b ", 2.5e9), ("750k", 750e3), ("5e6 USD", 5e6)],
)
def test_money_is_read_as_people_write_it(text: str, value: float) -> None:
    assert dollars(text) == value


@pytest.mark.parametrize(("text", "value"), [("30d", 30), ("12h", 0.5), ("6w", 42), ("2 weeks", 14), ("45", 45)])
def test_time_is_read_as_people_write_it(text: str, value: float) -> None:
    assert days(text) == value


@pytest.mark.parametrize("text", ["nan", "-3", "0", "inf", "-inf", "1e99", "5 parsecs", "", "$", "1,2,x", "5d"])
def test_what_is_no_money_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(InputError) as caught:
        dollars(text)
    assert caught.value.where == "--budget"


@pytest.mark.parametrize("text", ["nan", "-3d", "0h", "inf", "1e9d", "soon", "", "3 $"])
def test_what_is_no_time_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(InputError) as caught:
        days(text)
    assert caught.value.where == "--deadline"


@pytest.mark.parametrize("text", ["", "0", "-8", "8,", "8.5", "nan", "8;16", "99999999"])
def test_what_is_no_list_of_devices_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        device_counts(text)
    assert caught.value.where == "--devices"


@settings(max_examples=8, deadline=None)
@given(counts=st.lists(st.integers(1, 3000), min_size=2, max_size=4, unique=True), batch=st.integers(1, 1000))
def test_more_devices_are_never_slower(counts: list[int], batch: int) -> None:
    rows = sweep_of(batch=batch).over(sorted(counts))
    times = [row["calendar_days"] for row in rows if "used" in row]
    assert times == sorted(times, reverse=True)
    for row in rows:
        assert row.get("used", 0) <= row["devices"]
        assert abs(row.get("global_batch", batch) / batch - 1) <= 0.1


def test_a_batch_of_eight_feeds_no_thousand_devices() -> None:
    small = Network(8, 512, 8, 8, 64, 2048, 32000, tied=True)
    row = sweep_of(small, batch=8).over([1000])[0]
    assert row["used"] <= 64


def test_the_fewest_devices_meet_the_deadline_and_half_of_them_do_not() -> None:
    sweep = sweep_of()
    fleet = sweep.within(None, 20.0)["fleet"]
    assert fleet["calendar_days"] <= 20
    assert sweep.over([fleet["used"] // 2])[0]["calendar_days"] > 20


def test_a_budget_buys_tokens_in_proportion() -> None:
    sweep = sweep_of()
    whole = sweep.within(1e6, None)
    half = sweep.within(5e5, None)
    assert half["tokens"] == pytest.approx(whole["tokens"] / 2)
    assert whole["fits"] == (whole["tokens"] >= 1e12)
    assert half["best_model"]["loss"] > whole["best_model"]["loss"]


def test_a_deadline_that_no_fleet_meets_says_what_could_be() -> None:
    with pytest.raises(InputError, match="the fastest found takes"):
        sweep_of().within(None, 0.5)


def test_money_without_a_price_asks_for_one() -> None:
    chip = chip_named("MI355X")
    sweep = Sweep(LLAMA_8B, Workload(8192, 512), 1e12, chip, Fleet(device=chip.name, devices=64))
    with pytest.raises(InputError, match="does not know the price") as caught:
        sweep.within(1e6, None)
    assert "price_per_device_hour" in caught.value.remedy


def test_a_chip_without_a_network_sweeps_only_within_its_domain() -> None:
    chip = chip_named("Trainium3")
    sweep = Sweep(LLAMA_8B, Workload(8192, 512), 1e12, chip, Fleet(device=chip.name, devices=64))
    assert sweep.over([64])[0]["used"] == 64
    with pytest.raises(InputError, match="does not know network_gb_s"):
        sweep.over([1024])


def test_the_command_prints_a_table_or_one_document() -> None:
    arguments = ["plan", str(EXAMPLES / "frontier"), "--devices", "5000,10000", "--budget", "5M"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "10,000" in shown.output
    assert "tokens of this model" in " ".join(shown.output.split())
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert [row["devices"] for row in found["sweep"]] == [5000, 10000]
    assert found["solved"]["budget"] == 5e6
    assert CliRunner().invoke(app, [*arguments, "--deadline", "0d"]).exit_code == 2
