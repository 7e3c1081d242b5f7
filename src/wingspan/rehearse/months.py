"""The lived-through run on one screen: goodput, where the hours went, the calendar, what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wingspan.units import count, duration, energy, money

_BAR = 50  # characters for the whole clock
_KEPT = "steps kept"
_COLOURS = {
    _KEPT: "green",
    "work done again": "red",
    "restarts": "magenta",
    "waiting for nodes": "yellow",
    "site down": "bright_red",
    "checkpoints": "cyan",
    "maintenance": "blue",
    "running slower": "bright_black",
}


def render(lived: Mapping[str, Any]) -> RenderableType:
    """The JSON of `wingspan rehearse goodput` as a screen for rich."""
    return Group(
        _headline(lived), Text(), _clock(lived["share_of_clock"]), Text(), _figures(lived), Text(), _tried(lived)
    )


def _headline(lived: Mapping[str, Any]) -> Text:
    goodput, day = lived["goodput"], lived["finishing_day"]
    text = Text.assemble(
        (f"Goodput {goodput['mean']:.1%}", "bold"), f" (90% of lives: {goodput['p5']:.1%} to {goodput['p95']:.1%}). "
    )
    text.append(f"Done on day {day['p50']:,.0f} as likely as not, on day {day['p90']:,.0f} nine times out of ten.")
    lives = f"\n{lived['seeds']} lives of {lived['days_simulated']:,.0f} days on {lived['devices']:,} devices"
    text.append(f"{lives} ({lived['nodes']:,} nodes); {lived['days_of_steps']:,.1f} days of undisturbed steps", "dim")
    if not lived["finished_in_time"]:
        text.append("; longer than was lived through: carried on at the same goodput", "dim")
    return text


def _clock(shares: Mapping[str, float]) -> Group:
    """The clock as one bar, and as a list of what was lost."""
    bar, drawn, until = Text(), 0, 0.0
    for name, share in shares.items():
        until += share
        end = round(until * _BAR)
        bar.append("█" * (end - drawn), style=_COLOURS[name])
        drawn = end
    legend = Text()
    for name, share in sorted(shares.items(), key=lambda one: -one[1]):
        if share > 0:
            legend.append("■ ", style=_COLOURS[name]).append(f"{name} {share:.2%}   ", style="dim")
    return Group(bar, legend)


def _figures(lived: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    stored = f"a checkpoint every {duration(lived['checkpoint_interval_s'])}"
    if lived["memory_checkpoint_interval_s"]:
        stored += f", one in other nodes' memory every {duration(lived['memory_checkpoint_interval_s'])}"
    rows = {"operated with": f"{stored}; {lived['spares']} spare nodes"}
    if lived["replicas_that_carry_on"] > 1:
        rows["elastic"] = f"{lived['replicas_that_carry_on']} replicas, of which the others carry on"
    rows["interruptions"] = f"{lived['interruptions_per_day']:.1f} a day"
    if "energy_mwh" in lived:
        rows["energy"] = _range(lived["energy_mwh"], lambda mwh: energy(mwh * 1e3))
    if "cost_usd" in lived:
        rows["money"] = _range(lived["cost_usd"], money) + ", spares included"
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), value)
    return table


def _range(band: Mapping[str, float], say: Any) -> str:
    return f"{say(band['mean'])} ({say(band['p5'])} to {say(band['p95'])})"


def _tried(lived: Mapping[str, Any]) -> Table:
    """Goodput by checkpoint interval and number of spares."""
    tried = lived["tried"]
    intervals = sorted({one["checkpoint_interval_s"] for one in tried})[::3]
    table = Table(box=None, pad_edge=False, header_style="dim", title="Goodput by spares and interval")
    table.title_justify = "left"
    table.add_column("spare nodes", justify="right")
    for interval in intervals:
        table.add_column(duration(interval), justify="right")
    found = {(one["spares"], one["checkpoint_interval_s"]): one["goodput"] for one in tried}
    chosen = lived["spares"], lived["checkpoint_interval_s"]
    for spares in sorted({one["spares"] for one in tried}):
        cells = [(spares, interval) for interval in intervals]
        table.add_row(count(spares), *(Text(f"{found[one]:.1%}", "bold" if one == chosen else "") for one in cells))
    return table
