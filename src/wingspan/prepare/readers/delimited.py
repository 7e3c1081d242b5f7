"""Delimited text: CSV with quotes, or tab-separated lines where a quote is a character like any other."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from wingspan.errors import InputError
from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.columns import LIST_FIELDS, as_texts, column_map, read_batch
from wingspan.prepare.readers.records import batched, text_lines
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Posts of a delimited file; `columns` name headers or zero-based positions."""
    records = rows(member, source.separator)
    header = next(records, None) if source.header else None
    positions = _positions(source, header)
    widest = max(positions.values())
    for batch in batched(records):
        whole = [row for row in batch if row is not None and len(row) > widest]
        raw = {
            name: [as_texts(row[at]) if name in LIST_FIELDS else row[at] for row in whole]
            for name, at in positions.items()
        }
        yield read_batch(raw, source.name, damaged=len(batch) - len(whole))


def rows(file: Member | Path, separator: str) -> Iterator[list[str] | None]:
    """Records as lists of fields, None for one that cannot be parsed; blank lines are no records."""
    texts = text_lines(file)
    if separator == "\t":
        yield from (line.split("\t") for line in texts if line.strip())
        return
    reader = csv.reader((f"{line}\n" for line in texts), delimiter=separator)
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


READER = Reader(
    name="delimited",
    title="CSV or tab-separated text with columns of your own",
    opens=rf".*\.(?:csv|tsv|txt){COMPRESSED}",
    looks_like=lambda _, head: any(mark in head.split(b"\n", 1)[0] for mark in (b",", b"\t", b";")),
    read=read,
)
