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
    """Up to `count` topics that at least four posts share, the most frequent first.

    A topic is a hashtag, or a name: words capitalised inside a sentence that hardly ever stand in lower case.
    """
    posts = list(texts)
    lower = Counter(word for text in posts for word in set(_LOWER.findall(text)))
    capitalised = Counter(word for text in posts for word in set(_CAPITALISED.findall(text)))
    names = {word for word, number in capitalised.items() if number > lower[word.lower()]} - _NO_TOPICS
    shared: Counter[str] = Counter()
    for text in posts:
        found = [name for name in _NAMES.findall(text) if names.issuperset(name.split())]
        shared.update(list(dict.fromkeys([*found, *_HASHTAG.findall(text)])))  # each once a post, in order
    return [topic for topic, number in shared.most_common(count) if number >= _LEAST_POSTS]
