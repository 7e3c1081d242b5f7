"""Parquet: only the mapped columns are read, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wingspan.errors import InputError
from wingspan.post import POST_SCHEMA
from wingspan.prepare.readers.archives import Member
from wingspan.prepare.readers.columns import column_map, from_frame
from wingspan.prepare.readers.records import BATCH
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Posts of a Parquet file; what cannot be read of a row group counts as damaged."""
    table = _opened(member)
    columns = {name: str(column) for name, column in column_map(source, table.schema_arrow.names).items()}
    for group in _groups(table.metadata, member.part):
        left = table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(BATCH, [group], list(dict.fromkeys(columns.values()))):
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                mapped = frame.select(pl.col(column).alias(name) for name, column in columns.items())
                yield from_frame(mapped, source.name)
                left -= batch.num_rows
        except (pa.ArrowException, OSError):
            yield ReadBatch(POST_SCHEMA.empty_table(), damaged=left)


def columns_of(member: Member) -> list[str]:
    """The names of its columns."""
    return list(_opened(member).schema_arrow.names)


def _opened(member: Member) -> pq.ParquetFile:
    if member.kind != "file":
        raise InputError("Parquet inside an archive cannot be read", where=member.path, remedy="Unpack the archive")
    try:
        return pq.ParquetFile(member.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not a readable Parquet file: {error}", where=member.path, remedy="Replace it") from error


def _groups(metadata: pq.FileMetaData, part: tuple[int, int] | None) -> Iterator[int]:
    """The row groups that begin in a part of the file."""
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(0)
        at = column.dictionary_page_offset or column.data_page_offset
        if part is None or part[0] <= at < part[1]:
            yield group


READER = Reader(
    name="parquet",
    title="Parquet with columns of your own",
    opens=r".*\.parquet",
    looks_like=lambda _, head: head.startswith(b"PAR1"),
    read=read,
    splits=True,
)
