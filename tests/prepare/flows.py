"""Flows for tests: one process, a folder, tables made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from wingspan.prepare.flow.engines import Processes
from wingspan.prepare.flow.flow import Dataset, Flow, frame_of
from wingspan.progress import SilentProgress


def flow_in(folder: Path, most: int = 1 << 20) -> Flow:
    return Flow(folder, Processes(1), SilentProgress(), batch=most, bucket=most)


def dataset(flow: Flow, name: str, *tables: pa.Table) -> Dataset:
    return flow.map(name, _itself, tables)


def _itself(table: pa.Table) -> pa.Table:
    return table


def rows(found: Dataset) -> list[dict[str, Any]]:
    return [row for table in found.tables() for row in table.to_pylist()]


def frame(found: Dataset) -> pl.DataFrame:
    return pl.concat([frame_of(table) for table in found.tables()])
