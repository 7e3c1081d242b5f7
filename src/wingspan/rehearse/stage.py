"""The rehearse stage: plan's layout -> rehearsal.json, the step of every kind of rank held against plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wingspan.model.shape import shape_of
from wingspan.project import Layout
from wingspan.rehearse.fleet import rehearse
from wingspan.units import GIB
from wingspan.workspace import StageContext


def work(context: StageContext) -> dict[str, Any]:
    """Rehearse the project on its own fleet and, where that is one device, on the fleet that plan shows beside it."""
    plan = json.loads(context.read("plan/plan.json").read_text())
    layout = json.loads(context.read("plan/layout.json").read_text())
    own = _rehearse(context, "on its own fleet", layout["layout"], layout["devices"], plan["fleet"])
    fleet = plan["at_scale"]
    if layout["devices"] == 1 and fleet.get("devices", 1) > 1:
        own["on_a_fleet"] = _rehearse(context, "on a fleet", fleet["layout"], fleet["devices"], fleet)
    (context.output / "rehearsal.json").write_text(json.dumps(own, indent=1))
    return _summary(own)


def _rehearse(
    context: StageContext, where: str, layout: Mapping[str, Any], devices: int, plan: Mapping[str, Any]
) -> dict[str, Any]:
    project = context.project
    return rehearse(
        shape_of(project.model),
        Layout.model_validate(layout),
        project.train,
        devices,
        plan=plan,
        title=f"one training step of {project.project.name} {where}",
        progress=context.progress,
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
    if "on_a_fleet" in rehearsal:
        summary["on_a_fleet"] = _summary(rehearsal["on_a_fleet"])
    return summary
