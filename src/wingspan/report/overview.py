"""The top of the report: the verdict in one sentence, the stages with their times, plan beside reality."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from wingspan.figures import Figure, measured
from wingspan.report.charts import Beside, Mark, Stack, beside, stacked_bars
from wingspan.report.quality import improvements
from wingspan.report.record import Document, Fact, Record, Told, figure, tell, unbroken
from wingspan.stages import STAGES
from wingspan.units import amount, duration

_PREDICTED_STAGES = ("prepare", "train", "align", "evaluate")
_COMPARED = (("wall_s", "s", "Time"), ("peak_memory_bytes", "B", "Peak memory"))


@dataclass(frozen=True)
class StageView:
    """One box in the picture of the stages."""

    name: str
    question: str
    text: str
    done: bool


@dataclass(frozen=True)
class Comparison:
    """One quantity, predicted and measured per stage: a chart, and the table that says it exactly."""

    title: str
    chart: Markup
    rows: list[tuple[str, Told, Told, Told]]


def verdict(record: Record) -> str:
    """What came of the run, in one sentence."""
    name = record.run.project.assistant.name
    if "align" not in record.manifests:
        planned = record.plan["sentence"] if record.plan else "Nothing is planned either."
        return f"{name} is not made yet. {planned}"
    posts = f"{record.prepared['kept']:,} posts" if record.prepared else "posts"
    sentence = f"{name}, made from {posts} in {unbroken(duration(_seconds(record)))} on {machine(record)}"
    if record.scores is None:
        return f"{sentence}; not evaluated yet."
    better, worse, measures = improvements(record.scores)
    ending = f", worse on {worse}" if worse else ""
    return f"{sentence}; better than its base on {better} of {measures} measures{ending}."


def machine(record: Record) -> str:
    """The machine as the plan measured it."""
    found = (record.plan or {}).get("machine")
    return f"{found['cores']} cores ({found['processor']})" if found else "this machine"


def serve_command(record: Record) -> str:
    """How to talk to the assistant, from the folder that the report was written in."""
    base = record.run.base
    here = Path.cwd()
    return f"wingspan serve {os.path.relpath(base, here) if base.is_relative_to(here) else base}"


def headline(record: Record) -> list[Fact]:
    """The few numbers that a person asks for first."""
    manifests = record.manifests.values()
    peak = max((one["peak_memory_bytes"] for one in manifests), default=None)
    facts = [
        Fact("Time of all stages", tell(measured(_seconds(record), "s") if manifests else None)),
        Fact("Peak memory", tell(measured(peak, "B") if peak else None)),
        Fact("Energy", tell(energy(record))),
    ]
    if record.prepared:
        facts.insert(0, Fact("Posts kept", Told(f"{record.prepared['kept']:,}", "measured")))
    if record.scores:
        better, _, measures = improvements(record.scores)
        facts.append(Fact("Measures better than base", Told(f"{better} of {measures}", "measured")))
    return facts


def stages(record: Record) -> list[StageView]:
    """The picture: every stage with its question and how long it took."""
    views = []
    for spec in STAGES:
        manifest = record.manifests.get(spec.name)
        text = duration(manifest["wall_s"]) if manifest else "not run"
        views.append(StageView(spec.name, spec.question, text, manifest is not None))
    return [*views, StageView("serve", "assistant -> answers", "until stopped", False)]


def shares_of_time(record: Record) -> Markup:
    """One bar: where the time went."""
    seconds = {name: float(manifest["wall_s"]) for name, manifest in record.manifests.items()}
    names = [f"{name} {duration(one)}" for name, one in seconds.items()]
    stack = Stack("all stages, one after the other", duration(sum(seconds.values())), list(seconds.values()))
    return stacked_bars("Where the time went", ", ".join(names), names, [stack])


def comparisons(record: Record) -> list[Comparison]:
    """Time and memory of each stage, predicted before the run and measured in it."""
    expected: dict[str, Document] = (record.plan or {}).get("this_machine", {}).get("stages", {})
    return [_comparison(record, expected, *quantity) for quantity in _COMPARED] if expected else []


def costs(record: Record) -> list[Fact]:
    """Energy, its carbon dioxide and its price, with what each rests on."""
    found = [("Energy", energy(record)), ("Carbon dioxide", carbon(record)), ("Electricity", electricity(record))]
    return [Fact(label, _with_source(one)) for label, one in found]


def _with_source(what: Figure | None) -> Told:
    words = tell(what)
    return replace(words, note="; ".join(filter(None, (words.note, what.source)))) if what else words


def _comparison(record: Record, expected: dict[str, Document], key: str, unit: str, title: str) -> Comparison:
    rows, bars = [], []
    for name in _PREDICTED_STAGES:
        guess = figure(expected.get(name, {}).get(key))
        if guess is None:
            continue
        found = record.manifests.get(name, {}).get(key)
        words = tell(measured(found, unit)) if found is not None else Told("not run")
        rows.append((name, tell(guess), words, _hit(guess, found)))
        band = Mark(name, guess.value, _low(guess), _high(guess))
        bars.append(Beside(name, words.text, band, found))
    spoken = "; ".join(f"{name}: predicted {guess.text}, measured {found.text}" for name, guess, found, _ in rows)
    return Comparison(title, beside(f"{title} of each stage", spoken, bars), rows)


def _hit(guess: Figure, found: float | None) -> Told:
    """How the measured value lies to the prediction."""
    if found is None:
        return Told("")
    inside = _low(guess) <= found <= _high(guess)
    return Told(f"{found / guess.value:.2f}", note="inside the band" if inside else "outside the band")


def _low(guess: Figure) -> float:
    return guess.value if guess.low is None else guess.low


def _high(guess: Figure) -> float:
    return guess.value if guess.high is None else guess.high


def energy(record: Record) -> Figure | None:
    """kWh of all stages; measured only where every stage could read a counter."""
    parts = [one for manifest in record.manifests.values() if (one := figure(manifest.get("energy")))]
    if not parts:
        return None
    total = sum(one.value for one in parts)
    if all(one.basis == "measured" for one in parts):
        return measured(total, "kWh", parts[0].source)
    source = next(one.source for one in parts if one.basis != "measured")
    return Figure(total, "kWh", "predicted", source, sum(map(_low, parts)), sum(map(_high, parts)))


def electricity(record: Record) -> Figure | None:
    """What the energy costs at the project's price of a kWh, US dollars."""
    price = record.run.project.fleet.price_per_kwh
    return _times(energy(record), price, "USD", f"at {amount(price, 'USD')} per kWh, as the project file says")


def carbon(record: Record) -> Figure | None:
    """Tonnes of CO2 at the project's grid."""
    grid = record.run.project.fleet.grid_gco2_per_kwh
    return _times(energy(record), grid / 1e6, "t", f"at {grid:.0f} g per kWh, as the project file says")


def _times(used: Figure | None, factor: float, unit: str, source: str) -> Figure | None:
    """A figure scaled; what rests on an assumed factor is predicted."""
    if used is None:
        return None
    return Figure(used.value * factor, unit, "predicted", source, _low(used) * factor, _high(used) * factor)


def _seconds(record: Record) -> float:
    return sum(float(one["wall_s"]) for one in record.manifests.values())
