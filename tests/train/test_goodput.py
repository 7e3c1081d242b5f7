"""Every nanosecond of a run is of one kind, whatever happens, and adds up with its tokens, energy and money."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wingspan.meter import EnergyMeter
from wingspan.project import Fleet
from wingspan.train.telemetry.goodput import FILE, KINDS, Goodput, read_lines, total
from wingspan.train.telemetry.machines import Machines, read_machines

MACHINES = Machines(devices=4, watts=500.0, usd_per_device_hour=2.0)
SECOND = 10**9


class Hands:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at = 1_000 * SECOND

    def __call__(self) -> int:
        return self.at


times = st.integers(0, 15 * SECOND)
steps = st.tuples(times, times, times, st.booleans())  # data, compute, communication, left out
launches = st.lists(st.tuples(times, st.lists(steps, max_size=8), times, st.integers(0, 8), st.booleans()), min_size=1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(launches=launches)
def test_all_kinds_add_up_to_the_time_since_the_first_start(
    launches: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, hands, reached = tmp_path_factory.mktemp("run"), Hands(), 0
    began, said = hands.at, 0
    for setting_up, taken, away, back, killed in launches:
        ledger = Goodput(folder, MACHINES, hands)
        hands.at += setting_up
        resumed = max(0, reached - back)
        ledger.begin("train", resumed)
        for number, (data, compute, waiting, left_out) in enumerate(taken):
            with ledger.spent("data"):
                hands.at += data
            with ledger.spent("compute"):
                hands.at += compute
                with ledger.spent("communication"):
                    hands.at += waiting
            ledger.step(resumed + number, 100, left_out=left_out)
            assert 0 <= ledger.totals.goodput <= 1
        reached = resumed + len(taken)
        if not killed:
            ledger.close()
        said = read_lines(folder)[-1]["until"]
        hands.at += away
    found = total(read_lines(folder))
    assert found.wall_ns == said - began
    lines = read_lines(folder)
    assert found.shares["compute"].tokens + found.shares["lost"].tokens == sum(one["tokens"] for one in lines)
    assert sum(one.kwh for one in found.shares.values()) == pytest.approx(0.5 * 4 * found.wall_ns / 3600e9)
    assert sum(one.usd for one in found.shares.values()) == pytest.approx(2.0 * 4 * found.wall_ns / 3600e9)


def of_run(folder: Path, hands: Hands, first: int, count: int) -> None:
    ledger = Goodput(folder, MACHINES, hands)
    hands.at += 5 * SECOND
    ledger.begin("train", first)
    for step in range(first, first + count):
        with ledger.spent("compute"):
            hands.at += SECOND
        ledger.step(step, 100, left_out=step == 2)
    with ledger.spent("evaluation"):
        hands.at += 3 * SECOND
    ledger.close()


def test_steps_done_again_or_left_out_are_lost_and_time_away_is_a_restart(tmp_path: Path) -> None:
    hands = Hands()
    of_run(tmp_path, hands, 0, 8)
    hands.at += 60 * SECOND
    of_run(tmp_path, hands, 5, 4)
    found = total(read_lines(tmp_path))
    seconds = {kind: share.ns / SECOND for kind, share in found.shares.items() if share.ns}
    assert seconds == {"start": 5, "restart": 65, "compute": 8, "lost": 4, "evaluation": 6}
    assert (found.shares["compute"].tokens, found.shares["lost"].tokens) == (800, 400)
    assert found.goodput == pytest.approx(8 / 88)
    assert found.energy == {"500 W per device, as planned"}
    assert found.price == {"$2 per device-hour"}


def test_a_line_cut_short_and_a_clock_set_back_harm_nothing(tmp_path: Path) -> None:
    hands = Hands()
    of_run(tmp_path, hands, 0, 4)
    whole = total(read_lines(tmp_path)).wall_ns
    with (tmp_path / FILE).open("a") as stream:
        stream.write('{"until": 12')
    hands.at -= 500 * SECOND
    of_run(tmp_path, hands, 4, 1)
    assert total(read_lines(tmp_path)).wall_ns == whole + 9 * SECOND
    assert all(set(line["ns"]) <= set(KINDS) for line in read_lines(tmp_path))


def test_energy_says_what_it_rests_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyMeter(watts=100.0, devices=36).since_last(10.0) == (0.01, "100 W per device, as planned")
    monkeypatch.setattr("wingspan.meter._RAPL", tmp_path / "energy_uj")
    assert EnergyMeter().since_last(1.0)[1].startswith("8 W per busy core")
    (tmp_path / "energy_uj").write_text("1000000")
    meter = EnergyMeter()
    (tmp_path / "energy_uj").write_text("37000000")
    assert meter.since_last(1.0) == (pytest.approx(1e-5), "RAPL counter of the processor package")
    (tmp_path / "energy_uj").write_text("5")  # the counter has begun again
    assert meter.since_last(1.0)[1].startswith("8 W per busy core")


def test_machines_are_those_that_plan_priced(tmp_path: Path) -> None:
    fleet = Fleet(devices=2, price_per_kwh=0.5)
    assert read_machines(tmp_path / "plan.json", fleet).cost(3600, 2.0) == (1.0, "electricity at $0.5 per kWh")
    priced = {"flops_per_token": 1e6, "tokens_per_s": {"value": 1e3}, "mfu": {"value": 0.5}}
    priced |= {"cost": {"value": 300.0}, "device_hours": {"value": 100.0}, "watts_per_device": {"value": 700.0}}
    (tmp_path / "plan.json").write_text(json.dumps({"fleet": priced}))
    machines = read_machines(tmp_path / "plan.json", fleet)
    assert (machines.peak, machines.watts, machines.mfu(500.0)) == (2e9, 700.0, 0.25)
    assert machines.cost(3600, 2.0) == (6.0, "$3 per device-hour")
