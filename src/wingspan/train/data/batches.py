"""Samples for the loop: documents of the token shards packed into rows, whole where they fit.

A document of n tokens (its end included) is n predictions: each token from those before it, the first
from the end of the document before. Documents longer than a row are cut into windows. Attention never
crosses documents or windows, so packing changes no prediction.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wingspan.errors import DamagedArtefact, InputError, WorkError
from wingspan.model.loss import IGNORED
from wingspan.train.data.order import Indices, permute
from wingspan.workspace import file_hash

Piece = tuple[NDArray[Any], NDArray[Any]]  # inputs and targets, equally long; a target of -100 is not predicted

_REMEDY = "Run prepare again: wingspan prepare --force"


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents, each field (rows, sequence) int64; padding is document -1, target -100."""

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    documents: Tensor

    @property
    def predictions(self) -> int:
        """Tokens that are predicted."""
        return int((self.targets != IGNORED).sum())

    @property
    def weight(self) -> int:
        """What the loss is a mean over: the predictions, unless a kind of batch says otherwise."""
        return self.predictions

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return type(self)(*(field.to(device, non_blocking=True) for field in vars(self).values()))

    def padded(self, rows: int) -> Batch:
        """The batch with rows of padding added up to `rows`."""
        fills = {"tokens": 0, "targets": IGNORED, "positions": 0, "documents": -1}
        missing = rows - len(self.tokens)
        return Batch(**{name: F.pad(getattr(self, name), (0, 0, 0, missing), value=fills[name]) for name in fills})

    def split(self, rows: int) -> list[Self]:
        """Micro-batches of at most `rows` rows."""
        fields = [field.split(rows) for field in vars(self).values()]
        return [type(self)(*parts) for parts in zip(*fields, strict=True)]


class Batches(Protocol):
    """What the loop trains on: a fixed number of samples, any of them in any order."""

    def __len__(self) -> int: ...

    def batch(self, samples: Indices) -> Batch:
        """The rows of these samples."""
        ...


class PackedPieces:
    """Pieces of text packed into rows of `sequence` tokens; one row is one sample.

    `read(i)` gives inputs and targets of piece i, `lengths[i]` long; `padding` is the token id that fills rows.
    """

    def __init__(self, lengths: NDArray[Any], read: Callable[[int], Piece], sequence: int, padding: int) -> None:
        self._read, self._sequence, self._padding = read, sequence, padding
        rows = pack(lengths, sequence)
        self._pieces = np.argsort(rows, kind="stable")
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=1))))

    def __len__(self) -> int:
        return len(self._starts) - 1 if len(self._pieces) else 0

    def batch(self, samples: Indices) -> Batch:
        """The rows of these samples."""
        shape = (len(samples), self._sequence)
        tokens, targets = np.full(shape, self._padding), np.full(shape, IGNORED)
        positions, documents = np.zeros(shape, np.int64), np.full(shape, -1)
        for row, sample in enumerate(samples):
            begin = 0
            for document, piece in enumerate(self._pieces[self._starts[sample] : self._starts[sample + 1]]):
                inputs, wanted = self._read(int(piece))
                end = begin + len(inputs)
                tokens[row, begin:end], targets[row, begin:end] = inputs, wanted
                positions[row, begin:end], documents[row, begin:end] = np.arange(len(inputs)), document
                begin = end
        return Batch(*(torch.from_numpy(field) for field in (tokens, targets, positions, documents)))


