"""Hashes that are the same on every machine: of texts, of character n-grams, MinHash signatures as band keys."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from wingspan.prepare.flow.compiled import compiled
from wingspan.prepare.text.ngrams import longest_text, text_bytes

GRAM = 5  # characters

Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


def text_hashes(texts: pl.Series) -> Hashes:
    """64 bits of each text; a null is hashed as an empty text."""
    return _text_hashes(*text_bytes(texts))


def band_keys(texts: pl.Series, bands: int, rows: int) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """Keys (texts, bands), each a hash of `rows` MinHash values (Broder 1997) of a text's character 5-grams.

    Also which texts are long enough to have one.
    """
    values, usable = signatures(texts, bands * rows)
    return _bands(values, bands, rows), usable


def signatures(texts: pl.Series, hashes: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """MinHash signatures (texts, hashes), and which texts have grams; the others' are all ones."""
    random = np.random.Generator(np.random.PCG64(5))
    multipliers, additions = random.integers(0, 2**32, (2, hashes), dtype=np.uint32)
    return _signatures(*text_bytes(texts), multipliers | np.uint32(1), additions)


def similarities(ones: pl.Series, others: pl.Series) -> npt.NDArray[np.float64]:
    """|A and B| / |A or B| of the sets of character 5-grams of each pair of texts; 0 for two without."""
    return _similarities(*text_bytes(ones), *text_bytes(others))


def maybe_shared(keys: Hashes) -> npt.NDArray[np.bool_]:
    """Which keys may occur twice: all that do and, of the others, some in sixteen. Much faster than sorting."""
    slots = 1 << max(10, (16 * len(keys)).bit_length() - 1)
    return _maybe_shared(keys, np.uint64(slots - 1))


@compiled
def _maybe_shared(keys: Hashes, mask: np.uint64) -> npt.NDArray[np.bool_]:
    seen = np.zeros(np.int64(mask) + 1, np.uint8)
    for key in keys:
        slot = np.int64(_mix(key) & mask)
        seen[slot] = min(2, seen[slot] + 1)
    shared = np.empty(len(keys), np.bool_)
    for place in range(len(keys)):
        shared[place] = seen[np.int64(_mix(keys[place]) & mask)] > 1
    return shared


def mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@compiled
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def _text_hashes(content: Bytes, offsets: Offsets) -> Hashes:
    """FNV-1a (Fowler, Noll & Vo), mixed at the end."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for text in range(len(hashes)):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(offsets[text], offsets[text + 1]):
            value = (value ^ np.uint64(content[at])) * np.uint64(0x100000001B3)
        hashes[text] = _mix(value)
    return hashes


@compiled
def _grams(content: Bytes, begin: int, end: int, grams: Hashes) -> int:
    """Write the hashes of the 5-grams of one text of valid UTF-8 to `grams`; returns how many."""
    characters = 0
    window = np.zeros(GRAM, np.uint64)
    at = begin
    while at < end:
        first = content[at]
        width = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        point = np.uint64(0)
        for place in range(width):
            point = (point << np.uint64(8)) | np.uint64(content[at + place])
        at += width
        for place in range(GRAM - 1):
            window[place] = window[place + 1]
        window[GRAM - 1] = point
        characters += 1
        if characters >= GRAM:
            value = np.uint64(0)
            for place in range(GRAM):
                value = (value + window[place]) * np.uint64(0x9E3779B97F4A7C15)
            grams[characters - GRAM] = _mix(value)
    return max(0, characters - GRAM + 1)


@compiled
def _signatures(
    content: Bytes, offsets: Offsets, multipliers: npt.NDArray[np.uint32], additions: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """The least value of each random linear function modulo 2**32 over a text's grams."""
    texts, hashes = len(offsets) - 1, len(multipliers)
    least = np.full((texts, hashes), np.uint32(0xFFFFFFFF), np.uint32)
    usable = np.zeros(texts, np.bool_)
    grams = np.empty(longest_text(offsets) + 1, np.uint64)
    for text in range(texts):
        count = _grams(content, offsets[text], offsets[text + 1], grams)
        usable[text] = count > 0
        row = least[text]
        for gram in range(count):
            value = np.uint32(grams[gram] >> np.uint64(32))
            for place in range(hashes):
                row[place] = min(row[place], np.uint32(value * multipliers[place] + additions[place]))
    return least, usable


@compiled
def _bands(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    keys = np.empty((len(signatures), bands), np.uint64)
    for text in range(len(signatures)):
        for band in range(bands):
            value = np.uint64(band + 1)
            for place in range(band * rows, (band + 1) * rows):
                value = _mix(value + np.uint64(signatures[text, place]))
            keys[text, band] = value
    return keys


@compiled
def _similarities(ones: Bytes, begins: Offsets, others: Bytes, other_begins: Offsets) -> npt.NDArray[np.float64]:
    result = np.empty(len(begins) - 1, np.float64)
    left = np.empty(longest_text(begins) + 1, np.uint64)
    right = np.empty(longest_text(other_begins) + 1, np.uint64)
    for pair in range(len(result)):
        one = np.unique(left[: _grams(ones, begins[pair], begins[pair + 1], left)])
        other = np.unique(right[: _grams(others, other_begins[pair], other_begins[pair + 1], right)])
        common, at = 0, 0
        for gram in one:
            while at < len(other) and other[at] < gram:
                at += 1
            common += at < len(other) and other[at] == gram
        size = len(one) + len(other) - common
        result[pair] = common / size if size else 0.0
    return result
