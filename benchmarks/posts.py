"""Posts made up for measurements, with the shares of real ones: any number, the same for the same seed.

Words are drawn by Zipf's law; 17% of posts name a handle, 4% a link, 2.4% an entity, 0.25% personal data, 11% have
fewer than five words, 2.6% repeat another post exactly and 1.4% nearly, 40% reply to an earlier post.

python benchmarks/posts.py COUNT FILE.jsonl [SEED]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_BLOCK = 50_000
_VOCABULARY = 60_000
_SYLLABLES = [
    "ba",
    "be",
    "bi",
    "ca",
    "co",
    "da",
    "de",
    "el",
    "en",
    "er",
    "fa",
    "fi",
    "ga",
    "go",
    "ha",
    "he",
    "in",
    "is",
    "ka",
    "la",
    "le",
    "li",
    "lo",
    "ma",
    "me",
    "mi",
    "na",
    "ne",
    "no",
    "on",
    "or",
    "pa",
    "per",
    "ra",
    "re",
    "ri",
    "ro",
    "sa",
    "se",
    "si",
    "so",
    "ta",
    "te",
    "ti",
    "to",
    "un",
    "ur",
    "va",
    "ve",
    "vi",
]
_COMMON = [
    "the",
    "to",
    "a",
    "i",
    "and",
    "you",
    "of",
    "is",
    "in",
    "it",
    "for",
    "my",
    "on",
    "that",
    "me",
    "this",
    "be",
    "at",
    "so",
    "with",
    "your",
    "just",
    "have",
    "not",
    "are",
    "was",
    "but",
    "all",
    "we",
    "do",
]


def write_posts(path: Path, count: int, seed: int = 1) -> None:
    """Write `count` posts as JSON lines."""
    with path.open("w", encoding="utf-8") as stream:
        for block in range(-(-count // _BLOCK)):
            stream.writelines(_block(block, min(_BLOCK, count - block * _BLOCK), seed))


def _block(block: int, count: int, seed: int) -> Iterator[str]:
    random = np.random.default_rng([seed, block])
    words = _vocabulary(seed)
    weights = 1 / np.arange(2, len(words) + 2)
    lengths = np.where(random.random(count) < 0.11, random.integers(1, 5, count), 5 + random.poisson(9.5, count))
    drawn = np.searchsorted(np.cumsum(weights / weights.sum()), random.random(int(lengths.sum())))
    ends = np.cumsum(lengths)
    kind = random.random((count, 6))
    parents = random.geometric(0.01, count)
    authors = random.integers(0, 200_000, count)
    texts: list[str] = []
    for row in range(count):
        text = " ".join([words[at] for at in drawn[ends[row] - lengths[row] : ends[row]]])
        number = block * _BLOCK + row
        if kind[row, 0] < 0.17:
            text = f"@{words[drawn[ends[row] - 1]]}_{authors[row] % 997} {text}"
        if kind[row, 1] < 0.04:
            text += f" https://t.example/{number:x}"
        if kind[row, 2] < 0.024:
            text = text.replace(" ", " &amp; ", 1)
        if kind[row, 3] < 0.0025:
            text += f" mail {words[drawn[ends[row] - 1]]}{number}@mail.example or +44 20 7946 0{number % 1000:03d}"
        if row and kind[row, 4] < 0.026:
            text = texts[int(kind[row, 5] * row)]
        elif row and kind[row, 4] < 0.04:
            text = texts[int(kind[row, 5] * row)] + " lol"
        texts.append(text[:1].upper() + text[1:] + (".", "!", "", " 😂")[number % 4])
        post = {
            "post_id": str(10**17 + 977 * number),
            "author_id": f"u{authors[row]}",
            "created_at": f"2025-{1 + number % 12:02d}-{1 + number % 28:02d}T10:{number % 60:02d}:00Z",
            "text": texts[-1],
            "lang_hint": "en",
            "likes": number % 5,
        }
        if kind[row, 5] < 0.4 and parents[row] <= number:
            post["parent_id"] = str(10**17 + 977 * int(number - parents[row]))
        yield json.dumps(post, ensure_ascii=False) + "\n"


def _vocabulary(seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    made = ["".join(random.choice(_SYLLABLES, random.integers(1, 5))) for _ in range(_VOCABULARY)]
    return list(dict.fromkeys([*_COMMON, *made]))


if __name__ == "__main__":
    write_posts(Path(sys.argv[2]), int(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
