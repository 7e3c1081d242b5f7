"""plan.html: the plan as one self-contained page with sliders; its tables can be read without a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from wingspan.plan.screens.explain import Explainer, written
from wingspan.plan.screens.terminal import band, calendar, layout_words
from wingspan.units import amount, count, duration, size

Document = Mapping[str, Any]

_SCRIPTED = ("device", "days", "cost", "energy_mwh")  # of a chip: what the Pareto plot draws

_pages = Environment(
    loader=ChoiceLoader([PackageLoader("wingspan.plan.screens"), PackageLoader("wingspan")]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.policies["json.dumps_kwargs"] = {}  # items keep their order
_pages.filters |= {"size": size, "duration": duration, "count": count, "amount": amount, "band": band}
_pages.filters |= {"written": written, "said": lambda figure: amount(figure["value"], figure.get("unit", ""))}


def page(plan: Document, explored: Document, explaining: Explainer) -> str:
    """The page as HTML text."""
    fleet = plan["fleet"]
    chips = sorted((chip for chip in plan["chips"] if "days" in chip), key=lambda chip: float(chip["days"]))
    figures = {name: one for name, one in fleet.items() if isinstance(one, dict) and one.get("high") and one["value"]}
    figures |= {"loss": plan["quality"]["loss"]} if "loss" in plan["quality"] else {}
    data = {
        "fleet": fleet,
        "chips": [{name: chip[name] for name in _SCRIPTED} for chip in chips],
        "bands": {name: [one[end] / one["value"] for end in ("low", "high")] for name, one in figures.items()},
        "from_scratch": "loss" in plan["quality"],
        "alone": "this_machine" in plan,
        "explored": explored,
    }
    return _pages.get_template("plan.html").render(
        plan=plan,
        fleet=fleet,
        layout=layout_words(fleet["layout"]),
        calendar={name: part for name, part in calendar(fleet).items() if part > 0},
        chips=chips,
        explored=explored,
        derivations=explaining.formulas(),
        data=data,
    )
