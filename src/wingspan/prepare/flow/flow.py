"""Rows on disk under two verbs, *map* and *exchange by key*: any number of posts, bounded memory, any workers.

A step is a folder of Arrow files, one for each piece of work. A file appears whole, by a rename, and depends on
nothing but its inputs and its place in the order: so the result is the same to the byte for any number of workers
on any engine, and after a kill only the pieces that are missing are made again.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wingspan.progress import Progress

BATCH = 1 << 16  # rows of posts that are worked on together
BUCKET = 1 << 21  # rows of a few numbers that are

Tally = dict[str, Any]  # counts, also nested: they add up
Function = Callable[..., Any]  # to a table, or to an iterator of tables
Note = Callable[[Tally], str]
_TALLY = b"tally"
_ROW_BITS = 32


@dataclass(frozen=True)
class Piece:
    """One batch of a file: a record batch of an Arrow file, or a row group of a Parquet file."""

    file: Path
    batch: int
    rows: int
    tally: Tally = field(default_factory=dict)
    columns: tuple[str, ...] = ()  # that are loaded; all where none is named

    def load(self) -> pa.Table:
        """Its rows."""
        if self.file.suffix == ".parquet":
            with pq.ParquetFile(self.file) as parquet:
                return parquet.read_row_group(self.batch, columns=list(self.columns) or None)
        with pa.memory_map(str(self.file)) as source:
            file = pa.ipc.open_file(source)
            if self.columns:
                fields = [file.schema.get_field_index(name) for name in self.columns]
                file = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
            return pa.Table.from_batches([file.get_batch(self.batch)])


@dataclass(frozen=True)
class Part:
    """Pieces that are worked on together: as many rows as fit into memory."""

    pieces: tuple[Piece, ...]

    def load(self) -> pa.Table:
        """Their rows, in order."""
        return pa.concat_tables([piece.load() for piece in self.pieces])


@dataclass(frozen=True)
class Dataset:
    """Rows in parts, in order. Plain data that any process can read."""

    parts: tuple[Part, ...]

    @property
    def pieces(self) -> Iterator[Piece]:
        """Of all parts."""
        return (piece for part in self.parts for piece in part.pieces)

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def tally(self) -> Tally:
        """The counts of all parts, added up."""
        return added(piece.tally for piece in self.pieces)

    def only(self, *columns: str) -> Dataset:
        """The same rows, of which only these columns are loaded."""
        return Dataset(
            tuple(Part(tuple(replace(piece, columns=columns) for piece in part.pieces)) for part in self.parts)
        )

    def __add__(self, other: Dataset) -> Dataset:
        return Dataset(self.parts + other.parts)

    def tables(self) -> Iterator[pa.Table]:
        """Its rows, part by part."""
        return (part.load() for part in self.parts)


def published(folder: Path, written: Dataset) -> Dataset:
    """Batches of files that steps wrote beside the flow's own, as their rows `file`, `batch`, `rows` say."""
    parts = []
    for part, table in zip(written.parts, written.tables(), strict=True):
        tally = part.pieces[0].tally
        parts += [Part((Piece(folder / row["file"], row["batch"], row["rows"], tally),)) for row in table.to_pylist()]
    return Dataset(tuple(parts))


Input = Dataset | Sequence[Any]


def frame_of(table: pa.Table) -> pl.DataFrame:
    """The table as Polars sees it."""
    return cast(pl.DataFrame, pl.from_arrow(table))


def place(part: int, rows: pl.Series) -> npt.NDArray[np.uint64]:
    """Where posts are: their part's number and, in the lower 32 bits, their row."""
    return np.uint64(part << _ROW_BITS) | rows.to_numpy().astype(np.uint64)


def row_of(at: pl.Series) -> npt.NDArray[np.uint32]:
    """Row numbers out of places."""
    return (at.to_numpy() & np.uint64((1 << _ROW_BITS) - 1)).astype(np.uint32)


def part_of(at: int) -> int:
    """The part's number out of a place."""
    return at >> _ROW_BITS


def keyed_by_part(frame: pl.DataFrame, at: pl.Series) -> pa.Table:
    """The rows with a key by which an exchange moves them to the parts where `at` is."""
    return frame.with_columns(key=at.to_numpy() >> np.uint64(_ROW_BITS)).to_arrow()


def tallied(table: pa.Table, tally: Tally) -> pa.Table:
    """The table with counts that go with it; a flow adds them up."""
    return table.replace_schema_metadata({_TALLY: json.dumps(tally).encode()})


