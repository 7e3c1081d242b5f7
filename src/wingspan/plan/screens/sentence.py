"""The plan in a sentence or two."""

from __future__ import annotations

from typing import Any

from wingspan.units import count, duration, money, size


def sentence(plan: dict[str, Any]) -> str:
    """What it takes, in words: for this machine by its stages, for a fleet by days and money."""
    model, fleet = plan["model"], plan["fleet"]
    what = f"{count(model['parameters'])} parameters on {count(model['tokens'])} tokens"
    stages = plan.get("this_machine", {}).get("stages")
    if stages:
        seconds = sum(stage["wall_s"]["value"] for stage in stages.values())
        memory = max(stage["peak_memory_bytes"]["value"] for stage in stages.values())
        return f"{what}: about {duration(seconds)} on this machine for all stages, with {size(memory)} of memory."
    days = fleet["days"]
    cost = f" and {money(fleet['cost']['value'])}" if "cost" in fleet else ""
    energy = f", {fleet['energy_mwh']['value']:,.0f} MWh" if "energy_mwh" in fleet else ""
    return (
        f"{what}: {duration(days['value'] * 86400)} ({days['low']:,.3g} to {days['high']:,.3g}){cost}{energy} "
        f"on {fleet['devices']:,} x {fleet['device']}, at {fleet['mfu']['value']:.0%} of their peak."
    )
