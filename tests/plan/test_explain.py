"""Explanations: every number of a plan has one, and its formula with the values filled in gives the number."""

import json
import math
import re
from pathlib import Path

import pytest

from wingspan.errors import InputError
from wingspan.model.shape import shape_of
from wingspan.plan import stage
from wingspan.plan.devices.machine import nominal
from wingspan.plan.screens.explain import Explainer
from wingspan.project_file import load_project

EXAMPLES = Path(__file__).parents[2] / "examples"
ARITHMETIC = {name: getattr(math, name) for name in ("sqrt", "ceil", "floor", "log", "exp", "expm1")}
ARITHMETIC |= {"max": max, "min": min, "maximum": max, "minimum": min, "round": round, "float": float, "int": int}
ARITHMETIC |= {"sum": lambda total: total}


EXPERTS = (
    "model.architecture=qwen3_moe", "model.experts=64", "model.experts_per_token=4", "model.expert_ffn=2048",
    "model.depth=32", "model.hidden=4096", "model.heads=32", "fleet.devices=1024", "train.global_batch=1024",
)  # fmt: skip
RAMP = ("fleet.delivered_per_week=1000", "fleet.burn_in_days=3", "fleet.cooling=air", "train.optimizer.name=muon")
GIVEN = ("layout.dp_replicate=16", "layout.dp_shard=8", "layout.tp=8", "layout.pp=10", "layout.recompute=full")


def explainer_of(example: str, *overrides: str) -> Explainer:
    project = load_project(EXAMPLES / example, overrides)
    layout, choice = stage.decide_layout(project, shape_of(project.model))
    return stage.explainer(project, EXAMPLES, nominal(), layout, choice)


@pytest.fixture(scope="module")
def frontier() -> Explainer:
    return explainer_of("frontier")


def filled_in(text: str) -> float | None:
    """What a formula with its values is worth; None where it still has a name in it."""
    try:
        return float(eval(re.sub(r"(?<=\d),(?=\d{3})", "", text.replace("×", "*")), {"__builtins__": {}}, ARITHMETIC))
    except (NameError, SyntaxError, TypeError):
        return None


@pytest.mark.parametrize(
    ("example", "overrides"),
    [("frontier", ()), ("laptop", ()), ("frontier", EXPERTS), ("frontier", RAMP), ("frontier", GIVEN)],
)
def test_every_number_of_a_plan_is_explained_by_a_formula_that_gives_it(
    example: str, overrides: tuple[str, ...]
) -> None:
    explaining = explainer_of(example, *overrides)
    evaluated = 0
    for name, value in explaining.figures.items():
        derivation = explaining.explain(name)
        assert derivation.value == value
        assert derivation.formula
        worth = filled_in(derivation.filled)
        if worth is not None:
            evaluated += 1
            assert worth == pytest.approx(value, rel=2e-3, abs=1e-9), (name, derivation.formula, derivation.filled)
    assert evaluated > 0.95 * len(explaining.figures)


def test_a_derivation_names_its_inputs_and_what_they_rest_on(frontier: Explainer) -> None:
    cost = frontier.explain("cost")
    assert cost.name == "fleet.cost"
    assert cost.formula == "price × device_hours"
    assert cost.filled.startswith("2.95 × ")
    price, hours = cost.terms
    assert price.source.startswith("project file: US dollars")
    assert hours.formula == "days × 24 × fleet.devices"
    assert frontier.explain("cost.device_hours").formula == hours.formula


def test_sources_are_docstrings_and_comments_of_the_planner(frontier: Explainer) -> None:
    assert "Daly 2006, equation 37" in frontier.explain("checkpoint_interval_s").source
    restart = {term.name: term for term in frontier.explain("restart_s").terms}
    assert "dead rank is noticed" in restart["DETECT_S"].source
    assert frontier.explain("goodput").where == "goodput in wholerun.py"


def test_another_fleet_gets_its_own_values() -> None:
    dearer = explainer_of("frontier", "fleet.price_per_device_hour=5.0", "fleet.devices=5120")
    assert dearer.explain("cost").filled.startswith("5 × ")
    assert dearer.explain("device_hours").filled.endswith("5,120")


def test_an_unknown_name_suggests_near_ones(frontier: Explainer) -> None:
    with pytest.raises(InputError, match="no number 'energy_mhw'") as refused:
        frontier.explain("energy_mhw")
    assert "energy_mwh" in refused.value.remedy
    with pytest.raises(InputError) as refused:
        frontier.explain("qqq")
    assert "wingspan plan explain" in refused.value.remedy


def test_an_explanation_is_plain_json(frontier: Explainer) -> None:
    record = frontier.explain("goodput").as_json()
    assert record["formula"]
    assert {term["name"] for term in record["terms"]} >= {"M", "R"}
    json.dumps(record)