def added(tallies: Iterable[Mapping[str, Any]]) -> Tally:
    """The sum of counts, name by name."""
    total: Tally = {}
    for tally in tallies:
        for name, value in tally.items():
            if isinstance(value, Mapping):
                total[name] = added([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total


@dataclass(frozen=True)
class Job:
    """A piece of work that any process can do: a function of its inputs (parts are loaded), and the file to write."""

    target: Path
    function: Function
    inputs: tuple[Any, ...]

    @property
    def rows(self) -> int:
        """That it works on; many, where its inputs do not say."""
        parts = [one for one in self.inputs if isinstance(one, Part)]
        return sum(piece.rows for part in parts for piece in part.pieces) if parts else BATCH

    def perform(self) -> list[tuple[int, Tally]]:
        """Write the file unless it is there; returns rows and counts of each of its batches."""
        if not self.target.exists():
            with _without_collection():
                batches = self.function(*(one.load() if isinstance(one, Part) else one for one in self.inputs))
                return _publish(self.target, [batches] if isinstance(batches, pa.Table) else batches)
        with pa.memory_map(str(self.target)) as source:
            file = pa.ipc.open_file(source)
            found = [file.get_batch_with_custom_metadata(number) for number in range(file.num_record_batches)]
            return [(batch.num_rows, json.loads(notes[_TALLY])) for batch, notes in found]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of small objects and no circles among them: looking for circles would take a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _publish(target: Path, batches: Iterable[pa.Table]) -> list[tuple[int, Tally]]:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    tables = iter(batches)
    first = next(tables)
    schema = first.schema.remove_metadata()
    done = []
    numbers = all(pa.types.is_primitive(column.type) for column in schema)  # hashes for the most part
    options = pa.ipc.IpcWriteOptions(compression=None if numbers else "lz4")
    with pa.ipc.new_file(temporary, schema, options=options) as writer:
        for table in chain([first], tables):
            tally = (table.schema.metadata or {}).get(_TALLY, b"{}")
            rows = table.replace_schema_metadata(None).combine_chunks().to_batches()
            batch = rows[0] if rows else pa.RecordBatch.from_pylist([], schema=schema)
            writer.write_batch(batch, custom_metadata={_TALLY: tally})
            done.append((len(table), json.loads(tally)))
    temporary.replace(target)
    return done


class Engine(Protocol):
    """Who does pieces of work, in whatever order: yields their numbers with what `perform` returned."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, list[tuple[int, Tally]]]]:
        """Perform them all."""
        ...


@dataclass(frozen=True)
class Flow:
    """Steps in a folder; a step that was finished before is not done again."""

    folder: Path
    engine: Engine
    progress: Progress
    batch: int = BATCH
    bucket: int = BUCKET

    def batches(self, rows: int) -> int:
        """Parts that so many posts are moved to."""
        return max(1, -(-rows // self.batch))

    def buckets(self, rows: int) -> int:
        """Parts that so many rows of a few numbers are moved to."""
        return max(1, -(-rows // self.bucket))

    def map(self, name: str, function: Function, *inputs: Input, note: Note | None = None) -> Dataset:
        """The function's tables of part i of all inputs (of a sequence, item i), for each i; each table is a part.

        `note` says in words what the counts so far are, beside the bar.
        """
        files = self._step(name, function, inputs, note)
        return Dataset(tuple(Part((piece,)) for pieces in files for piece in pieces))

    def exchange(self, name: str, function: Function, *inputs: Input, parts: int) -> Dataset:
        """The function's rows, moved so that part k has those whose unsigned `key` is k modulo `parts`, in order."""
        files = self._step(name, partial(_scattered, function, parts), inputs)
        return Dataset(tuple(Part(tuple(pieces[part] for pieces in files)) for part in range(parts)))

    def _step(
        self, name: str, function: Function, inputs: Sequence[Input], note: Note | None = None
    ) -> list[list[Piece]]:
        work = list(zip(*(one.parts if isinstance(one, Dataset) else one for one in inputs), strict=True))
        folder, receipt = self.folder / name, self.folder / f"{name}.json"
        files = [folder / f"{number:06d}.arrow" for number in range(len(work))]
        if receipt.exists():
            results = json.loads(receipt.read_text())
        else:
            folder.mkdir(parents=True, exist_ok=True)
            jobs = [Job(file, function, items) for file, items in zip(files, work, strict=True)]
            done: dict[int, Any] = {}
            with self.progress.task(name, len(jobs), "pieces") as task:
                so_far: Tally = {}
                for number, result in self.engine.run(jobs):
                    done[number] = result
                    so_far = added([so_far, *(tally for _, tally in result)]) if note else so_far
                    task.advance(1, note(so_far) if note else "")
            results = [done[number] for number in range(len(jobs))]
            temporary = receipt.with_suffix(".tmp")
            temporary.write_text(json.dumps(results))
            temporary.replace(receipt)
        return [
            [Piece(file, batch, rows, tally) for batch, (rows, tally) in enumerate(batches)]
            for file, batches in zip(files, results, strict=True)
        ]


def _scattered(function: Function, parts: int, *inputs: Any) -> Iterator[pa.Table]:
    table = cast(pa.Table, function(*inputs))
    tally = json.loads((table.schema.metadata or {}).get(_TALLY, b"{}"))
    if parts == 1:
        yield table
        return
    bucket = (table["key"].to_numpy() % np.uint64(parts)).astype(np.uint16 if parts <= 1 << 16 else np.uint32)
    order = np.argsort(bucket, kind="stable")
    ends = np.cumsum(np.bincount(bucket, minlength=parts))
    rows = table.take(pa.array(order))
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        yield tallied(rows.slice(begin, end - begin), {} if begin else tally)
