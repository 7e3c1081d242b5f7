"""The project's whole run lived through many times: plan's figures in; goodput, calendar, energy and money out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wingspan.errors import InputError
from wingspan.project import Fleet
from wingspan.rehearse.failures import causes
from wingspan.rehearse.goodput import LOSSES, Campaign, Floats, Lives, Operation, live

THIS_MACHINE = "this-machine"
HEAT = 0.01  # of throughput lost to the heat of the day: 1 to 2% at noon (Llama 3, arXiv 2407.21783)
CHECKPOINT_STALL_S = 5.0  # of an asynchronous checkpoint: the copy to host memory
_MEMORY_CHECKPOINT_S = 60.0
_INTERVALS = np.geomspace(1 / 8, 8, 13)  # tried, as multiples of the one that plan chose
_SPARE_SHARES = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)  # tried, of the nodes


@dataclass(frozen=True)
class Choices:
    """What a person may set; None is chosen: the plan's interval, the spares that give most for the nodes paid."""

    days: float | None = None
    seeds: int = 100
    spares: int | None = None
    checkpoint_s: float | None = None
    memory_checkpoints: bool = False
    elastic: bool = False
    maintenance_every_days: float = 0.0
    maintenance_h: float = 8.0
    power_cap_kw: float | None = None
    failure_scale: float = 1.0  # of the published rates


def rehearse_goodput(plan: Mapping[str, Any], fleet: Fleet, seed: int, choices: Choices) -> dict[str, Any]:
    """Live through the planned run `choices.seeds` times; `plan` is the `fleet` object of plan.json.

    Raises InputError where a setting is not a positive number, or the fleet is this machine.
    """
    _check(plan, choices)
    campaign = _campaign(plan, fleet, choices)
    planned_h = (choices.checkpoint_s or plan["checkpoint_interval_s"]["value"]) / 3600
    intervals_h = [planned_h] if choices.checkpoint_s else planned_h * _INTERVALS
    spares = [choices.spares] if choices.spares is not None else [round(campaign.nodes * one) for one in _SPARE_SHARES]
    operations = [_operation(plan, choices, interval_h, spare) for spare in spares for interval_h in intervals_h]
    lives = live(campaign, operations, choices.seeds, seed)
    tried = [_tried(campaign, *one) for one in zip(operations, lives, strict=True)]
    best = max(range(len(tried)), key=lambda number: tried[number]["goodput_per_node_paid"])
    return {
        "devices": fleet.devices,
        "nodes": campaign.nodes,
        "seeds": choices.seeds,
        "days_of_steps": campaign.work_h / 24,
        "days_simulated": campaign.days,
        **_outcome(campaign, operations[best], lives[best]),
        **_bill(campaign, operations[best], lives[best], plan, fleet),
        "tried": tried,
        "causes": [asdict(one) for one in causes()],
    }


def _check(plan: Mapping[str, Any], choices: Choices) -> None:
    if plan["device"] == THIS_MACHINE:
        raise InputError(
            "this project runs on one machine, whose failures nobody published",
            where="fleet.device",
            remedy="Set fleet.device and fleet.devices to the fleet that you would hire",
        )
    for name, value in asdict(choices).items():
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= (1 if name == "seeds" else 0)):
            raise InputError(f"{value} is out of range", where=name, remedy="Give a finite number, zero or more")


def _campaign(plan: Mapping[str, Any], fleet: Fleet, choices: Choices) -> Campaign:
    nodes = math.ceil(fleet.devices / fleet.devices_per_node)
    work_h = plan["steps"] * plan["step_s"]["value"] / 3600
    site_kw = plan["site_kw"]["value"] if "site_kw" in plan else None
    cap = min(1.0, choices.power_cap_kw / site_kw) if choices.power_cap_kw and site_kw else 1.0
    return Campaign(
        nodes=nodes,
        work_h=work_h,
        days=choices.days or 2 * work_h / 24 + 1,
        restart_h=plan["restart_s"]["value"] / 3600,
        failure_scale=choices.failure_scale,
        maintenance_every_days=choices.maintenance_every_days,
        maintenance_h=choices.maintenance_h,
        speed=(1 - HEAT) * cap,
    )


def _operation(plan: Mapping[str, Any], choices: Choices, interval_h: float, spares: int) -> Operation:
    layout = plan["layout"]
    return Operation(
        interval_h=interval_h,
        stall_h=CHECKPOINT_STALL_S / 3600,
        spares=spares,
        memory_interval_h=_MEMORY_CHECKPOINT_S / 3600 if choices.memory_checkpoints else 0.0,
        replicas=layout["dp_replicate"] if choices.elastic else 1,
    )


def _tried(campaign: Campaign, operation: Operation, lives: Lives) -> dict[str, float]:
    goodput = float(lives.goodput.mean())
    return {
        "checkpoint_interval_s": operation.interval_h * 3600,
        "spares": operation.spares,
        "goodput": goodput,
        "goodput_per_node_paid": goodput * campaign.nodes / (campaign.nodes + operation.spares),
    }


def _outcome(campaign: Campaign, operation: Operation, lives: Lives) -> dict[str, Any]:
    """Goodput, interruptions, where the hours went, the day of finishing (carried on at its goodput where the clock
    ran out first)."""
    clock_h = lives.clock_h.sum()
    finishing = np.where(np.isinf(lives.finished_day), campaign.work_h / 24 / lives.goodput, lives.finished_day)
    return {
        "checkpoint_interval_s": operation.interval_h * 3600,
        "memory_checkpoint_interval_s": operation.memory_interval_h * 3600,
        "spares": operation.spares,
        "replicas_that_carry_on": operation.replicas,
        "goodput": _band(lives.goodput),
        "interruptions_per_day": float(lives.interruptions.sum() / clock_h * 24),
        "share_of_clock": {"steps kept": float(lives.kept_h.sum() / clock_h)}
        | dict(zip(LOSSES, (lives.lost_h.sum(axis=0) / clock_h).tolist(), strict=True)),
        "finishing_day": _band(finishing),
        "finished_in_time": float(np.isfinite(lives.finished_day).mean()),
    }


def _bill(
    campaign: Campaign, operation: Operation, lives: Lives, plan: Mapping[str, Any], fleet: Fleet
) -> dict[str, Any]:
    """Energy and money of the clock that was lived; standing still is billed like running, spares are paid for."""
    bill: dict[str, Any] = {}
    if "site_kw" in plan:
        bill["energy_mwh"] = _band(lives.clock_h * plan["site_kw"]["value"] / 1e3)
    if "cost" in plan:
        per_device_hour = plan["cost"]["value"] / plan["device_hours"]["value"]
        devices = fleet.devices + operation.spares * fleet.devices_per_node
        bill["cost_usd"] = _band(lives.clock_h * devices * per_device_hour)
    return bill


def _band(values: Floats) -> dict[str, float]:
    """Mean and quantiles over the lives."""
    quantiles = {f"p{q}": float(np.percentile(values, q)) for q in (5, 50, 90, 95)}
    return {"mean": float(values.mean()), **quantiles}
