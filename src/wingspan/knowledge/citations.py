"""Citations of an answer, checked: the cited post was retrieved, and it shares what the answer claims."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.words import content_words

_MARK = re.compile(r"\[(\d{1,2})\]")
_SENTENCE_END = re.compile(r"(?<=[.!?…»”\"])\s+(?![\[»])|\n+")
_SUPPORT = 0.5  # share of a claim's content words that its post must contain


@dataclass(frozen=True)
class Citation:
    """One `[n]` of an answer. `post_id` is None when no retrieved post has that number."""

    number: int
    post_id: str | None
    claim: str
    supported: bool


def check_citations(answer: str, posts: Sequence[SourcePost]) -> list[Citation]:
    """Every citation of `answer`, in order, held against the posts it was given.

    A claim is the text since the previous citation or sentence end. It is supported when at least half of
    its content words stand in the cited post; a claim without content words supports nothing.
    """
    citations = []
    for sentence in _SENTENCE_END.split(answer):
        claim = ""
        end = 0
        for mark in _MARK.finditer(sentence):
            claim = sentence[end : mark.start()].strip() or claim  # `[1][2]`: both stand for the same claim
            end = mark.end()
            number = int(mark.group(1))
            post = posts[number - 1] if 1 <= number <= len(posts) else None
            citations.append(_cite(number, post, claim))
    return citations


def _cite(number: int, post: SourcePost | None, claim: str) -> Citation:
    if post is None:
        return Citation(number, None, claim, supported=False)
    return Citation(number, post.post_id, claim, _supports(post, claim))


def _supports(post: SourcePost, claim: str) -> bool:
    claimed = set(content_words(claim))
    if not claimed:
        return False
    return len(claimed & set(content_words(post.text))) >= _SUPPORT * len(claimed)
