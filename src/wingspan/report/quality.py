"""Scores of base and assistant side by side, and answers to read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from wingspan.report.charts import Dumbbell, Mark, dumbbells
from wingspan.report.record import Document, Told, signed

_SIGNIFICANT = 0.05
_HEADINGS = {"platform": "On the platform's own ground", "general": "In general", "safety": "Safety"}


@dataclass(frozen=True)
class Answer:
    """What one model said, which posts it cited, and the numbers of those that do not support it."""

    model: str
    text: str
    citations: str
    doubtful: frozenset[int]


@dataclass(frozen=True)
class Sample:
    """A question, the posts that were retrieved for it, and every model's answer."""

    question: str
    answerable: bool
    posts: list[Document]
    answers: list[Answer]


def improvements(scores: Document) -> tuple[int, int, int]:
    """Measures on which the assistant is better, worse (by the paired test, 5% level), and all of them."""
    outcomes = [_outcome(task) for task in scores["tasks"]]
    return outcomes.count("better"), outcomes.count("worse"), len(outcomes)


def groups(scores: Document) -> list[tuple[str, list[Document]]]:
    """The measures by what they are about, under a heading each."""
    by_group: dict[str, list[Document]] = {}
    for task in scores["tasks"]:
        by_group.setdefault(task.get("group", "platform"), []).append(task)
    return [(_HEADINGS[name], by_group[name]) for name in _HEADINGS if name in by_group]


def score_chart(tasks: list[Document], models: list[str]) -> Markup:
    """Every measure as a dumbbell with 95% intervals."""
    rows = [_dumbbell(task, [model for model in models if model in task["scores"]]) for task in tasks]
    rows.sort(key=lambda row: -len(row.marks))  # the legend is made of the first row
    spoken = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return dumbbells(f"{', '.join(models).capitalize()}, with 95% intervals", spoken, rows)


def score_rows(tasks: list[Document], models: list[str]) -> list[list[Told]]:
    """The table below the chart: measure, score of each model, difference, paired test."""
    return [_score_row(task, models) for task in tasks]


def remarks(scores: Document) -> list[str]:
    """What a reader must know of answers that were no answers."""
    kinds = {"empty_answers": "empty answers", "unread_answers": "answers that name no choice, counted as wrong"}
    return [
        f"{model}: {number:,} {told}"
        for kind, told in kinds.items()
        for model, number in scores.get(kind, {}).items()
        if number
    ]


def samples(scores: Document) -> list[Sample]:
    """Questions with posts and answers, as evaluate kept them."""
    return [_sample(one) for one in scores.get("samples", [])]


def _outcome(task: Document) -> str:
    difference = task["difference"]
    if difference["p_value"] >= _SIGNIFICANT or difference["value"] == 0:
        return "no clear difference"
    return "better" if (difference["value"] > 0) == task["higher_is_better"] else "worse"


def _direction(task: Document) -> str:
    return "higher is better" if task["higher_is_better"] else "lower is better"


def _dumbbell(task: Document, models: list[str]) -> Dumbbell:
    scores = [(model, task["scores"][model]) for model in models]
    marks = [Mark(model, score["value"], score["low"], score["high"]) for model, score in scores]
    text = " → ".join(signed(f"{score['value']:.3f}") for _, score in scores)
    return Dumbbell(task["title"], _direction(task), text, marks)


def _score_row(task: Document, models: list[str]) -> list[Told]:
    change = task["difference"]
    items = f"{task['items']:,} {'item' if task['items'] == 1 else 'items'}"
    if task.get("contaminated"):
        items += f", {task['contaminated']:,} of them in the training posts"
    return [
        Told(task["title"], note=f"{task['metric']}; {_direction(task)}; {items}"),
        *(_estimate(task["scores"][model], "") if model in task["scores"] else Told("not asked") for model in models),
        _estimate(change, "+"),
        Told(_outcome(task), note=f"{_p_value(change['p_value'])}, {change['test']}"),
    ]


def _estimate(score: Document, sign: str) -> Told:
    value, low, high = (signed(f"{score[key]:{sign}.3f}") for key in ("value", "low", "high"))
    return Told(value, note=f"{low} to {high}")


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _sample(sample: Document) -> Sample:
    answers = [_answer(model, text, sample["citations"][model]) for model, text in sample["answers"].items()]
    return Sample(sample["question"], sample["answerable"], sample["posts"], answers)


def _answer(model: str, text: str, cited: list[Document]) -> Answer:
    judged = (f"[{one['number']}]{'' if one['supported'] else ' (not supported by the post)'}" for one in cited)
    doubtful = frozenset(one["number"] for one in cited if not one["supported"])
    return Answer(model, text.strip(), f"cites {', '.join(judged)}" if cited else "cites nothing", doubtful)


def with_chips(answer: Answer) -> Markup:
    """The answer with its citations like [1] as chips, doubtful ones marked; everything else is escaped."""
    pieces = re.split(r"\[(\d+)\]", answer.text)
    parts = []
    for index, piece in enumerate(pieces):
        if index % 2:
            kind = "chip doubtful" if int(piece) in answer.doubtful else "chip"
            parts.append(Markup('<b class="{}">{}</b>').format(kind, piece))
        else:
            parts.append(escape(piece))
    return Markup("").join(parts)
