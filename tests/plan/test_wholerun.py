"""Failures, checkpoints, goodput, power, calendar and money against worked and measured values."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.plan.devices.chips import chip_named
from wingspan.plan.whole.wholerun import (
    FAILURES,
    WholeRun,
    calendar_days,
    daly_interval,
    goodput,
    node_watts,
    whole_run,
)
from wingspan.project import Fleet

H100 = chip_named("H100 SXM")


def run_of(fleet: Fleet, step_s: float = 10.0, busy: float = 0.8, tokens: float = 1e12) -> WholeRun:
    return whole_run(
        tokens=tokens,
        tokens_per_step=16_777_216,
        step_s=step_s,
        busy=busy,
        parameters=405e9,
        chip=chip_named(fleet.device),
        fleet=fleet,
    )


@pytest.mark.parametrize(
    ("stall", "between", "interval"),
    [
        (5.0, 11_134.0, 330.4),  # sqrt(2 d M) = 333.7; x = 0.01498; 333.7 (1 + 0.00499 + 0.00002) - 5
        (300.0, 3600.0, 1276.5),  # 1469.7 (1 + 0.20412 / 3 + 0.041667 / 9) - 300
        (100.0, 40.0, 40.0),  # the stall is longer than two lives: save once per life
    ],
)
def test_checkpoint_interval_is_dalys(stall: float, between: float, interval: float) -> None:
    assert daly_interval(stall, between) == pytest.approx(interval, rel=1e-3)


def test_goodput_by_hand() -> None:
    """tau = 1272 s, d = 300 s, M = 3600 s, R = 600 s: M e^(1/6) (e^0.43667 - 1) = 2329.0, and 1272 over it."""
    assert goodput(300, 1272, 3600, 600) == pytest.approx(1272 / 2329.0, rel=1e-3)
    assert goodput(5, 300, 1e12, 600) == pytest.approx(300 / 305)  # nothing ever fails: only the stalls


@given(
    stall=st.floats(0.1, 600),
    between=st.floats(60, 1e7),
    restart=st.floats(0, 3600),
    other=st.floats(0.2, 5.0),
)
def test_no_other_interval_is_better(stall: float, between: float, restart: float, other: float) -> None:
    """Equation 37 is an expansion: at most 1% from the best where a stall is shorter than half a life."""
    best = daly_interval(stall, between)
    kept = goodput(stall, best, between, restart)
    assert 0 <= kept < 1
    if stall < between / 2:
        assert goodput(stall, best * other, between, restart) <= kept * 1.01


@given(devices=st.integers(8, 200_000))
def test_failures_grow_with_the_fleet_and_goodput_falls(devices: int) -> None:
    one, two = (run_of(Fleet(device="H100 SXM", devices=n)) for n in (devices, 2 * devices))
    assert two.mean_hours_between_failures == pytest.approx(one.mean_hours_between_failures / 2)
    assert two.goodput < one.goodput
    assert two.days >= one.days
    assert all(math.isfinite(value) for value in (one.days, one.energy_mwh or 0.0, one.cost or 0.0))


def test_llama_3_breaks_as_often_as_reported_and_keeps_more_than_nine_tenths() -> None:
    """16,384 H100: 419 unexpected interruptions in 54 days; effective time above 90% (arXiv 2407.21783)."""
    run = run_of(Fleet(device="H100 SXM", devices=16_384))
    assert run.failures / run.days == pytest.approx(7.76, rel=0.01)
    assert 0.90 - 0.03 <= run.goodput <= 0.97


def test_published_rates_of_failure() -> None:
    """Per 1,000 node-days: Llama 3 3.8, RSC-1 6.5, RSC-2 2.34; MTTF of 1,024 GPU on RSC-1 7.9 h (arXiv 2410.21680)."""
    per_node_day = [rate * 8 * 24 / 1e6 for rate in FAILURES.values()]
    assert per_node_day[:3] == pytest.approx([3.79e-3, 6.50e-3, 2.34e-3], rel=0.01)
    rsc = run_of(Fleet(device="A100-80GB SXM", devices=1024, failures_per_million_device_hours=33.9))
    assert rsc.mean_hours_between_failures == pytest.approx(1e6 / 33.9 / 1024)


def test_the_project_may_know_its_own_rate() -> None:
    fleet = Fleet(device="H100 SXM", devices=1000, failures_per_million_device_hours=100)
    assert run_of(fleet).mean_hours_between_failures == pytest.approx(10)


def test_power_lies_between_waiting_and_full_load() -> None:
    """8 x H100: 7,150 W at full load; 8 x B200: 9,577 W (MLPerf power logs)."""
    assert 8 * (node_watts(H100, 1.0) or 0) == pytest.approx(7150, rel=0.01)
    assert 8 * (node_watts(chip_named("B200 SXM"), 1.0) or 0) == pytest.approx(9577, rel=0.01)
    assert node_watts(chip_named("TPU v5e"), 0.5) is None
    assert (node_watts(H100, 0.5, "air") or 0) == pytest.approx(1.2 * (node_watts(H100, 0.5) or 0))


def test_energy_is_the_sum_of_what_draws_it() -> None:
    fleet = Fleet(device="H100 SXM", devices=1024, pue=1.25)
    run = run_of(fleet)
    assert run.energy_mwh == pytest.approx(sum(run.energy_items_mwh.values()))
    assert run.energy_mwh == pytest.approx((run.site_kw or 0) * run.days * 24 / 1e3)
    assert run.carbon_t == pytest.approx((run.energy_mwh or 0) * 0.4)
    assert run.cost_owned == pytest.approx(sum(run.owned_items_usd.values()))


def test_racks_are_four_nodes_or_the_domain() -> None:
    for name, devices in (("H100 SXM", 32), ("GB200 NVL72", 72), ("TPU v4", 64)):
        run = run_of(Fleet(device=name, devices=4096))
        assert run.heat_kw_per_rack == pytest.approx((run.watts_per_device or 0) * devices / 1e3)


def test_machines_that_arrive_slowly_delay_the_end() -> None:
    """1,000 a week for 4,000: four weeks of ramp; 20 days of the whole fleet's work end two weeks later than that."""
    fleet = Fleet(device="H100 SXM", devices=4000, delivered_per_week=1000, burn_in_days=3)
    assert calendar_days(20, fleet) == pytest.approx(3 + 14 + 20)
    assert calendar_days(14, fleet) == pytest.approx(3 + 28)  # done just as the last machine works
    assert calendar_days(3.5, fleet) == pytest.approx(3 + 14)  # half of the time does a quarter of the work
    assert calendar_days(20, Fleet(device="H100 SXM", devices=4000)) == 20


@pytest.mark.shared_data
def test_node_power_is_within_5_percent_of_the_measured(shared_data: Path) -> None:
    """MLPerf LoRA on 1, 8 and 64 nodes: busy is the time one node would need, from the durations and the samples to
    converge at each batch (mlcommons/logging, rcps_llama2_70b_lora: 3,950 at 8, 9,100 at 32)."""
    logs = json.loads((shared_data / "plan" / "wall_power.json").read_text())
    lora = [log for log in logs if "lora" in log["bench"] and "SMC" in log["system"] and "ac-power" in log["key"]]
    alone = next(log for log in lora if log["nodes"] == 1)
    samples = {1: 3950, 8: 3950, 64: 9100}
    assert len(lora) >= 6
    for log in lora:
        ideal = alone["dur_s"] * samples[log["nodes"]] / samples[1] / log["nodes"]
        watts = 8 * (node_watts(H100, ideal / log["dur_s"]) or 0)
        assert watts == pytest.approx(log["mean_w_node"], rel=0.05), log["key"]
