"""Every size of fleet beside every size of model: what the page's sliders look up instead of searching again.

Each cell is the whole plan of one pair, with a layout of its own. What only scales (tokens, prices, the site's
overhead) is left to the page.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wingspan.errors import InputError
from wingspan.plan.fleet import Priced, price_layout
from wingspan.plan.layouts.choice import choose, fastest
from wingspan.plan.step.network import Network
from wingspan.plan.whole.quality import REFIT

_FLEETS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # of the project's devices
_MODELS = (1 / 64, 1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # of the project's parameters
_DIGITS = 5
_SCALING = ("days", "device_hours", "failures", "energy_mwh", "cost_owned")  # what grows with a run's tokens


def explore(own: Priced, tokens: float) -> dict[str, Any]:
    """{devices, models, cells, and what the page computes with}; a cell without a layout says why, and what to do."""
    problem, fleet = own.problem, own.fleet
    node = problem.devices_per_node
    wanted = {problem.devices * part for part in _FLEETS} if problem.chip.kind != "cpu" else {problem.devices}
    devices = sorted({max(node, round(one / node) * node) for one in wanted} | {problem.devices})
    networks = [scaled(problem.network, part) for part in _MODELS]
    return {
        "devices": devices,
        "models": [one.parameters for one in networks],
        "own": {"devices": devices.index(problem.devices), "model": _MODELS.index(1.0), "tokens": tokens},
        "settings": {
            "price": fleet.price_per_device_hour or problem.chip.usd_per_hour,
            "pue": fleet.pue,
            "kwh": fleet.price_per_kwh,
            "grid": fleet.grid_gco2_per_kwh,
            "water": fleet.water_l_per_kwh,
            "delivered_per_week": fleet.delivered_per_week,
            "burn_in_days": fleet.burn_in_days,
        },
        "capacity": problem.capacity,
        "loss": {"E": REFIT.E, "A": REFIT.A, "B": REFIT.B, "alpha": REFIT.alpha, "beta": REFIT.beta},
        "cells": [[_cell(own, network, count, tokens) for count in devices] for network in networks],
    }


def scaled(network: Network, part: float) -> Network:
    """A network of about `part` of the parameters: depth and width grow alike, heads and vocabulary stay what they are.

    Widths stay multiples of what they divide by now, so that tensor parallelism divides them too.
    """
    if part == 1.0:
        return network
    ratio = part ** (1 / 3)
    groups = max(1, round(network.heads / network.kv_heads * ratio))
    return replace(
        network,
        layers=max(1, round(network.layers * ratio)),
        hidden=_near(network.hidden * ratio, network.head_dim),
        heads=network.kv_heads * groups,
        ffn=_near(network.ffn * ratio, network.head_dim),
        expert_ffn=_near(network.expert_ffn * ratio, network.head_dim) if network.experts else 0,
    )


def _near(width: float, multiple: int) -> int:
    return max(1, round(width / multiple)) * multiple


def _cell(own: Priced, network: Network, devices: int, tokens: float) -> dict[str, Any]:
    fleet = own.fleet.model_copy(update={"devices": devices})
    problem = replace(own.problem, network=network, devices=devices)
    try:
        same = (network, devices) == (own.problem.network, own.problem.devices)
        layout = own.layout if same else fastest(problem) or choose(problem).layout  # which says why there is none
        priced = own if same else price_layout(problem, layout, tokens, fleet)
    except InputError as error:
        return {"why": error.problem, "remedy": error.remedy}
    run = priced.run
    return {
        "layout": {name: value for name, value in priced.layout.model_dump(mode="json").items() if value != 1},
        "step": _rounded(priced.step),
        "memory": _rounded(priced.memory),
        "mfu": _digits(priced.mfu),
        "goodput": _digits(run.goodput),
        "owned_energy": _digits(run.energy_cost),
        "run": {name: _digits(getattr(run, name)) for name in _SCALING},
    }


def _rounded(items: dict[str, float]) -> dict[str, float | None]:
    return {name: _digits(value) for name, value in items.items() if value}


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
