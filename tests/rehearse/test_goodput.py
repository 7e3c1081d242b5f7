"""Months of a run in seconds: hours add up, known answers come out, published runs are met."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingspan.errors import InputError
from wingspan.project import Fleet
from wingspan.rehearse.campaign import THIS_MACHINE, Choices, rehearse_goodput
from wingspan.rehearse.failures import Cause, causes
from wingspan.rehearse.goodput import Campaign, Lives, Operation, live

SOFTWARE = Cause("software", 4e-3, 0, 0, 0, 0, True, 0, "")
BREAKS = replace(SOFTWARE, name="device", nodes_lost=1, repair_h=48)
STEADY = Operation(interval_h=0.2, stall_h=5 / 3600, spares=10_000)
FLEET = Campaign(nodes=1280, work_h=1e9, days=90, restart_h=0.2)

PLAN = {
    "device": "H100 SXM",
    "steps": 100_000,
    "layout": {"dp_replicate": 4},
    "step_s": {"value": 40.0},
    "restart_s": {"value": 600.0},
    "checkpoint_interval_s": {"value": 400.0},
    "site_kw": {"value": 10_000.0},
    "cost": {"value": 2.0e7},
    "device_hours": {"value": 1.0e7},
}


def one(campaign: Campaign, operation: Operation, *catalogue: Cause, seeds: int = 40) -> Lives:
    return live(campaign, [operation], seeds, 1, catalogue or None)[0]


@settings(max_examples=25, deadline=None)
@given(
    nodes=st.integers(1, 4000),
    work_h=st.floats(1, 5000),
    days=st.floats(1, 60),
    restart_h=st.floats(0.01, 5),
    interval_h=st.floats(0.02, 12),
    spares=st.integers(0, 40),
    memory_h=st.sampled_from([0.0, 0.02]),
    replicas=st.sampled_from([1, 8]),
    every=st.sampled_from([0.0, 7.0]),
    speed=st.floats(0.5, 1),
)
def test_every_hour_of_the_clock_is_accounted_for(
    nodes: int,
    work_h: float,
    days: float,
    restart_h: float,
    interval_h: float,
    spares: int,
    memory_h: float,
    replicas: int,
    every: float,
    speed: float,
) -> None:
    campaign = Campaign(nodes, work_h, days, restart_h, maintenance_every_days=every, maintenance_h=6, speed=speed)
    lived = one(campaign, Operation(interval_h, 5 / 3600, spares, memory_h, replicas), seeds=5)
    np.testing.assert_allclose(lived.kept_h + lived.lost_h.sum(axis=1), lived.clock_h, atol=1e-6)
    assert (lived.lost_h > -1e-9).all()
    assert (lived.kept_h <= work_h + 1e-6).all()


def test_a_run_that_nothing_interrupts_pays_only_for_checkpoints() -> None:
    quiet = one(replace(FLEET, work_h=500), STEADY, replace(SOFTWARE, per_node_day=1e-12))
    np.testing.assert_allclose(quiet.goodput, STEADY.interval_h / (STEADY.interval_h + STEADY.stall_h))
    np.testing.assert_allclose(quiet.finished_day, 500 / 24 / quiet.goodput)


def test_goodput_is_what_the_formula_says_for_interruptions_that_are_rare() -> None:
    """1 / ((1 + d / tau) (1 + (R + tau / 2) / M)): Young 1974 with restarts."""
    between_h = 24 / SOFTWARE.per_day(FLEET.nodes)
    stored = STEADY.interval_h / (STEADY.interval_h + STEADY.stall_h)
    expected = stored * (1 - (FLEET.restart_h + STEADY.interval_h / 2) / between_h)
    assert one(FLEET, STEADY, SOFTWARE).goodput.mean() == pytest.approx(expected, abs=0.005)


def test_what_helps_helps() -> None:
    plain = one(FLEET, STEADY, BREAKS).goodput.mean()
    assert one(FLEET, replace(STEADY, memory_interval_h=1 / 60), BREAKS).goodput.mean() > plain
    assert one(FLEET, replace(STEADY, replicas=16), BREAKS).goodput.mean() > plain + 0.03
    by_spares = [one(FLEET, replace(STEADY, spares=spares), BREAKS).goodput.mean() for spares in (0, 5, 10, 20, 40)]
    assert by_spares == sorted(by_spares)
    assert one(replace(FLEET, failure_scale=2), STEADY, BREAKS).goodput.mean() < plain


def test_damage_noticed_late_costs_the_work_since_and_no_copy_in_memory_helps() -> None:
    late = replace(SOFTWARE, lag_h=6, memory_copy_survives=False)
    again = one(FLEET, replace(STEADY, memory_interval_h=1 / 60), late).lost_h[:, 0].mean()
    assert again > 5 * one(FLEET, STEADY, SOFTWARE).lost_h[:, 0].mean()


def test_a_window_of_maintenance_costs_its_hours_and_a_restart_and_no_work() -> None:
    campaign = replace(FLEET, days=10, maintenance_every_days=4, maintenance_h=6)
    lived = one(campaign, STEADY, replace(SOFTWARE, per_node_day=1e-12))
    np.testing.assert_allclose(lived.lost_h.sum(axis=0)[[0, 1, 5]] / 40, [0, 2 * 0.2, 2 * 6])


def test_llama_3_is_met() -> None:
    """466 interruptions in 54 days on 16,384 H100, goodput above 90% (arXiv 2407.21783)."""
    llama = Campaign(nodes=2048, work_h=1e9, days=54, restart_h=0.2)
    lived = one(llama, replace(STEADY, interval_h=0.1, spares=60, memory_interval_h=1 / 60))
    assert lived.interruptions.mean() == pytest.approx(466, rel=0.05)
    assert 0.88 < lived.goodput.mean() < 0.95
    assert sum(cause.per_day(2048) for cause in causes()) * 54 == pytest.approx(466, rel=0.02)


def test_the_project_lives_many_times_and_says_what_is_best() -> None:
    fleet = Fleet(device="H100 SXM", devices=10_240)
    lived = rehearse_goodput(PLAN, fleet, 1, Choices(seeds=20))
    assert lived == rehearse_goodput(PLAN, fleet, 1, Choices(seeds=20))
    assert sum(lived["share_of_clock"].values()) == pytest.approx(1)
    best = max(lived["tried"], key=lambda tried: tried["goodput_per_node_paid"])
    assert (lived["spares"], lived["checkpoint_interval_s"]) == (best["spares"], best["checkpoint_interval_s"])
    assert lived["finishing_day"]["p5"] > lived["days_of_steps"]
    assert lived["goodput"]["p5"] <= lived["goodput"]["p50"] <= lived["goodput"]["p95"]
    json.dumps(lived)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    fleet = Fleet(device="H100 SXM", devices=64)
    for choices in (Choices(days=float("nan")), Choices(seeds=0), Choices(checkpoint_s=-5.0)):
        with pytest.raises(InputError):
            rehearse_goodput(PLAN, fleet, 1, choices)
    with pytest.raises(InputError, match="one machine"):
        rehearse_goodput(PLAN | {"device": THIS_MACHINE}, fleet, 1, Choices())
