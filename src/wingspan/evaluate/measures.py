"""From what two models answered to scores: values, intervals, paired differences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wingspan.evaluate import statistics
from wingspan.evaluate.statistics import Difference, Estimate, Floats
from wingspan.evaluate.tasks import CITATIONS, POSTS, REPLIES, Task
from wingspan.knowledge.citations import Citation, check_citations
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.labels import LABEL_CLASSES

Doc = Mapping[str, Any]

_DECLINES = re.compile(
    r"\b(?:(?:do|does|did|can|could)(?:n['’]t| not)|cannot|not able to|unable to|no (?:information|mention|posts?))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Measure:
    """One number about a task's answers.

    `columns` turns documents and answers into [items, columns], of which `statistic` makes the score from
    sums. `right_or_wrong` says that each item is simply one or the other.
    """

    name: str
    title: str
    metric: str
    unit: str
    statistic: statistics.Statistic
    columns: Callable[[Sequence[Doc], Sequence[Any]], Floats]
    higher_is_better: bool = True
    right_or_wrong: bool = False
    applies: Callable[[Doc], bool] = lambda doc: True


def measures_of(task: Task) -> list[Measure]:
    """The measures of a task: by its name, and for any other name those of a label."""
    return _MEASURES.get(task.name) or _label_measures(task.name)


def score_table(task: Task, answers: Mapping[str, Sequence[Any]], *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """One row of scores.json per measure; `answers` holds two models', the later compared with the earlier."""
    return [
        row
        for measure in measures_of(task)
        if (row := _row(measure, task.docs, answers, resamples=resamples, seed=seed)) is not None
    ]


def _row(
    measure: Measure, docs: Sequence[Doc], answers: Mapping[str, Sequence[Any]], *, resamples: int, seed: int
) -> dict[str, Any] | None:
    """None when no document of the task is one that the measure is about."""
    chosen = [number for number, doc in enumerate(docs) if measure.applies(doc)]
    if not chosen:
        return None
    kept = [docs[number] for number in chosen]
    names = [doc["cluster"] for doc in kept]
    clusters = names if len(set(names)) < len(names) else None
    columns = {model: measure.columns(kept, [given[number] for number in chosen]) for model, given in answers.items()}
    how = {"resamples": resamples, "seed": seed, "clusters": clusters}
    first, second = columns.values()
    return {
        "name": measure.name,
        "title": measure.title,
        "metric": measure.metric,
        "unit": measure.unit,
        "higher_is_better": measure.higher_is_better,
        "items": len(kept),
        "clusters": len(set(names)),
        "scores": {model: asdict(_estimate(measure, one, how)) for model, one in columns.items()},
        "difference": asdict(_difference(measure, first, second, how)),
    }


def _estimate(measure: Measure, columns: Floats, how: dict[str, Any]) -> Estimate:
    if measure.right_or_wrong and how["clusters"] is None:
        return statistics.wilson(int(columns[:, 0].sum()), len(columns))
    return statistics.estimate(measure.statistic, columns, **how)


def _difference(measure: Measure, first: Floats, second: Floats, how: dict[str, Any]) -> Difference:
    found = statistics.compare(measure.statistic, first, second, **how)
    if not measure.right_or_wrong or how["clusters"] is not None:
        return found
    p_value = statistics.mcnemar([*(first[:, 0] > 0)], [*(second[:, 0] > 0)])
    return Difference(found.value, found.low, found.high, p_value, "McNemar, exact")


def citations_of(doc: Doc, answer: str) -> list[Citation]:
    """Every citation of an answer, held against the posts that the question came with."""
    return check_citations(answer, [SourcePost(post["post_id"], post["text"]) for post in doc["posts"]])


def declines(answer: str) -> bool:
    """Whether an answer says that the posts do not tell."""
    return _DECLINES.search(answer) is not None


