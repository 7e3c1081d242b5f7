"""A linear model over hashed character n-grams and words: one pass over the bytes of many texts.

The models are small tables (weights/*.npz) that scripts/train_text_models.py makes. Handles and links are
skipped; letters are folded to lower case on the way, so that no other pass over the texts is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from wingspan.prepare.flow.compiled import compiled

Ints = npt.NDArray[np.int32]

# Scripts by the ranges of Unicode blocks that posts use; what is in no range counts as Latin.
SCRIPTS = {
    "greek": (0x370, 0x400), "cyrillic": (0x400, 0x530), "armenian": (0x530, 0x590), "hebrew": (0x590, 0x600),
    "arabic": (0x600, 0x780), "devanagari": (0x900, 0x980), "bengali": (0x980, 0xA00), "gurmukhi": (0xA00, 0xA80),
    "gujarati": (0xA80, 0xB00), "tamil": (0xB80, 0xC00), "telugu": (0xC00, 0xC80), "kannada": (0xC80, 0xD00),
    "malayalam": (0xD00, 0xD80), "thai": (0xE00, 0xE80), "georgian": (0x10A0, 0x1100), "amharic": (0x1200, 0x1380),
    "kana": (0x3040, 0x3100), "han": (0x3400, 0xA000), "hangul": (0xAC00, 0xD7B0),
}  # fmt: skip
LATIN = len(SCRIPTS)
_STARTS = np.array([start for start, _ in SCRIPTS.values()])
_ENDS = np.array([end for _, end in SCRIPTS.values()])
_LONGEST = 5  # characters of an n-gram


@dataclass(frozen=True)
class Model:
    """Weights, int8 (buckets, classes), and a bias per class; a weight of `scale` is one nat."""

    weights: npt.NDArray[np.int8]
    classes: tuple[str, ...]
    bias: Ints
    shortest: int
    longest: int
    letters_only: bool
    scale: float


@cache
def load_model(name: str) -> Model:
    """The model weights/NAME.npz of this package."""
    with files("wingspan.prepare.text").joinpath(f"weights/{name}.npz").open("rb") as stream:
        saved: dict[str, Any] = {name: one if one.ndim else one.item() for name, one in np.load(stream).items()}
    return Model(**saved | {"classes": tuple(saved["classes"].tolist()), "scale": float(saved["scale"])})


def scores(texts: pl.Series, model: Model) -> tuple[Ints, Ints, Ints]:
    """Sums of weights, shape (texts, classes), without the bias; how many there were; letters by script.

    Letters have shape (texts, len(SCRIPTS) + 1), the last column for Latin.
    """
    content, offsets = text_bytes(texts)
    return _scores(content, offsets, model.weights, model.shortest, model.longest, model.letters_only)


def text_bytes(texts: pl.Series) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The UTF-8 of all texts in a row, and where each begins (one more offset than texts)."""
    array = texts.fill_null("").rechunk().to_arrow().cast(pa.large_string())
    _, offsets, content = array.buffers()
    begins = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(content or b"", np.uint8), begins


@compiled
def _scores(
    content: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int8],
    shortest: int,
    longest: int,
    letters_only: bool,
) -> tuple[Ints, Ints, Ints]:
    texts, classes = len(offsets) - 1, weights.shape[1]
    sums, counts = np.zeros((texts, classes), np.int32), np.zeros(texts, np.int32)
    scripts = np.zeros((texts, len(_STARTS) + 1), np.int32)
    found = np.empty((longest_text(offsets) + 1) * (longest - shortest + 2), np.int64)
    for text in range(texts):
        begin, end = offsets[text], offsets[text + 1]
        count = features(content, begin, end, len(weights), shortest, longest, letters_only, found, scripts[text])
        counts[text] = count
        row = sums[text]
        for one in range(count):
            weight = weights[found[one]]
            for column in range(classes):
                row[column] += weight[column]
    return sums, counts, scripts


@compiled
def longest_text(offsets: npt.NDArray[np.int64]) -> int:
    """Bytes of the longest text."""
    most = 0
    for text in range(len(offsets) - 1):
        most = max(most, offsets[text + 1] - offsets[text])
    return most


