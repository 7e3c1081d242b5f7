"""Which items of a benchmark stand in the posts that were trained on: runs of eight words, as prepare compares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wingspan.knowledge.words import words

_RUN = 8  # words; prepare's evaluation sets are kept out of training by the same length
_ROWS = 4096


def contaminated(docs: Mapping[str, Iterable[Mapping[str, Any]]], posts: Path) -> dict[str, set[str]]:
    """Ids, by task, of documents whose own words (`own`) share a run of eight with a post to train on.

    A document of fewer words counts where a post has them all in a row. `posts` is prepare's folder.
    """
    items: dict[int, set[tuple[str, str]]] = {}
    lengths = set()
    found: dict[str, set[str]] = {name: set() for name in docs}
    for name, ones in docs.items():
        for doc in ones:
            said = words(doc["own"])
            length = min(_RUN, len(said))
            lengths.add(length)
            for run in _runs(said, length):
                items.setdefault(run, set()).add((name, doc["id"]))
    for file in sorted(posts.glob("train-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["text"]):
            for text in batch.column(0).to_pylist():
                said = words(text)
                for run in (run for length in lengths for run in _runs(said, length)):
                    for name, id_ in items.get(run, ()):
                        found[name].add(id_)
    return found


def _runs(said: list[str], length: int) -> list[int]:
    """Hashes of every run of so many words; none for no words."""
    return [hash(tuple(said[at : at + length])) for at in range(len(said) - length + 1)] if length else []
