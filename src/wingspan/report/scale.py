"""The same project on a fleet: the plan's key figures, and what the rehearsal found on each kind of rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from wingspan.figures import Figure, measured
from wingspan.report.charts import Stack, stacked_bars
from wingspan.report.record import Document, Fact, Record, Told, figure, signed, tell
from wingspan.units import GIB, count, duration, energy, money, size

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
_COLLECTIVES_SHOWN = 4  # of each kind of rank, the largest
_OF_STEP = {"compute_s": "computes", "exposed_s": "exposed communication", "bubble_s": "waits for other stages"}
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
    charts: list[Markup]
    collectives: list[tuple[str, str, str, str, str]]
    beside_plan: list[tuple[str, str, str, str]]
    findings: list[Document]
    traced: bool


@dataclass(frozen=True)
class Lived:
    """The months of the run, lived through."""

    facts: list[Fact]
    chart: Markup


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
    kinds = rehearsal["kinds"]
    traced = bool(kinds) and "step_s" in kinds[0]
    if checkpoint := rehearsal.get("checkpoint"):
        facts.append(Fact("A checkpoint", Told(f"{size(checkpoint['bytes'])} in {checkpoint['files']:,} files")))
    return Rehearsed(
        title=rehearsal["title"][0].upper() + rehearsal["title"][1:],
        facts=facts,
        charts=[*([_memory_chart(rehearsal)] if kinds else []), *([_step_chart(kinds)] if traced else [])],
        collectives=[_collective(kind, one) for kind in kinds for one in _largest(kind["collectives"])],
        beside_plan=[_beside_plan(row) for row in rehearsal["plan"]],
        findings=[one for one in rehearsal["findings"] if one["severity"] != "differs"],  # those are in the table
        traced=traced,
    )


def _largest(collectives: list[Document]) -> list[Document]:
    return sorted(collectives, key=lambda one: -one["bytes"])[:_COLLECTIVES_SHOWN]


def _collective(kind: Document, one: Document) -> tuple[str, str, str, str, str]:
    over = f"{one['group']} ({one['size']:,})"
    return kind["kind"], one["op"].strip("_").replace("_", " "), over, f"{one['count']:,}", size(one["bytes"])


def _step_chart(kinds: list[Document]) -> Markup:
    """What one rank of each kind does in the seconds of a step."""
    stacks = [Stack(_kind(kind), duration(kind["step_s"]), [kind[item] for item in _OF_STEP]) for kind in kinds]
    spoken = "; ".join(f"{stack.label}: " + ", ".join(map(duration, stack.parts)) for stack in stacks)
    return stacked_bars("Where the seconds of a step go", spoken, list(_OF_STEP.values()), stacks)


def lived(rehearsal: Document) -> Lived | None:
    """The calendar of the run with its failures; None where nobody lived through it."""
    if not (found := rehearsal.get("goodput")):
        return None
    goodput, day, shares = found["goodput"], found["finishing_day"], found["share_of_clock"]
    facts = [
        Fact("Goodput", Told(f"{goodput['mean']:.1%}", "predicted", f"{goodput['p5']:.1%} to {goodput['p95']:.1%}")),
        Fact("Done on day", Told(f"{day['p50']:,.0f}", "predicted", f"nine times out of ten by {day['p90']:,.0f}")),
        Fact("Interruptions", Told(f"{found['interruptions_per_day']:.1f} a day", "predicted")),
        Fact("A checkpoint every", Told(duration(found["checkpoint_interval_s"]))),
        Fact("Spare nodes", Told(f"{found['spares']:,}")),
    ]
    if energy_mwh := found.get("energy_mwh"):
        facts.append(Fact("Energy", Told(energy(1e3 * energy_mwh["mean"]), "predicted")))
    if cost := found.get("cost_usd"):
        facts.append(Fact("Money", Told(money(cost["mean"]), "predicted", "spares included")))
    spent = {name: share for name, share in shares.items() if share > 0}
    clock = Stack("The clock of the whole run", f"{day['p50']:,.0f} days", list(spent.values()))
    spoken = ", ".join(f"{name} {share:.1%}" for name, share in spent.items())
    names = [f"{name} {share:.1%}" for name, share in spent.items()]
    return Lived(facts, stacked_bars("Where the days of the run go", spoken, names, [clock]))


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
    item = row["item"]
    say = count if item.startswith("FLOPs") else duration if item.startswith("seconds") else size
    difference = "" if row["difference"] is None else signed(f"{row['difference']:+.0%}")
    return item, say(row["plan"]), say(row["rehearsed"]), difference