def _bits(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    bits = [-log_likelihood / math.log(2) for log_likelihood in answers]
    return statistics.ratio_columns(bits, [len(doc["text"].encode()) for doc in docs])


def _chose_right(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    """Right when the right reply has the highest log-likelihood per UTF-8 byte."""
    rates = [
        [float(given[0]) / len(choice.encode()) for given, choice in zip(answer, doc["choices"], strict=True)]
        for doc, answer in zip(docs, answers, strict=True)
    ]
    return statistics.ratio_columns(
        [float(int(np.argmax(row)) == doc["gold"]) for doc, row in zip(docs, rates, strict=True)]
    )


def _class_confusion(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    predicted = [int(np.argmax(_class_probabilities(answer))) for answer in answers]
    return statistics.confusion_columns([doc["gold"] for doc in docs], predicted, len(LABEL_CLASSES))


def _rating_moments(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    """p(positive) - p(negative) beside the raters' mean."""
    positive, negative = LABEL_CLASSES.index("positive"), LABEL_CLASSES.index("negative")
    probabilities = [_class_probabilities(answer) for answer in answers]
    expected = [float(row[positive] - row[negative]) for row in probabilities]
    return statistics.moment_columns(expected, [doc["value"] for doc in docs])


def _class_probabilities(answer: Any) -> Floats:
    """The classes' likelihoods, scaled to sum to 1."""
    scores = np.asarray([float(given[0]) for given in answer])
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


def _cites_with_support(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    found = [citations_of(doc, answer) for doc, answer in zip(docs, answers, strict=True)]
    return statistics.ratio_columns([float(any(one.supported for one in each)) for each in found])


def _supported_citations(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    """An answer without a citation counts as one wrong citation, so that silence is not precise."""
    found = [citations_of(doc, answer) for doc, answer in zip(docs, answers, strict=True)]
    supported = [float(sum(one.supported for one in each)) for each in found]
    return statistics.ratio_columns(supported, [float(max(1, len(each))) for each in found])


def _declined(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    return statistics.ratio_columns(
        [float(declines(answer) and not citations_of(doc, answer)) for doc, answer in zip(docs, answers, strict=True)]
    )


def _label_measures(name: str) -> list[Measure]:
    title = name.replace("_", " ").capitalize()
    return [
        Measure(f"{name}_f1", f"{title} of posts", "macro-F1", "share", statistics.macro_f1, _class_confusion),
        Measure(
            f"{name}_correlation",
            f"{title}, against people's ratings",
            "Pearson correlation",
            "r",
            statistics.pearson,
            _rating_moments,
        ),
    ]


_MEASURES: dict[str, list[Measure]] = {
    POSTS: [
        Measure(
            "bits_per_byte",
            "Prediction of held-out posts",
            "bits per byte",
            "bits/byte",
            statistics.ratio,
            _bits,
            higher_is_better=False,
        )
    ],
    REPLIES: [
        Measure(
            "reply_choice",
            "The right reply among wrong ones",
            "accuracy by log-likelihood per byte",
            "share",
            statistics.ratio,
            _chose_right,
            right_or_wrong=True,
        )
    ],
    CITATIONS: [
        Measure(
            "cited_answers",
            "Answers with a citation that holds",
            "share of answerable questions",
            "share",
            statistics.ratio,
            _cites_with_support,
            right_or_wrong=True,
            applies=lambda doc: bool(doc["answerable"]),
        ),
        Measure(
            "citation_precision",
            "Citations that hold",
            "supported citations / citations, none counting as one wrong",
            "share",
            statistics.ratio,
            _supported_citations,
            applies=lambda doc: bool(doc["answerable"]),
        ),
        Measure(
            "declined",
            "Says so when the posts do not answer",
            "share of unanswerable questions",
            "share",
            statistics.ratio,
            _declined,
            right_or_wrong=True,
            applies=lambda doc: not doc["answerable"],
        ),
    ],
}
