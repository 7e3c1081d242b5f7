"""The plan as one screen of the terminal: two columns where it is wide enough, one below the other where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from wingspan.plan.screens.explain import Derivation, written
from wingspan.units import amount, count, duration, money, size

Document = Mapping[str, Any]

_COLOURS = ("blue", "yellow", "green", "magenta", "cyan", "red", "bright_black", "bright_yellow", "bright_blue")
_BLOCKS = "█▓"  # beside each other in turn, so that a bar reads without colours
_WIDE, _WIDEST, _GAP = 110, 124, 4  # columns from which there are two columns; that are used at most; between the two
_CHIPS_SHOWN = 8
_MINOR = 0.004  # of the whole: smaller items are not drawn
_LAYOUT_WORDS = {
    "dp_replicate": "replicas",
    "dp_shard": "shards",
    "tp": "tensor-parallel",
    "cp": "context-parallel",
    "pp": "pipeline stages",
    "ep": "expert-parallel",
}


def render(plan: Document) -> RenderableType:
    """Everything a person asks first: the answer, the layout, memory, the step, the calendar, the bill, chips."""
    return _Screen(plan)


class _Screen:
    """Fits itself to the width of the terminal."""

    def __init__(self, plan: Document) -> None:
        self._plan = plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, _WIDEST)
        wide = width >= _WIDE
        column = (width - _GAP) // 2 if wide else width
        left, right = _columns(self._plan, column)
        yield Text(self._plan["sentence"], style="bold")
        yield _layout(self._plan)
        if wide:
            grid = Table.grid(padding=(0, _GAP // 2))
            grid.add_column(width=column)
            grid.add_column(width=column)
            grid.add_row(Group(*left), Group(*right))
            yield grid
        else:
            yield Group(*left, *right)
        yield _ending()


def _columns(plan: Document, width: int) -> tuple[list[RenderableType], list[RenderableType]]:
    fleet = plan["fleet"]
    body = [*_memory(fleet, width), *_step(fleet, width)]
    if "this_machine" in plan:
        return body, [*_stages(plan["this_machine"]["stages"], width), *_at_scale(plan["at_scale"], width)]
    return body + _run(fleet, width), _bill(fleet, width) + _chips(plan, width)


def _title(words: str, width: int, note: str = "") -> list[RenderableType]:
    line = Text.assemble((words, "bold cyan"), "  ", (note, "dim"))
    line.truncate(width, overflow="ellipsis")
    return [Text(), line]


def layout_words(layout: Document) -> str:
    """The factors of the fleet, and what a device works on."""
    factors = [f"{layout[name]:,} {word}" for name, word in _LAYOUT_WORDS.items() if layout[name] > 1]
    recompute = {"none": "nothing recomputed", "selective": "selective recomputation", "full": "full recomputation"}
    sequences = "sequence" if layout["micro_batch"] == 1 else "sequences"
    at_a_time = f"{layout['micro_batch']} {sequences} at a time"
    return ", ".join(
        [" × ".join(factors) or "one device", at_a_time, recompute[layout["recompute"]], layout["precision"]]
    )


def _layout(plan: Document) -> Text:
    choice = plan.get("choice")
    text = Text.assemble(("Layout  ", "bold cyan"), layout_words(plan["fleet"]["layout"]))
    if choice:
        text.append(f"; the fastest of {choice['fitting']:,} that fit of {choice['weighed']:,}", style="dim")
        if choice["runner_up"]:
            text.append(f"; the next best is {choice['reason']}", style="dim")
    return text


def _bar(items: Mapping[str, float], whole: float, width: int) -> tuple[Text, list[tuple[str, str, float]]]:
    """A bar as wide as the whole, and (colour and block, name, value) of what it shows."""
    bar = Text()
    shown: list[tuple[str, str, float]] = []
    for name, value in items.items():
        if value > _MINOR * whole:
            colour, block = _COLOURS[len(shown) % len(_COLOURS)], _BLOCKS[len(shown) % 2]
            bar.append(block * max(1, round(width * value / whole)), style=colour)
            shown.append((f"[{colour}]{block}[/]", name.replace("_", " "), value))
    bar.truncate(width)
    bar.append("░" * (width - len(bar)), style="dim")
    return bar, shown


def _legend(shown: list[tuple[str, str, float]], say: Callable[[float], str]) -> Table:
    """Two to a row."""
    legend = Table.grid(padding=(0, 3, 0, 0))
    cells = [f"{mark} {name} [dim]{say(value)}[/]" for mark, name, value in shown]
    for start in range(0, len(cells), 2):
        legend.add_row(*cells[start : start + 2])
    return legend


def _memory(fleet: Document, width: int) -> list[RenderableType]:
    items, capacity = fleet["memory_items_bytes"], fleet["device_memory_bytes"]
    bar, shown = _bar(items, capacity, width)
    used = fleet["memory_bytes"]
    note = f"{size(used['value'])} ({band(used)}) of {size(capacity)}"
    return [*_title("Memory per device", width, note), bar, _legend(shown, size)]


def _step(fleet: Document, width: int) -> list[RenderableType]:
    """The step as a waterfall: each item starts where the one before ended."""
    total, start = fleet["step_s"]["value"], 0.0
    room = width - 28
    table = _grid()
    for name, value in fleet["step_items_s"].items():
        if value > _MINOR * total:
            length = max(1, round(room * value / total))
            offset = min(round(room * start / total), room - length)
            bar = Text(" " * offset).append("█" * length, style="blue")
            table.add_row(name.replace("_", " "), duration(value), bar)
        start += value
    note = f"{duration(total)} ({band(fleet['step_s'])}), {count(fleet['tokens_per_s']['value'])} tokens/s"
    return [*_title("One step", width, f"{note}, MFU {fleet['mfu']['value']:.0%}"), table]


def calendar(fleet: Document) -> dict[str, float]:
    """Days by what they go to."""
    days, useful = fleet["days"]["value"], fleet["days"]["value"] * fleet["goodput"]["value"]
    steps = fleet["steps"] * fleet["step_s"]["value"] / 86400
    return {
        "until all machines work": fleet["calendar_days"]["value"] - days,
        "steps": steps,
        "between steps": useful - steps,
        "failures": days - useful,
    }


def _run(fleet: Document, width: int) -> list[RenderableType]:
    """What the days go to, and what happens on the way."""
    bar, shown = _bar(calendar(fleet), fleet["calendar_days"]["value"], width)
    legend = _legend(shown, lambda days: duration(days * 86400))
    apart = fleet["mean_hours_between_failures"]["value"]
    saved = (
        f"every {duration(fleet['checkpoint_interval_s']['value'])}, {size(fleet['checkpoint_bytes']['value'])} each"
    )
    rows = [
        ("steps", f"{fleet['steps']:,} of {count(fleet['tokens_per_step'])} tokens"),
        (
            "failures",
            f"{fleet['failures']['value']:,.0f}, one every {apart:.1f} h, {_of(fleet, 'restart_s')} to restart",
        ),
        ("checkpoints", saved),
        ("storage", _of(fleet, "storage_bytes")),
    ]
    note = f"{_of(fleet, 'calendar_days')} ({band(fleet['calendar_days'])}), goodput {fleet['goodput']['value']:.1%}"
    return [*_title("The run", width, note), bar, legend, _rows(rows)]


def _bill(fleet: Document, width: int) -> list[RenderableType]:
    ways = {"cost": "as planned", "cost_on_demand": "on demand", "cost_reserved": "reserved", "cost_owned": "owned"}
    known = {word: fleet[name] for name, word in ways.items() if name in fleet}
    dearest = max((one["value"] for one in known.values()), default=1.0)
    table = _grid()
    for word, figure in known.items():
        length = max(1, round((width - 30) * figure["value"] / dearest))
        table.add_row(
            word, money(figure["value"]), Text("█" * length, style="green" if word == "as planned" else "blue")
        )
    rows = [("devices", f"{count(fleet['device_hours']['value'])} device-hours")]
    if "energy_mwh" in fleet:
        heat = fleet["heat_kw_per_rack"]["value"]
        rows += [
            ("power", f"{fleet['site_kw']['value'] / 1e3:,.2f} MW on site, {heat:,.0f} kW of heat per rack"),
            ("energy", f"{_of(fleet, 'energy_mwh')}, {_of(fleet, 'energy_cost')} of electricity"),
            ("emissions", f"{_of(fleet, 'carbon_t')} CO2, {fleet['water_m3']['value']:,.0f} m³ of water"),
        ]
    note = f"{_of(fleet, 'cost')} ({band(fleet['cost'])})" if "cost" in fleet else "no price is known"
    return [*_title("The bill", width, note), table, _rows(rows)]


def _chips(plan: Document, width: int) -> list[RenderableType]:
    """The fastest chips for this project, as many of each as the fleet has, and the project's own."""
    known = sorted((row for row in plan["chips"] if "days" in row), key=lambda row: float(row["days"]))
    own = plan["fleet"]["device"]
    shown = [row for place, row in enumerate(known) if place < _CHIPS_SHOWN or row["device"] == own]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("chip", no_wrap=True)
    for column in ("days", "MFU", "memory", "MWh", "money"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in shown:
        energy = "unknown" if row["energy_mwh"] is None else f"{row['energy_mwh']:,.0f}"
        cost = "unknown" if row["cost"] is None else money(row["cost"])
        cells = (f"{row['days']:,.1f}", f"{row['mfu']:.0%}", f"{row['memory_share']:.0%}", energy, cost)
        table.add_row(row["device"], *cells, style="bold" if row["device"] == own else "")
    note = f"{len(shown)} of {len(known)}, fastest first"
    return [*_title("As many of other chips", width, note), table]


def _stages(stages: Mapping[str, Document], width: int) -> list[RenderableType]:
    table = _grid()
    for name, stage in stages.items():
        wall, memory = stage["wall_s"], stage["peak_memory_bytes"]
        time = f"{duration(wall['value'])} [dim]{band(wall)}[/]"
        table.add_row(name, time, f"{size(memory['value'])} [dim]{band(memory)}[/]")
    return [*_title("On this machine", width, "time and peak memory, 90% bands"), table]


def _at_scale(scale: Document, width: int) -> list[RenderableType]:
    could = scale["could_train"]
    words = []
    if "wall_s" in scale:
        words.append(f"This project feeds {scale['devices']:,} of them: {duration(scale['wall_s']['value'])} of steps.")
    words.append(
        f"All of them could train {count(could['parameters'])} parameters on {count(could['tokens'])} tokens "
        f"in {could['days']:.0f} days."
    )
    return [*_title(f"On 10,000 {scale['device']}", width), Text(" ".join(words))]


def _ending() -> Text:
    return Text(
        "\nWhy a number is what it is: wingspan plan explain NAME PROJECT. Sliders and every chip: plan.html.",
        style="dim",
    )


def band(figure: Document) -> str:
    """The 90% band: its half-width as a share of the value, its ends where it is lopsided."""
    if not figure.get("high") or not figure["value"]:
        return ""
    up, down = figure["high"] / figure["value"] - 1, 1 - figure["low"] / figure["value"]
    if abs(up - down) < 0.01:
        return f"±{up:.0%}"
    low, high = (amount(figure[end], figure.get("unit", "")) for end in ("low", "high"))
    unit = f" {high.rpartition(' ')[2]}"
    return f"{low.removesuffix(unit)} to {high}"


def _of(fleet: Document, name: str) -> str:
    return amount(fleet[name]["value"], fleet[name].get("unit", ""))


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    return table


def _rows(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    for row in rows:
        table.add_row(*row)
    return table


def render_names(figures: Mapping[str, float]) -> RenderableType:
    """Every number that can be explained, by the part of the plan that it belongs to."""
    table = _grid()
    for path, value in figures.items():
        table.add_row(path, written(value))
    return table


def render_derivation(derivation: Derivation) -> RenderableType:
    """A number, its formula in names and in values, what it rests on, and the values one level down."""
    figure = derivation.figure
    said = f"{amount(figure['value'], figure.get('unit', ''))} ({band(figure)}), {figure['basis']}" if figure else ""
    parts: list[RenderableType] = [
        Text.assemble((derivation.name, "bold cyan"), " = ", (written(derivation.value), "bold"), "  ", (said, "dim")),
        Text(f"  = {derivation.formula}"),
        Text(f"  = {derivation.filled}"),
        Text(),
    ]
    terms = Table.grid(padding=(0, 2, 0, 0))
    for column in ({"style": "cyan", "no_wrap": True}, {"justify": "right", "no_wrap": True}, {}):
        terms.add_column(**column)  # type: ignore[arg-type]
    for term in derivation.terms:
        how = Text(f"= {term.formula}\n= {term.filled}" if term.formula else "")
        if term.source:
            how.append(("\n" if term.formula else "") + term.source, style="dim")
        terms.add_row(f"  {term.name}", written(term.value), how)
    parts += [terms, Rule(style="dim"), Text(derivation.source, style="dim"), Text(derivation.where, style="dim")]
    return Group(*parts)
