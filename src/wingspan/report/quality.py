"""Scores of base and assistant side by side, and answers to read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from wingspan.report.charts import Dumbbell, Mark, dumbbells
from wingspan.report.record import Document, Told

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ScoreRow:
    """One task in the table of scores."""

    task: Told
    scores: list[Told]
    difference: Told
    test: Told


@dataclass(frozen=True)
class Answer:
    """What one model said, and which of the posts before it it cited."""

    model: str
    text: str
    citations: str


@dataclass(frozen=True)
class Sample:
    """A question, the posts that were retrieved for it, and every model's answer."""

    question: str
    posts: list[Document]
    answers: list[Answer]


def improvements(scores: Document) -> tuple[int, int, int]:
    """Tasks on which the assistant is better, worse (by the paired test, 5% level), and all of them."""
    outcomes = [_outcome(task) for task in scores["tasks"]]
    return outcomes.count("better"), outcomes.count("worse"), len(outcomes)


def score_chart(scores: Document) -> Markup:
    """Every task as a dumbbell with 95% intervals."""
    rows = [_dumbbell(task, scores["models"]) for task in scores["tasks"]]
    spoken = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return dumbbells("Base and assistant on held-out data, with 95% intervals", spoken, rows)


def score_rows(scores: Document) -> list[ScoreRow]:
    """The table below the chart."""
    return [_score_row(task, scores["models"]) for task in scores["tasks"]]


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
    text = " → ".join(f"{score['value']:.3f}" for _, score in scores)
    return Dumbbell(task["title"], _direction(task), text, marks)


def _score_row(task: Document, models: list[str]) -> ScoreRow:
    metric = f"{task['metric']} ({task['unit']})" if task.get("unit") else task["metric"]
    change = task["difference"]
    return ScoreRow(
        task=Told(task["title"], note=f"{metric}, {_direction(task)}; {task['items']:,} items"),
        scores=[_estimate(task["scores"][model], "") for model in models],
        difference=_estimate(change, "+"),
        test=Told(_outcome(task), note=f"{_p_value(change['p_value'])}, {change['test']}"),
    )


def _estimate(score: Document, sign: str) -> Told:
    value, low, high = (_signed(score[key], sign) for key in ("value", "low", "high"))
    return Told(value, note=f"{low} to {high}")


def _signed(value: float, sign: str) -> str:
    return f"{value:{sign}.3f}".replace("-", "−")


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _sample(sample: Document) -> Sample:
    cited: Document = sample.get("citations", {})
    answers = [
        Answer(model, text.strip(), _citations(cited.get(model, [])))
        for model, text in sample.get("answers", {}).items()
    ]
    return Sample(sample["question"], sample.get("posts", []), answers)


def _citations(cited: list[Document]) -> str:
    """Which posts an answer cites, and whether the post says what the answer claims."""
    if not cited:
        return "cites nothing"
    judged = (f"[{one['number']}]{'' if one['supported'] else ' (not supported by the post)'}" for one in cited)
    return "cites " + ", ".join(judged)


def mark_citations(text: str) -> Markup:
    """An answer with its citations like [1] set apart; everything else is escaped."""
    pieces = re.split(r"(\[\d+\])", text)
    return Markup("").join(
        Markup("<b class='cite'>{}</b>").format(piece) if index % 2 else Markup("{}").format(piece)
        for index, piece in enumerate(pieces)
    )
