"""Citations of an answer, checked and mended: a cited post was retrieved and shares what the answer claims."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.words import content_words

_MARK = re.compile(r"\[(\d{1,2})\]")
_MARK_KEPT = re.compile(r"(\[\d{1,2}\])")  # splits a text and keeps the marks
_UNFINISHED_MARK = re.compile(r"\[\d{0,2}$")
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
    return [one for _, cited in claims(answer, posts) for one in cited]


def claims(answer: str, posts: Sequence[SourcePost]) -> list[tuple[str, list[Citation]]]:
    """Every sentence of `answer` that says something or cites, with its citations."""
    found = []
    for sentence in _SENTENCE_END.split(answer):
        citations = []
        claim = ""
        end = 0
        for mark in _MARK.finditer(sentence):
            claim = sentence[end : mark.start()].strip() or claim  # `[1][2]`: both stand for the same claim
            end = mark.end()
            number = int(mark.group(1))
            post = posts[number - 1] if 1 <= number <= len(posts) else None
            citations.append(_cite(number, post, claim))
        if citations or content_words(sentence):
            found.append((_MARK.sub("", sentence).strip(), citations))
    return found


class CitationMender:
    """Gives a wrong `[n]` of a streamed answer the number of the retrieved post that does say its claim.

    A small model quotes more surely than it numbers. Where no retrieved post says the claim, the citation
    stays as it is, and the check that follows marks it.
    """

    def __init__(self, posts: Sequence[SourcePost]) -> None:
        self._posts = posts
        self._said = ""
        self._held = ""

    def take(self, text: str) -> str:
        """The text that is safe to show now; the beginning of a citation is held back."""
        text = self._held + text
        unfinished = _UNFINISHED_MARK.search(text)
        self._held = unfinished.group() if unfinished else ""
        return self._mend(text.removesuffix(self._held))

    def rest(self) -> str:
        """What was held back for nothing, at the end of the stream."""
        held, self._held = self._held, ""
        return held

    def _mend(self, text: str) -> str:
        shown = ""
        for part in _MARK_KEPT.split(text):
            self._said += part
            if _MARK.fullmatch(part):
                citation = check_citations(self._said, self._posts)[-1]
                if not citation.supported and (number := _best_support(citation.claim, self._posts)):
                    self._said = self._said.removesuffix(part) + f"[{number}]"
                    part = f"[{number}]"
            shown += part
        return shown


def _best_support(claim: str, posts: Sequence[SourcePost]) -> int | None:
    """The number of the post that shares most with a claim, if that is enough to support it."""
    shares = [_share(post, claim) for post in posts]
    best = max(shares, default=0.0)
    return shares.index(best) + 1 if best >= _SUPPORT else None


def _cite(number: int, post: SourcePost | None, claim: str) -> Citation:
    if post is None:
        return Citation(number, None, claim, supported=False)
    return Citation(number, post.post_id, claim, _share(post, claim) >= _SUPPORT)


def _share(post: SourcePost, claim: str) -> float:
    """Share of a claim's content words that stand in the post; 0 for a claim without any."""
    claimed = set(content_words(claim))
    return len(claimed & set(content_words(post.text))) / len(claimed) if claimed else 0.0
