"""Texts of evaluation sets must not be learned from: an index of their word n-grams, and who has one of them.

A text is hashed as its runs of eight words, in lower case, without links, handles and punctuation; a text of four
to seven words as a whole, so that short items and short posts are found where they are equal. In scripts without
spaces each character is a word. Linear in the words; the index is sorted hashes and a bitmap before them.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from wingspan.errors import InputError
from wingspan.prepare.flow.compiled import compiled
from wingspan.prepare.repeats.hashing import Hashes
from wingspan.prepare.text.ngrams import code_point, folded, is_skipped, longest_text, stands_alone, text_bytes

WORDS = 8
_FEWEST = 4
_BITMAP = 1 << 22


@dataclass(frozen=True)
class EvaluationIndex:
    """Sorted n-gram hashes, and for each the item that has it first; `items` are their names."""

    hashes: Hashes
    item_of: npt.NDArray[np.int32]
    items: npt.NDArray[np.str_]
    bitmap: npt.NDArray[np.bool_]

    @classmethod
    def open(cls, path: Path) -> EvaluationIndex:
        """What `write` wrote."""
        with np.load(path) as data:
            hashes = data["hashes"]
            bitmap = np.zeros(_BITMAP, np.bool_)
            bitmap[(hashes % np.uint64(_BITMAP)).astype(np.int64)] = True
            return cls(hashes, data["item_of"], data["items"], bitmap)

    def find(self, texts: pl.Series) -> pl.Series:
        """For each text the name of an item that shares a run of words with it, null for none."""
        hashes, text_of = _grams(*text_bytes(texts))
        likely = self.bitmap[(hashes % np.uint64(_BITMAP)).astype(np.int64)]
        hashes, text_of = hashes[likely], text_of[likely]
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        same = self.hashes[at] == hashes if len(self.hashes) else likely[likely]
        found = np.full(len(texts), -1, np.int32)
        found[text_of[same][::-1]] = self.item_of[at[same]][::-1]  # the first of each text is written last
        return pl.Series("item", self.items).gather(pl.Series(found).replace(-1, None))


def write_index(files: Sequence[Path], target: Path) -> None:
    """Write the index (.npz) of files, of which every string counts; an item is named `FILE#NUMBER`.

    JSON (lines), CSV, TSV, Parquet or text, also gzipped. Raises InputError for a file in which there is no text.
    """
    items: list[str] = []
    texts: list[str] = []
    owners: list[int] = []
    for path in files:
        before = len(texts)
        for number, strings in enumerate(_items(path), 1):
            items.append(f"{path.name}#{number}")
            texts += strings
            owners += [len(items) - 1] * len(strings)
        if len(texts) == before:
            raise InputError("the evaluation set has no text", where=path, remedy="Name a JSON Lines, CSV or text file")
    hashes, text_of = _grams(*text_bytes(pl.Series(texts, dtype=pl.String)))
    first, at = np.unique(hashes, return_index=True)
    np.savez(target, hashes=first, item_of=np.array(owners, np.int32)[text_of[at]], items=np.array(items, np.str_))


def _items(path: Path) -> Iterator[list[str]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        for row in pl.read_parquet(path).iter_rows(named=True):
            yield list(_strings(row))
        return
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        if name.endswith((".jsonl", ".ndjson")):
            yield from (list(_strings(json.loads(line))) for line in stream if line.strip())
        elif name.endswith(".json"):
            content = json.load(stream)
            yield from (list(_strings(one)) for one in (content if isinstance(content, list) else [content]))
        elif name.endswith((".csv", ".tsv")):
            yield from csv.reader(stream, delimiter="\t" if name.endswith(".tsv") else ",")
        else:
            yield from ([line] for line in stream)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


@compiled
def _words(content: npt.NDArray[np.uint8], at: int, end: int, words: Hashes) -> int:
    """Write the hashes of a text's words to `words`; returns how many."""
    count, word, begins = 0, np.uint64(0), True
    while at <= end:
        point, width = 0, 1
        if at < end:
            if begins and is_skipped(content, at, end, False):
                while at < end and content[at] > 32:
                    at += 1
                continue
            point, width = code_point(content, at)
            digit = 48 <= point <= 57
            begins = point <= 32
            point = point if digit else folded(point, True)
        alone = stands_alone(point)
        if word and (point == 0 or alone):
            words[count] = word
            count += 1
            word = np.uint64(0)
        if point:
            word = (word + np.uint64(point)) * np.uint64(0x9E3779B97F4A7C15)
            if alone:
                words[count] = word
                count += 1
                word = np.uint64(0)
        at += width
    return count


@compiled
def _gram(words: Hashes, start: int, length: int) -> np.uint64:
    value = np.uint64(length)
    for place in range(start, start + length):
        value = (value ^ words[place]) * np.uint64(0xBF58476D1CE4E5B9)
        value ^= value >> np.uint64(31)
    return value


@compiled
def _grams(content: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """All n-gram hashes of these texts, and the text that each is from."""
    words = np.empty(longest_text(offsets) + 2, np.uint64)
    hashes = np.empty(offsets[-1] - offsets[0] + len(offsets), np.uint64)
    texts = np.empty(len(hashes), np.int32)
    total = 0
    for text in range(len(offsets) - 1):
        count = _words(content, offsets[text], offsets[text + 1], words)
        length = min(count, WORDS)
        if length < _FEWEST:
            continue
        for start in range(count - length + 1):
            hashes[total], texts[total] = _gram(words, start, length), text
            total += 1
    return hashes[:total], texts[:total]
