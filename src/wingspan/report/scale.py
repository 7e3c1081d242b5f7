"""The same project on a fleet: the plan's key figures, and what the rehearsal found on each kind of rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from wingspan.figures import Figure, measured
from wingspan.report.charts import Stack, stacked_bars
from wingspan.report.record import Document, Fact, Record, Told, figure, signed, tell
from wingspan.units import GIB, count, size

_KEY_FIGURES = {
    "step_s": "One step",
    "tokens_per_s": "Speed",
    "mfu": "Model FLOPs utilisation",
    "memory_bytes": "Memory per device",
    "days": "Duration with failures",
    "goodput": "Goodput",
    "energy_mwh": "Energy",
    "carbon_t": "Carbon dioxide",
    "cost": "Rent of the devices",
    "energy_cost": "Electricity",
}
_LIMIT_DRAWN_FROM = 0.2  # of the device's memory: bars below that would be too short to read beside it
_SHARES = ("mfu", "goodput")
_AT_PEAK = {
    "parameters": "weights",
    "gathered": "weights gathered whole",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "working": "temporary",
    "unseen": "context, buffers, fragmentation",
}


@dataclass(frozen=True)
class FleetView:
    """One fleet that the plan priced."""

    title: str
    lead: str
    facts: list[Fact]


@dataclass(frozen=True)
class Rehearsed:
    """One fleet that was rehearsed."""

    title: str
    facts: list[Fact]
    chart: Markup | None
    beside_plan: list[tuple[str, str, str, str]]
    findings: list[Document]


def fleets(record: Record) -> list[FleetView]:
    """Key figures of every fleet that the plan priced."""
    plan = record.plan or {}
    views = []
    if fleet := plan.get("fleet"):
        views.append(FleetView(f"Its own fleet: {_devices(fleet)}", plan.get("sentence", ""), _key_figures(fleet)))
    if fleet := plan.get("at_scale"):
        devices = fleet["fleet_devices"]
        views.append(FleetView(f"{devices:,} × {fleet['device']}", _could_train(fleet), _key_figures(fleet)))
    return views


def _devices(fleet: Document) -> str:
    name = fleet["device"].replace("-", " ")
    return name if fleet["devices"] == 1 else f"{fleet['devices']:,} × {name}"


def _could_train(fleet: Document) -> str:
    could = fleet["could_train"]
    sentence = (
        f"In {could['days']:.0f} days the whole fleet could train {count(could['parameters'])} parameters "
        f"on {count(could['tokens'])} tokens ({could['source']})."
    )
    if "devices" not in fleet:
        return sentence
    return f"{sentence} The figures are for the {fleet['devices']:,} devices that this project's batch can feed."


def _key_figures(fleet: Document) -> list[Fact]:
    return [Fact(label, tell(_figure(key, fleet[key]))) for key, label in _KEY_FIGURES.items() if key in fleet]


def _figure(key: str, record: Document) -> Figure | None:
    """A figure of the plan; a share's band ends at the whole."""
    found = figure(record)
    if found is None or key not in _SHARES:
        return found
    return replace(found, unit="share", high=None if found.high is None else min(1.0, found.high))


def rehearsals(rehearsal: Document) -> list[Rehearsed]:
    """What was rehearsed: the project's own fleet, and a large one where its own is this machine."""
    return [_rehearsed(one) for one in (rehearsal, rehearsal.get("on_a_fleet")) if one]


def _rehearsed(rehearsal: Document) -> Rehearsed:
    facts = [
        Fact("Devices", Told(f"{rehearsal['devices']:,}")),
        Fact("Kinds of rank", Told(f"{len(rehearsal['kinds']):,}")),
        Fact("The rehearsal took", tell(measured(rehearsal["wall_s"], "s"))),
        Fact("with memory of", tell(measured(rehearsal["peak_rss_gib"] * GIB, "B"))),
    ]
    return Rehearsed(
        title=rehearsal["title"][0].upper() + rehearsal["title"][1:],
        facts=facts,
        chart=_memory_chart(rehearsal) if rehearsal["kinds"] else None,
        beside_plan=[_beside_plan(row) for row in rehearsal["plan"]],
        findings=rehearsal["findings"],
    )


def _memory_chart(rehearsal: Document) -> Markup:
    """Peak memory of one rank of each kind, and what it is made of."""
    made_of = [kind["at_peak"] | {"unseen": kind["unseen_bytes"]} for kind in rehearsal["kinds"]]
    items = [item for item in _AT_PEAK if any(parts.get(item) for parts in made_of)]
    peaks = [sum(parts.values()) for parts in made_of]
    memory = rehearsal["device_memory_bytes"]
    drawn = memory is not None and max(peaks) > _LIMIT_DRAWN_FROM * memory
    stacks = [
        Stack(_kind(kind), size(peak), [parts.get(item, 0.0) for item in items], memory if drawn else None)
        for kind, peak, parts in zip(rehearsal["kinds"], peaks, made_of, strict=True)
    ]
    spoken = "; ".join(f"{stack.label}: {stack.text}" for stack in stacks)
    of = f"; the {'line is the device’s' if drawn else 'device has'} {size(memory)}" if memory else ""
    title = f"Peak memory of each kind of rank{of}"
    return stacked_bars(title, spoken, [_AT_PEAK[item] for item in items], stacks)


def _kind(kind: Document) -> str:
    return f"{kind['kind']} ({kind['ranks']:,} {'rank' if kind['ranks'] == 1 else 'ranks'})"


def _beside_plan(row: dict[str, Any]) -> tuple[str, str, str, str]:
    say = count if row["item"].startswith("FLOPs") else size
    difference = "" if row["difference"] is None else signed(f"{row['difference']:+.0%}")
    return row["item"], say(row["plan"]), say(row["rehearsed"]), difference
