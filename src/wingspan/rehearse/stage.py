"""The rehearse stage: plan's layout -> rehearsal.json, the step of every kind of rank held against plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wingspan.model.shape import shape_of
from wingspan.plan.devices.chips import chip_named
from wingspan.plan.step.calibration import read_calibration
from wingspan.progress import Progress
from wingspan.project import Fleet, Layout, Project
from wingspan.rehearse.campaign import THIS_MACHINE, Choices, rehearse_goodput
from wingspan.rehearse.fleet import ALL_KINDS, rehearse
from wingspan.rehearse.timeline import Prices
from wingspan.units import GIB
from wingspan.workspace import StageContext

TRACE = "trace.json.gz"


def work(context: StageContext) -> dict[str, Any]:
    """Rehearse the project on its own fleet and, where that is one device, on the fleet that plan shows beside it."""
    project, plan = context.project, json.loads(context.read("plan/plan.json").read_text())
    layout = json.loads(context.read("plan/layout.json").read_text())
    title, trace = f"one training step of {project.project.name}", context.output / TRACE
    own = _rehearse(project, plan["fleet"], layout, f"{title} on its own fleet", context.progress, trace)
    fleet = plan["at_scale"]
    if layout["devices"] == 1 and fleet.get("devices", 1) > 1:
        own["on_a_fleet"] = _rehearse(project, fleet, fleet, f"{title} on a fleet", context.progress, trace)
    if plan["fleet"]["device"] != THIS_MACHINE:
        own["goodput"] = rehearse_goodput(plan["fleet"], project.fleet, project.project.seed, Choices())
    (context.output / "rehearsal.json").write_text(json.dumps(own, indent=1))
    return _summary(own)


def rehearse_ranks(project: Project, plan_folder: Path, ranks: str, progress: Progress) -> dict[str, Any]:
    """Only some ranks of the project's own fleet: what rehearsal.json would say of them."""
    plan = json.loads((plan_folder / "plan.json").read_text())
    layout = json.loads((plan_folder / "layout.json").read_text())
    title = f"one training step of {project.project.name}: ranks {ranks}"
    return _rehearse(project, plan["fleet"], layout, title, progress, ranks=ranks)


def _rehearse(
    project: Project,
    plan: Mapping[str, Any],
    layout: Mapping[str, Any],
    title: str,
    progress: Progress,
    trace_to: Path | None = None,
    ranks: str = ALL_KINDS,
) -> dict[str, Any]:
    shape, arranged = shape_of(project.model), Layout.model_validate(layout["layout"])
    return rehearse(
        shape,
        arranged,
        project.train,
        layout["devices"],
        ranks=ranks,
        plan=plan,
        seed=project.project.seed,
        prices=_prices(project.fleet, plan["device"], arranged, shape.head_dim),
        trace_to=trace_to,
        title=title,
        progress=progress,
    )


def _prices(fleet: Fleet, device: str, layout: Layout, head_dim: int) -> Prices | None:
    """What work lasts on the fleet's devices; a machine alone has its speed measured, not looked up."""
    if device == THIS_MACHINE:
        return None
    calibration = read_calibration(Path(fleet.calibration)) if fleet.calibration else None
    return Prices(chip_named(device), fleet.devices_per_node, layout, head_dim, calibration)


def _summary(rehearsal: Mapping[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "devices": rehearsal["devices"],
        "kinds_of_ranks": len(rehearsal["kinds"]),
        "peak_gib": max((kind["peak_gib"] for kind in rehearsal["kinds"]), default=None),
        "device_gib": round(memory / GIB, 1) if (memory := rehearsal["device_memory_bytes"]) else None,
        "holds": not any(one["severity"] == "stops" for one in rehearsal["findings"]),
        "findings": len(rehearsal["findings"]),
    }
    if "goodput" in rehearsal:
        summary["goodput"] = rehearsal["goodput"]["goodput"]["mean"]
    if "on_a_fleet" in rehearsal:
        summary["on_a_fleet"] = _summary(rehearsal["on_a_fleet"])
    return summary
