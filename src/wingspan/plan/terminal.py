"""The plan as one screen of the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from wingspan.units import count, duration, money, size

_BAR = 40  # characters
_COLOURS = ("blue", "green", "yellow", "magenta", "cyan", "red", "bright_blue", "bright_green", "bright_yellow")
_CHIPS_SHOWN = 8
_MINOR = 0.005  # of a step: items below are not listed


def render(plan: dict[str, Any]) -> RenderableType:
    """Everything a person asks first: the answer, the layout, memory, the step, the calendar, the bill, chips."""
    parts: list[RenderableType] = [Panel(Text(plan["sentence"], style="bold"), border_style="dim"), _layout(plan)]
    if "this_machine" in plan:
        parts += [Text(), _stages(plan["this_machine"]["stages"])]
    parts += [Text(), _memory(plan["fleet"]), Text(), _step(plan["fleet"])]
    parts += [Text(), _run(plan["fleet"])] if "this_machine" not in plan else [Text(), _at_scale(plan["at_scale"])]
    if "this_machine" not in plan:
        parts += [Text(), _chips(plan["chips"])]
    return Group(*parts)


def _layout(plan: dict[str, Any]) -> Text:
    layout = {name: value for name, value in plan["fleet"]["layout"].items() if value != 1 or name == "micro_batch"}
    words = "  ".join(f"{name} {value}" for name, value in layout.items())
    text = Text.assemble(("Layout ", "bold"), f"({plan['layout_source']})  {words}")
    choice = plan.get("choice", {})
    if choice.get("runner_up"):
        text.append(f"\n  the next best arrangement is {choice['reason']}", style="dim")
    return text


def _stages(stages: dict[str, Any]) -> Table:
    table = _table("On this machine", "stage", "time", "memory")
    for name, stage in stages.items():
        table.add_row(name, _band(stage["wall_s"], duration), _band(stage["peak_memory_bytes"], size))
    return table


def _band(figure: dict[str, Any], say: Any) -> str:
    return f"{say(figure['value'])} [dim]± {figure['high'] / figure['value'] - 1:.0%}[/dim]"


def _memory(fleet: dict[str, Any]) -> Group:
    """A bar as wide as the device's memory."""
    items, capacity = fleet["memory_items_bytes"], fleet["device_memory_bytes"]
    shown = {name: value for name, value in items.items() if value > 0.004 * capacity}
    bar, legend = Text(), Text()
    for colour, (name, value) in zip(_COLOURS, shown.items(), strict=False):
        bar.append("█" * max(1, round(_BAR * value / capacity)), style=colour)
        legend.append("■ ", style=colour)
        legend.append(f"{name.replace('_', ' ')} {size(value)}   ")
    bar.append("░" * max(0, _BAR - len(bar)), style="dim")
    bar.append(f"  {size(fleet['memory_bytes']['value'])} of {size(capacity)} per device")
    return Group(Text("Memory", style="bold"), bar, legend)


def _step(fleet: dict[str, Any]) -> Table:
    """The step as a waterfall: each item starts where the one before ended."""
    total, start = fleet["step_s"]["value"], 0.0
    table = _table(f"One step: {duration(total)}, {count(fleet['tokens_per_s']['value'])} tokens/s", "", "s", "")
    for name, value in fleet["step_items_s"].items():
        if value > _MINOR * total:
            bar = Text(" " * round(_BAR * start / total) + "█" * max(1, round(_BAR * value / total)), style="blue")
            table.add_row(name.replace("_", " "), f"{value:.3g}", bar)
        start += value
    return table


def _run(fleet: dict[str, Any]) -> Table:
    table = _table("The run", "", "")
    apart = fleet["mean_hours_between_failures"]["value"]
    saved = f"{duration(fleet['checkpoint_interval_s']['value'])}, {size(fleet['checkpoint_bytes']['value'])}"
    apart = fleet["mean_hours_between_failures"]["value"]
    saved = f"{duration(fleet['checkpoint_interval_s']['value'])}, {size(fleet['checkpoint_bytes']['value'])}"
    rows = [
        ("calendar", f"{duration(fleet['days']['value'] * 86400)}, {fleet['steps']:,} steps"),
        ("device hours", count(fleet["device_hours"]["value"])),
        ("failures", f"{fleet['failures']['value']:,.0f}, one every {apart:.1f} h"),
        ("checkpoint", f"every {saved}"),
        ("goodput", f"{fleet['goodput']['value']:.1%}"),
    ]
    if "energy_mwh" in fleet:
        megawatts, heat = fleet["site_kw"]["value"] / 1e3, fleet["heat_kw_per_node"]["value"]
        rows += [
            ("power", f"{megawatts:,.1f} MW on site, {heat:.1f} kW of heat per node"),
            ("energy", f"{fleet['energy_mwh']['value']:,.0f} MWh, {fleet['carbon_t']['value']:,.0f} t CO2"),
        ]
    if "cost" in fleet:
        rows.append(("money", f"{money(fleet['cost']['value'])}  [dim]{fleet['cost'].get('source', '')}[/dim]"))
    for row in rows:
        table.add_row(*row)
    return table


def _at_scale(scale: dict[str, Any]) -> Text:
    could = scale["could_train"]
    text = Text("On 10,000 H100", style="bold")
    if "wall_s" in scale:
        text.append(
            f"  this project feeds {scale['devices']:,} of them: {duration(scale['wall_s']['value'])} of steps;",
            style="not bold",
        )
    text.append(
        f" all of them could train {count(could['parameters'])} parameters on {count(could['tokens'])} tokens "
        f"in {could['days']:.0f} days.",
        style="not bold",
    )
    return text


def _chips(chips: list[dict[str, Any]]) -> Table:
    """The fastest chips for this project, as many of each as the fleet has."""
    known = sorted((row for row in chips if "days" in row), key=lambda row: float(row["days"]))
    table = _table("As many of other chips", "chip", "days", "MFU", "MWh", "money")
    for row in known[:_CHIPS_SHOWN]:
        energy = f"{row['energy_mwh']:,.0f}" if row["energy_mwh"] is not None else "unknown"
        cost = money(row["cost"]) if row["cost"] is not None else "unknown"
        table.add_row(row["device"], f"{row['days']:,.1f}", f"{row['mfu']:.0%}", energy, cost)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.show_header = any(columns)
    for column in columns:
        table.add_column(column, header_style="dim", no_wrap=True)
    return table