@compiled
def features(
    content: npt.NDArray[np.uint8],
    at: int,
    end: int,
    size: int,
    shortest: int,
    longest: int,
    letters_only: bool,
    found: npt.NDArray[np.int64],
    scripts: Ints,
) -> int:
    """Buckets of one text's n-grams and words, written to `found`; letters by script are added to `scripts`.

    An n-gram lies within a word and the boundaries around it (0), and is hashed from its last character back.
    """
    last = np.zeros(_LONGEST, np.int64)
    run, count, word = 1, 0, np.uint64(0)  # characters since the word began, its boundary included
    while at <= end:
        point = 0
        if at < end:
            point, width = code_point(content, at)
            if run == 1 and is_skipped(content, at, end, letters_only):
                while at < end and content[at] > 32:
                    at += 1
                continue
            at += width
            point = folded(point, letters_only)
        else:
            at += 1
        if point == 0 and run == 1:
            continue
        if point >= 97:
            scripts[_script(point)] += 1
        for place in range(_LONGEST - 1, 0, -1):
            last[place] = last[place - 1]
        last[0] = point
        run += 1
        gram = np.uint64(0)
        for length in range(1, min(longest, run) + 1):
            gram = (gram + np.uint64(last[length - 1]) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            if length >= shortest:
                found[count] = _bucket(gram, size)
                count += 1
        if point:
            word = (word + np.uint64(point) + np.uint64(1)) * np.uint64(0xC2B2AE3D27D4EB4F)
        else:
            found[count] = _bucket(word, size)
            count += 1
            word, run = np.uint64(0), 1
    return count


@compiled
def _bucket(value: np.uint64, size: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), shortened; `size` is a power of two."""
    mixed = (value ^ (value >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int(np.int64((mixed >> np.uint64(40)) & np.uint64(size - 1)))


@compiled
def code_point(content: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The character of valid UTF-8 that begins at `at`, and its bytes."""
    first = int(np.int64(content[at]))
    if first < 0x80:
        return first, 1
    width = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    point = first & (0x7F >> width)
    for place in range(1, width):
        point = (point << 6) | int(np.int64(content[at + place] & 0x3F))
    return point, width


@compiled
def is_skipped(content: npt.NDArray[np.uint8], at: int, end: int, hashtags: bool) -> bool:
    """Whether a handle, a link, or (where `hashtags`) a hashtag begins here."""
    first = content[at]
    if first == 64 or (first == 35 and hashtags):
        return True
    return bool(
        first == 104 and at + 4 <= end and content[at + 1] == 116 and content[at + 2] == 116 and content[at + 3] == 112
    )


@compiled
def _script(point: int) -> int:
    if point >= _STARTS[0]:
        for script in range(len(_STARTS)):
            if _STARTS[script] <= point < _ENDS[script]:
                return script
    return len(_STARTS)


@compiled
def folded(point: int, letters_only: bool) -> int:
    """Lower case of a letter by Unicode's block layout; 0 between words. Digits are all alike, where they count."""
    if point < 0x80:
        if 97 <= point <= 122:
            return point
        if 65 <= point <= 90:
            return point + 32
        if letters_only or point <= 32:
            return 0
        return 48 if 48 <= point <= 57 else point
    if point < 0xC0:
        return 0
    if point < 0x100:
        if point in (0xD7, 0xF7):
            return 0
        return point + 32 if point <= 0xDE else point
    if point < 0x180:
        if point == 0x130:
            return 105
        if point == 0x131:
            return point
        if 0x139 <= point <= 0x148 or 0x179 <= point <= 0x17E:
            return point + (point & 1)
        return point | 1
    if 0x391 <= point <= 0x3A9 or 0x410 <= point <= 0x42F:
        return point + 32
    if 0x400 <= point <= 0x40F:
        return point + 80
    if 0x1E00 <= point <= 0x1EFF:
        return point | 1
    if letters_only and point >= 0x300 and _is_between_letters(point):
        return 0
    return point


@compiled
def stands_alone(point: int) -> bool:
    """Characters of scripts that put no spaces between words: Thai, kana, Han."""
    return 0xE00 <= point < 0xE80 or 0x3040 <= point < 0xA000


@compiled
def _is_between_letters(point: int) -> bool:
    """Combining marks, punctuation and symbols, private use, full-width punctuation, emoji."""
    if point < 0x3040:
        return point < 0x370 or point >= 0x2000
    if point < 0xFF66:
        return 0xE000 <= point < 0xFE70 or 0xFF00 <= point < 0xFF21 or 0xFF3A < point < 0xFF41 or point > 0xFF5A
    return point >= 0x1F000
