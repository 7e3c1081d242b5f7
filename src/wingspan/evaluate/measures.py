"""What is counted in a model's answers: for each kind of task its measures, all functions of sums over items."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wingspan.evaluate import statistics
from wingspan.evaluate.statistics import Floats
from wingspan.knowledge.citations import Citation, check_citations, claims
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.labels import LABEL_CLASSES
from wingspan.knowledge.words import words

Doc = Mapping[str, Any]
Group = Literal["platform", "general", "safety"]

_DECLINES = re.compile(
    r"\b(?:(?:do|does|did|can|could)(?:n['’]t| not)|can(?:not|['’]t)|not able to|unable to|"
    r"no (?:information|mention|posts?))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Measure:
    """One number about a task's answers.

    `columns` turns documents and answers into [items, columns], of which `statistic` makes the score from
    sums. `right_or_wrong` says that each item is simply one or the other. `group` is its place in the report.
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
    group: Group = "platform"


def share(name: str, title: str, metric: str, holds: Callable[[Doc, Any], bool], **more: Any) -> Measure:
    """The share of items that are right."""

    def columns(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
        return statistics.ratio_columns([float(holds(*pair)) for pair in zip(docs, answers, strict=True)])

    return Measure(name, title, metric, "share", statistics.ratio, columns, right_or_wrong=True, **more)


def classes_measure(
    name: str, title: str, metric: str, statistic: statistics.Statistic, classes: int, **more: Any
) -> Measure:
    """A score of the confusion between the right class and the chosen one."""

    def columns(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
        told = [chosen(doc, answer) for doc, answer in zip(docs, answers, strict=True)]
        return statistics.confusion_columns([doc["gold"] for doc in docs], told, classes)

    return Measure(name, title, metric, "share", statistic, columns, **more)


def chosen(doc: Doc, answer: Any, per_byte: bool = False) -> int:
    """The number of the choice that an answer takes: the likeliest, or the one it names in words; -1 for none."""
    if isinstance(answer, str):
        return named_choice(doc["choices"], answer)
    lengths = [len(choice.encode()) if per_byte else 1 for choice in doc["choices"]]
    return int(np.argmax([float(given[0]) / length for given, length in zip(answer, lengths, strict=True)]))


def named_choice(choices: Sequence[str], answer: str) -> int:
    """The choice that an answer begins with by its letter, or is alone in saying; -1 where that is not clear."""
    letter = re.match(r"\W*([A-Z])(?:\W|$)", answer)
    if letter and (number := ord(letter.group(1)) - ord("A")) < len(choices):
        return number
    said = f" {' '.join(words(answer))} "
    found = [n for n, choice in enumerate(choices) if (spoken := " ".join(words(choice))) and f" {spoken} " in said]
    found = found or [n for n, choice in enumerate(choices) if choice.strip() in answer]
    return found[0] if len(found) == 1 else -1


def citations_of(doc: Doc, answer: str) -> list[Citation]:
    """Every citation of an answer, held against the posts that the question came with."""
    return check_citations(answer, _posts(doc))


def declines(answer: str) -> bool:
    """Whether an answer says that the posts do not tell."""
    return _DECLINES.search(answer) is not None


def probabilities(doc: Doc, answer: Any) -> Floats:
    """The choices' likelihoods, scaled to sum to 1; an answer in words is certain, of nothing if it names none."""
    if isinstance(answer, str):
        return np.asarray(np.eye(len(doc["choices"]) + 1)[chosen(doc, answer)][:-1])
    scores = np.asarray([float(given[0]) for given in answer])
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


def _posts(doc: Doc) -> list[SourcePost]:
    return [SourcePost(post["post_id"], post["text"]) for post in doc["posts"]]


def _bits(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    bits = [-log_likelihood / math.log(2) for log_likelihood in answers]
    return statistics.ratio_columns(bits, [len(doc["text"].encode()) for doc in docs])


def _rating_moments(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    """p(positive) - p(negative) beside the raters' mean."""
    positive, negative = LABEL_CLASSES.index("positive"), LABEL_CLASSES.index("negative")
    rows = [probabilities(doc, answer) for doc, answer in zip(docs, answers, strict=True)]
    return statistics.moment_columns([float(row[positive] - row[negative]) for row in rows], [d["value"] for d in docs])


def _supported_citations(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    """An answer without a citation counts as one wrong citation, so that silence is not precise."""
    found = [citations_of(doc, answer) for doc, answer in zip(docs, answers, strict=True)]
    supported = [float(sum(one.supported for one in each)) for each in found]
    return statistics.ratio_columns(supported, [float(max(1, len(each))) for each in found])


def _cited_claims(docs: Sequence[Doc], answers: Sequence[Any]) -> Floats:
    """Claims with at least one citation that holds, out of all claims; an answer without one counts as one claim."""
    said = [claims(answer, _posts(doc)) for doc, answer in zip(docs, answers, strict=True)]
    held = [float(sum(any(one.supported for one in cited) for _, cited in each)) for each in said]
    return statistics.ratio_columns(held, [float(max(1, len(each))) for each in said])


def label_measures(name: str) -> list[Measure]:
    """The class, and the rating, of posts that people rated."""
    title = name.replace("_", " ").capitalize()
    correlation = f"{title}, against people's ratings"
    return [
        classes_measure(f"{name}_f1", f"{title} of posts", "macro-F1", statistics.macro_f1, len(LABEL_CLASSES)),
        Measure(f"{name}_correlation", correlation, "Pearson correlation", "r", statistics.pearson, _rating_moments),
    ]


REPLY_CHOICE = share(
    "reply_choice",
    "The right reply among wrong ones",
    "accuracy by log-likelihood per byte",
    lambda doc, answer: bool(chosen(doc, answer, per_byte=True) == doc["gold"]),
)

BITS_PER_BYTE = Measure(
    "bits_per_byte", "Prediction of held-out posts", "bits per byte", "bits/byte", statistics.ratio, _bits, False
)


def _cited(prefix: str, what: str, applies: Callable[[Doc], bool] = lambda doc: True) -> list[Measure]:
    """Precision and recall of citations, as ALCE defines them (Gao et al. 2023) with wording in place of entailment."""
    precision = "supported citations / citations, none counting as one wrong"
    recall = "claims with a citation that holds / claims, none counting as one"
    kinds = (
        ("precision", "Citations that hold", precision, _supported_citations),
        ("recall", "Claims with a citation that holds", recall, _cited_claims),
    )
    return [
        Measure(f"{prefix}_{name}", title + what, metric, "share", statistics.ratio, columns, applies=applies)
        for name, title, metric, columns in kinds
    ]


CITATIONS = [
    share(
        "cited_answers",
        "Answers with a citation that holds",
        "share of answerable questions",
        lambda doc, answer: any(one.supported for one in citations_of(doc, answer)),
        applies=lambda doc: bool(doc["answerable"]),
    ),
    *_cited("citation", "", lambda doc: bool(doc["answerable"])),
    share(
        "declined",
        "Says so when the posts do not answer",
        "share of unanswerable questions",
        lambda doc, answer: declines(answer) and not citations_of(doc, answer),
        applies=lambda doc: not doc["answerable"],
    ),
]
SUMMARIES = _cited("summary", ", in summaries of threads")
