"""Where the time of training went, with its tokens, energy and money; what it taught of each source and language."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from wingspan.meter import COUNTERS
from wingspan.report.charts import Line, Stack, line_chart, stacked_bars
from wingspan.report.record import Document, Record
from wingspan.train.telemetry.goodput import KINDS, Share, Totals, total
from wingspan.units import count, duration, energy, money

_CURVES = 7  # of groups, the largest: more cannot be told apart


@dataclass(frozen=True)
class Spending:
    """What a stage's time went to: a bar, a table, and what its figures rest on."""

    title: str
    chart: Markup
    rows: list[list[str]]
    remark: str


def spending(record: Record) -> list[Spending]:
    """Train's and align's, as far as they were recorded."""
    return [_spending(stage, total(lines)) for stage, lines in record.goodput.items() if lines]


def _spending(stage: str, totals: Totals) -> Spending:
    shares = {kind: share for kind, share in totals.shares.items() if share.ns}
    names = [f"{kind} {duration(share.ns / 1e9)}" for kind, share in shares.items()]
    took = duration(totals.wall_ns / 1e9)
    stack = Stack(
        f"{100 * totals.goodput:.0f}% in steps that count", took, [share.ns / 1e9 for share in shares.values()]
    )
    compute = totals.shares["compute"]
    pace = compute.tokens / max(1, totals.good_ns)
    rows = []
    for kind, share in shares.items():
        part = f"{100 * share.ns / totals.wall_ns:.1f}%"
        worth = [_tokens(kind, share, pace), energy(share.kwh), money(share.usd)]
        rows.append([kind, KINDS[kind], duration(share.ns / 1e9), part, *worth])
    whole = [sum(getattr(share, name) for share in shares.values()) for name in ("kwh", "usd")]
    rows.append(["all", "since the first start", took, "100%", "", energy(whole[0]), money(whole[1])])
    basis = "measured" if all(source.startswith(COUNTERS) for source in totals.energy) else "predicted"
    remark = f"Energy {basis}: {'; '.join(sorted(totals.energy))}. Money: {'; '.join(sorted(totals.price))}."
    title = f"Where the time of {stage} went"
    return Spending(title, stacked_bars(title, ", ".join(names), names, [stack]), rows, remark)


def _tokens(kind: str, share: Share, pace: float) -> str:
    """Tokens trained on or lost; elsewhere those that the time would have been enough for."""
    if kind in ("compute", "lost"):
        return count(share.tokens)
    return "" if kind == "communication" else f"(for {count(round(share.ns * pace))})"


def held_out_curves(record: Record) -> list[Markup]:
    """Bits per byte of each source and language while training went on, where it was scored twice or more."""
    found = {one["step"]: one for one in record.evaluations}  # a step done again was scored again
    if len(found) < 2:
        return []
    points: dict[str, list[tuple[float, float]]] = {"all": []}
    sizes: Document = {}
    for step, one in sorted(found.items()):
        points["all"].append((step, one["bits_per_byte"]))
        for group in one["by"]:
            name = f"{group['source']} {group['language']}"
            points.setdefault(name, []).append((step, group["bits_per_byte"]))
            sizes[name] = group["bytes"]
    shown = ["all", *sorted(sizes, key=lambda name: -sizes[name])[:_CURVES]]
    lines = [Line(name, points[name], colour) for colour, name in enumerate(shown)]
    spoken = ", ".join(f"{name} from {points[name][0][1]:.3f} to {points[name][-1][1]:.3f}" for name in shown)
    return [line_chart("Held-out text by source and language", spoken, lines, "step", "bits per byte")]