def pack(lengths: NDArray[Any], capacity: int) -> Indices:
    """The row of each piece: best-fit decreasing, in time linear in the pieces plus capacity squared.

    Longest pieces first, equal lengths together; each group fills the rows with least room that still
    hold one, then new rows. Raises ValueError for a piece longer than a row.
    """
    if not len(lengths):
        return np.empty(0, dtype=np.int64)
    if int(lengths.max()) > capacity:
        raise ValueError(f"a piece of {lengths.max()} tokens does not fit into {capacity}")
    row_of = np.empty(len(lengths), dtype=np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    rows_with: dict[int, Indices] = {}  # free tokens -> rows
    made = 0
    for pieces in np.split(by_length, np.flatnonzero(np.diff(lengths[by_length])) + 1):
        length = int(lengths[pieces[0]])
        for free in sorted(room for room in rows_with if room >= length):
            pieces = _fill(pieces, length, rows_with.pop(free), free, row_of, rows_with)
        new = -(-len(pieces) // (capacity // length))
        _fill(pieces, length, np.arange(made, made + new), capacity, row_of, rows_with)
        made += new
    return row_of


def _fill(
    pieces: Indices, length: int, rows: Indices, free: int, row_of: Indices, rows_with: dict[int, Indices]
) -> Indices:
    """Put equal pieces into rows with equal room, each row filled before the next; returns the pieces left over."""
    per_row = free // length
    now, later = pieces[: len(rows) * per_row], pieces[len(rows) * per_row :]
    row_of[now] = rows[np.arange(len(now)) // per_row]
    full, partly = divmod(len(now), per_row)
    for some, taken in ((rows[:full], per_row), (rows[full : full + 1], partly), (rows[full + 1 :], 0)):
        if len(some) and (left := free - taken * length):
            rows_with[left] = np.concatenate((rows_with.get(left, some[:0]), some))
    return later


@dataclass(frozen=True)
class TokenSplit:
    """One split of prepare's tokens: mapped shards and the documents in them."""

    tokens: tuple[NDArray[Any], ...]  # per shard
    shard: Indices  # per document
    offset: Indices
    length: Indices  # tokens, the end of the document included
    bytes: Indices  # of the text in UTF-8; 0 where the post was forgotten, whose place stays, so that no other moves
    end_of_document: int
    vocab: int

    def select(self, documents: Indices) -> TokenSplit:
        """The same split with these documents only."""
        chosen = {name: getattr(self, name)[documents] for name in ("shard", "offset", "length", "bytes")}
        return replace(self, **chosen)

    def sample(self, tokens: int, seed: int) -> TokenSplit:
        """Random documents of about `tokens` tokens in all; at least one where there are any."""
        order = permute(np.arange(len(self.length)), max(1, len(self.length)), seed, 0)
        return self.select(order[: 1 + int(np.searchsorted(self.length[order].cumsum(), tokens))])

    def packed(self, sequence: int) -> PackedPieces:
        """The documents in rows of `sequence` tokens; nothing is predicted where a post was forgotten."""
        document, begin, length = self._windows(sequence)
        shard, forgotten = self.shard[document], self.bytes[document] == 0

        def read(piece: int) -> Piece:
            stream, first, last = self.tokens[shard[piece]], int(begin[piece]), int(begin[piece] + length[piece])
            before = stream[first - 1 : last - 1] if first else np.append(self.end_of_document, stream[: last - 1])
            return before, np.full(last - first, IGNORED) if forgotten[piece] else stream[first:last]

        return PackedPieces(length, read, sequence, self.end_of_document)

    def samples_with(self, documents: Indices, sequence: int) -> tuple[Indices, int]:
        """The samples of `packed` that hold any of these documents, and how many samples there are."""
        document, _, length = self._windows(sequence)
        rows = pack(length, sequence)
        return np.unique(rows[np.isin(document, documents)]), int(rows.max(initial=-1)) + 1

    def _windows(self, sequence: int) -> tuple[Indices, Indices, Indices]:
        """Documents cut to at most `sequence` tokens: whose each is, where it begins in its shard, its length."""
        windows = -(-self.length // sequence)
        document = np.repeat(np.arange(len(windows)), windows)
        number = np.arange(len(document)) - np.repeat(windows.cumsum() - windows, windows)
        begin = self.offset[document] + number * sequence
        return document, begin, np.minimum(sequence, self.length[document] - number * sequence)


def open_split(folder: Path, split: str, *, verify: bool = True) -> TokenSplit:
    """Map the shards of a split that tokens/index.json names, after checking their hashes.

    Raises InputError for a missing split, WorkError for a missing shard, DamagedArtefact for a changed one.
    """
    index = json.loads((folder / "index.json").read_text())
    if split not in index["splits"]:
        raise InputError(f"there are no '{split}' tokens", where=folder / "index.json", remedy=_REMEDY)
    shards = index["splits"][split]
    tables = []
    for shard in shards:
        path = folder / shard["file"]
        documents = path.with_suffix("").with_suffix(".documents.parquet")
        for file in (path, documents):
            if not file.is_file():
                raise WorkError("a token shard is missing", where=file, remedy=_REMEDY)
        if verify:
            _verify(path, shard["sha256"])
        tables.append(pq.read_table(documents, columns=["offset", "length", "bytes"]))
    columns = {name: [table[name].to_numpy() for table in tables] for name in ("offset", "length", "bytes")}
    return TokenSplit(
        tokens=tuple(_map(folder / shard["file"], index["dtype"]) for shard in shards),
        shard=np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
        **{name: np.concatenate(values).astype(np.int64) for name, values in columns.items()},
        end_of_document=index["end_of_document"],
        vocab=index["vocab"],
    )


def _map(path: Path, dtype: str) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")


def _verify(path: Path, expected: str) -> None:
    if (found := file_hash(path)) != expected:
        raise DamagedArtefact(path, expected, found, _REMEDY)
