"""JSON lines: one object per line; a column `user.id` reaches into nested objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wingspan.prepare.readers.columns import (
    LIST_FIELDS,
    as_text,
    as_texts,
    batches,
    column_map,
    read_batch,
    text_lines,
)
from wingspan.prepare.readers.registry import ReadBatch, files_of
from wingspan.project import PostSource


def read(source: PostSource, path: Path) -> Iterator[ReadBatch]:
    """Posts of a file of JSON lines or of a folder of them."""
    paths = {name: str(column).split(".") for name, column in column_map(source).items()}
    for file in files_of(path, (".jsonl", ".ndjson", ".json")):
        for lines in batches(line for line in text_lines(file) if line.strip()):
            records = [record for line in lines if (record := json_object(line)) is not None]
            raw = {
                name: [(as_texts if name in LIST_FIELDS else as_text)(_reach(record, keys)) for record in records]
                for name, keys in paths.items()
            }
            if "visibility" not in source.columns:  # a record that says nothing falls under the declared rights
                raw["visibility"] = [as_text(record.get("visibility", "public")) for record in records]
            yield read_batch(raw, source.name, damaged=len(lines) - len(records))


def json_object(line: str) -> dict[str, Any] | None:
    """The object on a line; None when it is damaged or something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _reach(record: Mapping[str, Any], keys: list[str]) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
