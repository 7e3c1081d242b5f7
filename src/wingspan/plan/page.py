"""plan.html: the plan as one self-contained page, readable without a network or a script."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from wingspan.units import count, duration, money, size

_environment = Environment(
    loader=PackageLoader("wingspan.plan"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "size": size,
    "duration": duration,
    "count": count,
    "money": money,
    "megawatt_hours": lambda mwh: "unknown" if mwh is None else f"{mwh:,.0f}" if mwh >= 100 else f"{mwh:.2g}",
    "words": lambda name: name.replace("_", " "),
}

_SHOWN = 0.004  # of the whole: smaller items are not drawn


def page(plan: dict[str, Any]) -> str:
    """The page as HTML text."""
    fleet = plan["fleet"]
    return _environment.get_template("plan.html").render(
        plan=plan,
        fleet=fleet,
        memory=_shares(fleet["memory_items_bytes"], fleet["device_memory_bytes"]),
        step=_waterfall(fleet["step_items_s"]),
        chips=_chips(plan["chips"]),
        unknown=[chip for chip in plan["chips"] if "unknown" in chip],
    )


def _shares(items: dict[str, float], whole: float) -> list[tuple[str, float, float]]:
    """(name, value, percent of the whole) of every item large enough to see."""
    return [(name, value, 100 * value / whole) for name, value in items.items() if value > _SHOWN * whole]


def _waterfall(items: dict[str, float]) -> list[tuple[str, float, float, float]]:
    """(name, seconds, percent where it starts, percent it takes)."""
    whole, start, rows = sum(items.values()), 0.0, []
    for name, value in items.items():
        if value > _SHOWN * whole:
            rows.append((name, value, 100 * start / whole, 100 * value / whole))
        start += value
    return rows


def _chips(chips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chips with an answer, fastest first, each with its time relative to the slowest shown."""
    known = sorted((chip for chip in chips if "days" in chip), key=lambda chip: float(chip["days"]))
    slowest = known[-1]["days"] if known else 1.0
    return [chip | {"share": 100 * chip["days"] / slowest} for chip in known]
