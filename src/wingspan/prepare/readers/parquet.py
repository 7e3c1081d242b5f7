"""Parquet: only the mapped columns are read, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wingspan.errors import InputError
from wingspan.post import POST_SCHEMA
from wingspan.prepare.readers.columns import column_map, from_frame
from wingspan.prepare.readers.registry import ReadBatch, files_of
from wingspan.project import PostSource


def read(source: PostSource, path: Path) -> Iterator[ReadBatch]:
    """Posts of a Parquet file or of a folder of them; a row group that cannot be read counts as damaged."""
    for file in files_of(path, (".parquet",)):
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"not a readable Parquet file: {error}", where=file, remedy="Replace the file") from error
        columns = {name: str(column) for name, column in column_map(source, table.schema_arrow.names).items()}
        for group in range(table.num_row_groups):
            try:
                batch = table.read_row_group(group, columns=list(dict.fromkeys(columns.values())))
            except (pa.ArrowException, OSError):
                yield ReadBatch(POST_SCHEMA.empty_table(), damaged=table.metadata.row_group(group).num_rows)
                continue
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield from_frame(frame.select(pl.col(column).alias(name) for name, column in columns.items()), source.name)
