"""What a reader is, and how one is found by the name that a project file gives.

A reader is a function `(PostSource, Path) -> Iterator[ReadBatch]`. It streams: memory does not grow with
the file. It never loses a record silently: each is a post, refused for a reason, or damaged.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

import pyarrow as pa

from wingspan.errors import InputError
from wingspan.project import PostSource

GROUP = "wingspan.readers"

_BUILT_IN = {
    "delimited": "wingspan.prepare.readers.delimited",
    "jsonl": "wingspan.prepare.readers.jsonl",
    "parquet": "wingspan.prepare.readers.parquet",
}


@dataclass(frozen=True)
class ReadBatch:
    """Some records of a source: `posts` (a table of POST_SCHEMA), records refused by reason, damaged records."""

    posts: pa.Table
    refused: Mapping[str, int] = field(default_factory=dict)
    damaged: int = 0

    @property
    def read(self) -> int:
        """Records seen: posts + refused + damaged."""
        return int(self.posts.num_rows) + sum(self.refused.values()) + self.damaged


Reader = Callable[[PostSource, Path], Iterator[ReadBatch]]


def reader_named(name: str) -> Reader:
    """The reader of that name, built in or plugged in; raises InputError naming the nearest."""
    if name in _BUILT_IN:
        return cast(Reader, import_module(_BUILT_IN[name]).read)
    plugged_in = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in plugged_in:
        return cast(Reader, plugged_in[name].load())
    known = [*_BUILT_IN, *sorted(plugged_in)]
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"Did you mean '{near[0]}'?" if near else f"Known readers: {', '.join(known)}"
    raise InputError(f"there is no reader '{name}'", where="prepare.posts.reader", remedy=remedy)


def files_of(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or the files of a folder that end in one of `suffixes`, in a fixed order.

    Raises InputError for a folder without any.
    """
    if path.is_file():
        return [path]
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.name.lower().endswith(suffixes))
    if not files:
        raise InputError(
            f"the folder holds no {' or '.join(suffixes)} file", where=path, remedy="Name the file, or another reader"
        )
    return files
