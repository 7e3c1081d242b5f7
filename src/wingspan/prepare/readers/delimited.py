"""Delimited text: CSV with quotes, or tab-separated lines where a quote is a character like any other."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from wingspan.errors import InputError
from wingspan.prepare.readers.columns import LIST_FIELDS, as_texts, batches, column_map, read_batch, text_lines
from wingspan.prepare.readers.registry import ReadBatch, files_of
from wingspan.project import PostSource


def read(source: PostSource, path: Path) -> Iterator[ReadBatch]:
    """Posts of a delimited file or of a folder of them; `columns` name headers or zero-based positions."""
    for file in files_of(path, (".csv", ".tsv", ".txt")):
        yield from _read_file(source, file)


def _read_file(source: PostSource, file: Path) -> Iterator[ReadBatch]:
    records = rows(file, source.separator)
    header = next(records, None) if source.header else None
    positions = _positions(source, header)
    widest = max(positions.values())
    for batch in batches(records):
        whole = [row for row in batch if row is not None and len(row) > widest]
        raw = {
            name: [as_texts(row[at]) if name in LIST_FIELDS else row[at] for row in whole]
            for name, at in positions.items()
        }
        yield read_batch(raw, source.name, damaged=len(batch) - len(whole))


def rows(file: Path, separator: str) -> Iterator[list[str] | None]:
    """Records as lists of fields, None for one that cannot be parsed; blank lines are no records."""
    lines = text_lines(file)
    if separator == "\t":
        yield from (line.split("\t") for line in lines if line.strip())
        return
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None
            continue
        if row:
            yield row


def _positions(source: PostSource, header: list[str] | None) -> dict[str, int]:
    """Post field -> zero-based position; a header's names are looked up in it."""
    names = [name.strip() for name in header or ()]
    by_position = {name: column for name, column in source.columns.items() if isinstance(column, int) and column >= 0}
    if len(by_position) == len(source.columns) > 0:
        column_map(source)
        return by_position
    if not source.header:
        raise InputError(
            "without a header, columns are named by their position from 0",
            where=f"prepare.posts '{source.name}'.columns",
            remedy="Give numbers, or set header = true",
        )
    return {name: names.index(str(column)) for name, column in column_map(source, names).items()}
