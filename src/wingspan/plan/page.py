"""plan.html: the plan as one self-contained page with sliders; its tables can be read without a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from wingspan.plan.explain import Explainer
from wingspan.plan.terminal import band, calendar, layout_words, plain
from wingspan.units import amount, count, duration, money, size

Document = Mapping[str, Any]

_DIALS = (  # name, label, from, to, step; positions of the first two are stops
    ("devices", "Devices", 0, 0, 1),
    ("model", "Model", 0, 0, 1),
    ("tokens", "Tokens", -2, 1, 0.05),  # powers of ten
    ("price", "Price", -2, 2, 0.1),  # powers of two
    ("pue", "Power of the site / of the machines (PUE)", 1, 2, 0.01),
    ("kwh", "Electricity", 0, 0.4, 0.005),
    ("grid", "Carbon of the grid", 0, 1000, 10),
)
_BILLS = (
    ("cost", "As planned"),
    ("cost_on_demand", "On demand"),
    ("cost_reserved", "Reserved"),
    ("cost_owned", "Owned"),
)
_ENERGIES = (
    ("energy_mwh", "Energy"),
    ("site_kw", "Power on site"),
    ("heat_kw_per_rack", "Heat per rack"),
    ("energy_cost", "Electricity"),
    ("carbon_t", "Carbon dioxide"),
    ("water_m3", "Water"),
)
_SERVINGS = (
    ("replicas", "Replicas"),
    ("devices", "Devices"),
    ("users_per_replica", "People per replica"),
    ("tokens_per_s_per_user", "Pace for a reader"),
    ("first_token_s", "First word after"),
    ("cost_per_month", "Rent a month"),
    ("cost_per_1000_answers", "A thousand answers"),
)
_CHIP_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "days": ("Time", lambda days: duration(days * 86400)),
    "cost": ("Rented", money),
    "break_even_usd_per_hour": ("Break-even", lambda usd: f"{money(usd)}/h"),
    "cost_reserved": ("Reserved", money),
    "cost_owned": ("Owned", money),
    "energy_mwh": ("MWh", lambda mwh: f"{mwh:,.0f}" if mwh >= 100 else f"{mwh:.2g}"),
    "mfu": ("MFU", lambda share: f"{share:.0%}"),
    "memory_share": ("Memory", lambda share: f"{share:.0%}"),
}
_SECTIONS = (
    ("what-if", "What if?"),
    ("machine", "On this machine"),
    ("run", "The run"),
    ("bill", "The bill"),
    ("quality", "How good a model"),
    ("serving", "Answering"),
    ("chips", "Chips side by side"),
    ("sources", "Where every number comes from"),
)


_pages = Environment(
    loader=ChoiceLoader([PackageLoader("wingspan.plan"), PackageLoader("wingspan")]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.policies["json.dumps_kwargs"] = {}  # items keep their order
_pages.filters |= {
    "size": size,
    "duration": duration,
    "count": count,
    "said": lambda figure: amount(figure["value"], figure.get("unit", "")),
    "band": band,
    "attr_say": amount,
    "sum_of": lambda items: sum(items.values()),
    "cell": lambda chip, key: "unknown" if chip[key] is None else _CHIP_COLUMNS[key][1](chip[key]),
}


def page(plan: Document, explored: Document, explaining: Explainer) -> str:
    """The page as HTML text."""
    fleet = plan["fleet"]
    chips = sorted((chip for chip in plan["chips"] if "days" in chip), key=lambda chip: float(chip["days"]))
    figures = {name: one for name, one in fleet.items() if isinstance(one, dict) and one.get("high") and one["value"]}
    bands = {name: [one[end] / one["value"] for end in ("low", "high")] for name, one in figures.items()}
    stops = {"devices": len(explored["devices"]) - 1, "model": len(explored["models"]) - 1}
    there = {"machine": "this_machine" in plan, "run": "this_machine" not in plan, "bill": "this_machine" not in plan}
    there["serving"] = "replicas" in (plan["serving"] or {})
    return _pages.get_template("plan.html").render(
        plan=plan,
        fleet=fleet,
        layout=layout_words(fleet["layout"]),
        sections=[(anchor, title) for anchor, title in _SECTIONS if there.get(anchor, True)],
        dials=[(name, label, low, stops.get(name, high), step) for name, label, low, high, step in _DIALS],
        calendar={name: part for name, part in calendar(fleet).items() if part > 0},
        bills=_BILLS,
        energies=_ENERGIES,
        servings=_SERVINGS,
        chips=chips,
        columns=[(key, head) for key, (head, _) in _CHIP_COLUMNS.items()],
        unknown=[chip for chip in plan["chips"] if "unknown" in chip],
        derivations=[_derivation(plan, explaining, path) for path, value in explaining.figures.items() if value],
        data={
            "from_scratch": "loss" in plan["quality"],
            "alone": "this_machine" in plan,
            "fleet": _of_fleet(fleet),
            "chips": [_of_chip(chip) for chip in chips],
            "bands": bands,
            "explored": explored,
        },
    )


def _derivation(plan: Document, explaining: Explainer, path: str) -> dict[str, str]:
    """A row of the table of sources."""
    made, figure = explaining.explain(path, deep=False), plan
    for step in path.split("."):
        figure = figure[step]
    known = isinstance(figure, dict)
    return {
        "name": path,
        "said": amount(figure["value"], figure.get("unit", "")) if known else plain(made.value),
        "basis": figure["basis"] if known else "",
        "band": band(figure) if known else "",
        "formula": made.formula,
        "filled": made.filled,
        "source": figure.get("source", "") if known else "",
    }


def _of_fleet(fleet: Document) -> dict[str, Any]:
    """What the script needs to know of the fleet."""
    return {name: fleet[name] for name in ("device", "devices", "tokens_per_step", "memory_items_bytes")}


def _of_chip(chip: Document) -> dict[str, Any]:
    return {name: chip[name] for name in ("device", "days", "cost", "energy_mwh")}
