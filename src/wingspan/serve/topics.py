"""What posts are about, to suggest questions: names and hashtags that several posts share."""

from __future__ import annotations

import calendar
import re
from collections import Counter
from collections.abc import Iterable

_LEAST_POSTS = 4
_NAMES = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*(?![\w'’])")  # inside a sentence
_CAPITALISED = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}")
_LOWER = re.compile(r"\b[a-z]{3,}\b")
_HASHTAG = re.compile(r"#[^\W\d_]\w{2,}")
_NO_TOPICS = {*calendar.day_name, *calendar.month_name, "Haha", "Hahaha", "Lol"}


def topics(texts: Iterable[str], count: int) -> list[str]:
    """Up to `count` topics that at least four posts share: names, then hashtags, the most frequent first.

    A name is one or more words that stand capitalised inside a sentence and hardly ever in lower case.
    """
    posts = list(texts)
    lower = Counter(word for text in posts for word in set(_LOWER.findall(text)))
    capitalised = Counter(word for text in posts for word in set(_CAPITALISED.findall(text)))
    words = {word for word, number in capitalised.items() if number > lower[word.lower()]} - _NO_TOPICS
    named = ([name for name in _NAMES.findall(text) if words.issuperset(name.split())] for text in posts)
    tagged = (_HASHTAG.findall(text) for text in posts)
    return [*_shared(named), *_shared(tagged)][:count]


def _shared(found: Iterable[list[str]]) -> list[str]:
    """What enough posts have in common; `found` holds what stands in each post."""
    posts = Counter(topic for topics in found for topic in dict.fromkeys(topics))
    return [topic for topic, number in posts.most_common() if number >= _LEAST_POSTS]
