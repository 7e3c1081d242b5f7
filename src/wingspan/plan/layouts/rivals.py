"""The layouts worth having: the fastest, the cheapest, and the front of time against money and energy."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wingspan.errors import InputError
from wingspan.model.shape import shape_of
from wingspan.plan.devices.chips import THIS_MACHINE, chip_named, this_machine
from wingspan.plan.devices.machine import nominal
from wingspan.plan.laptop import training_tokens
from wingspan.plan.layouts.choice import why
from wingspan.plan.layouts.problem import TRAINABLE, WIDE, Problem, problem_of
from wingspan.plan.layouts.search import COMPUTING, Found, front, search
from wingspan.plan.step.accounting import MEGATRON
from wingspan.plan.step.grid import Software, workload_of
from wingspan.plan.step.network import network_of
from wingspan.plan.whole.wholerun import whole_run
from wingspan.project import Project
from wingspan.units import count, duration, money, size

_WIDELY_RUN = Software("Megatron-Core", accounting=MEGATRON)
_PARTS = (1, 7 / 8, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8)  # of the fleet that a layout may use: fewer devices waste less


def rivals(project: Project, *, wide: bool) -> dict[str, Any]:
    """Every layout of the fleet and of parts of it, weighed; those that none beats in time, money and energy.

    `wide` searches what other software runs, too: context and expert parallelism, other schedules, ZeRO
    stages and precisions. Raises InputError where nothing fits.
    """
    shape = shape_of(project.model)
    chip = this_machine(nominal()) if project.fleet.device == THIS_MACHINE else chip_named(project.fleet.device)
    whole = problem_of(network_of(shape), workload_of(project), chip, project.fleet)
    tokens, began = training_tokens(project, shape), time.perf_counter()
    rows: list[dict[str, Any]] = []
    weighed = fitting = 0
    for devices in _sizes(whole):
        problem = replace(whole, devices=devices, software=_WIDELY_RUN if wide else whole.software)
        found = search(problem, WIDE if wide else TRAINABLE)
        weighed, fitting = weighed + found.weighed, fitting + found.fitting
        if found.fitting:
            rows += [_row(problem, project, tokens, found, int(index)) for index in front(found.seconds, found.joules)]
    if not rows:
        raise InputError(
            f"none of {weighed:,} layouts fits",
            where="fleet.devices",
            remedy="See what is lacking with: wingspan plan",
        )
    costs = [np.array([row[name] or 0.0 for row in rows]) for name in ("days", "cost", "energy_mwh")]
    kept = [rows[index] for index in front(*costs)]
    return {
        "device": chip.name,
        "weighed": weighed,
        "fitting": fitting,
        "seconds": round(time.perf_counter() - began, 3),
        "fastest": kept[0],
        "cheapest": min(kept, key=lambda row: row["cost"] or row["device_hours"]),
        "front": kept,
    }


def _sizes(problem: Problem) -> list[int]:
    """Whole nodes for parts of a fleet, most first."""
    node = problem.devices_per_node
    parts = {max(node, round(problem.devices * part / node) * node) for part in _PARTS}
    return sorted({problem.devices, *(one for one in parts if one < problem.devices)}, reverse=True)


def _row(problem: Problem, project: Project, tokens: float, found: Found, index: int) -> dict[str, Any]:
    grid = found.grid.take(np.array([index]))
    items = {name: float(values[0]) for name, values in problem.step_time(grid).items()}
    step_s = sum(items.values())
    run = whole_run(
        tokens=tokens,
        tokens_per_step=problem.workload.tokens,
        step_s=step_s,
        busy=sum(items[name] for name in COMPUTING) / step_s,
        parameters=problem.network.parameters,
        chip=problem.chip,
        fleet=project.fleet.model_copy(update={"devices": problem.devices}),
        kept_checkpoints=project.train.keep_checkpoints,
    )
    return {
        "devices": problem.devices,
        "layout": grid.dials(0),
        "step_s": step_s,
        "memory_bytes": float(problem.memory_needed(grid)[0]),
        "days": run.days,
        "device_hours": run.device_hours,
        "cost": run.cost,
        "energy_mwh": run.energy_mwh,
        "beside_the_fastest": why(problem, found.grid, found.fastest, index) if index != found.fastest else "",
    }


def render(found: dict[str, Any]) -> RenderableType:
    """The front as a table, the fastest first, and why each other one is slower."""
    table = Table(
        "devices", "layout", "step", "memory", "days", "device-hours", "money", "MWh", box=None, header_style="dim"
    )
    for row in found["front"]:
        table.add_row(
            f"{row['devices']:,}",
            " ".join(f"{name} {value}" for name, value in row["layout"].items()),
            duration(row["step_s"]),
            size(row["memory_bytes"]),
            f"{row['days']:,.1f}",
            count(row["device_hours"]),
            money(row["cost"]) if row["cost"] else "unknown",
            f"{row['energy_mwh']:,.0f}" if row["energy_mwh"] else "unknown",
        )
        if row["beside_the_fastest"]:
            table.add_row("", Text(row["beside_the_fastest"], style="dim"))
    weighed = f"{found['weighed']:,} layouts of {found['device']} weighed in {found['seconds']:.2f} s"
    return Group(Text(f"{weighed}, {found['fitting']:,} fit"), table)
