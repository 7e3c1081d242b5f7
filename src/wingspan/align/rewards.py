"""What can be checked of an answer by code: each reward lies between 0 and 1, and says why it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import polars as pl

from wingspan.knowledge.citations import check_citations
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost
from wingspan.knowledge.words import content_words
from wingspan.model.chat import SPECIAL_TOKENS
from wingspan.prepare.text.language import UNKNOWN, detect

_LONGEST = 80  # words of an answer that people read to the end


@dataclass(frozen=True)
class Question:
    """A question, the posts before it and, where it must not be answered, what is to be said instead."""

    text: str
    posts: Sequence[SourcePost]
    refusal: str | None


def rewards(question: Question, answer: str, ended: bool) -> dict[str, float]:
    """Every reward of an answer; `ended`: it stopped of its own accord."""
    words = answer.split()
    refused = _same(answer, question.refusal or NO_SUPPORT)
    return {
        "format": float(ended and bool(words) and not any(token in answer for token in SPECIAL_TOKENS)),
        "citations": _citations(question, answer, refused),
        "language": 1.0 if refused else _language(question.text, answer),
        "length": min(1.0, _LONGEST / max(1, len(words))),
        "refusal": float(refused == (question.refusal is not None)),
    }


def total(found: dict[str, float]) -> float:
    """One number of all rewards: their mean, each weighing the same."""
    return fmean(found.values())


def _citations(question: Question, answer: str, refused: bool) -> float:
    """Share of citations whose post was given and says it; an answer without any earns it only by refusing."""
    cited = check_citations(answer, question.posts)
    return fmean(one.supported for one in cited) if cited else float(refused and question.refusal is not None)


def _language(question: str, answer: str) -> float:
    """1 in the question's language, 0 in another, one half where that cannot be told."""
    asked, said = detect(
        pl.DataFrame({"text": [question, answer], "lang_hint": pl.Series([None, None], dtype=pl.String)})
    )
    return 0.5 if UNKNOWN in (asked, said) else float(asked == said)


def _same(answer: str, words: str) -> bool:
    """Whether an answer says those words: at least nine in ten of their content words, and few others."""
    said, wanted = set(content_words(answer)), set(content_words(words))
    return bool(said) and len(said & wanted) >= 0.9 * max(len(wanted), len(said))
