"""The rehearse stage: plan's layout -> rehearsal.json, the step of every kind of rank held against plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wingspan.model.shape import shape_of
from wingspan.progress import Progress
from wingspan.project import Layout, Project
from wingspan.rehearse.campaign import THIS_MACHINE, Choices, rehearse_goodput
from wingspan.rehearse.fleet import ALL_KINDS, rehearse
from wingspan.units import GIB
from wingspan.workspace import StageContext


def work(context: StageContext) -> dict[str, Any]:
    """Rehearse the project on its own fleet and, where that is one device, on the fleet that plan shows beside it."""
    project, plan = context.project, json.loads(context.read("plan/plan.json").read_text())
    layout = json.loads(context.read("plan/layout.json").read_text())
    title = f"one training step of {project.project.name}"
    own = _rehearse(project, plan["fleet"], layout, f"{title} on its own fleet", ALL_KINDS, context.progress)
    fleet = plan["at_scale"]
    if layout["devices"] == 1 and fleet.get("devices", 1) > 1:
        own["on_a_fleet"] = _rehearse(project, fleet, fleet, f"{title} on a fleet", ALL_KINDS, context.progress)
    if plan["fleet"]["device"] != THIS_MACHINE:
        own["goodput"] = rehearse_goodput(plan["fleet"], project.fleet, project.project.seed, Choices())
    (context.output / "rehearsal.json").write_text(json.dumps(own, indent=1))
    return _summary(own)


def rehearse_ranks(project: Project, plan_folder: Path, ranks: str, progress: Progress) -> dict[str, Any]:
    """Only some ranks of the project's own fleet: what rehearsal.json would say of them."""
    plan = json.loads((plan_folder / "plan.json").read_text())
    layout = json.loads((plan_folder / "layout.json").read_text())
    title = f"one training step of {project.project.name}: ranks {ranks}"
    return _rehearse(project, plan["fleet"], layout, title, ranks, progress)


def _rehearse(
    project: Project,
    plan: Mapping[str, Any],
    layout: Mapping[str, Any],
    title: str,
    ranks: str,
    progress: Progress,
) -> dict[str, Any]:
    return rehearse(
        shape_of(project.model),
        Layout.model_validate(layout["layout"]),
        project.train,
        layout["devices"],
        ranks=ranks,
        plan=plan,
        title=title,
        progress=progress,
    )


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
