"""What every test of a reader asks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generate_archives import Expected
from wingspan.post import POST_SCHEMA, TOMBSTONE_SCHEMA
from wingspan.prepare.readers.registry import read_posts
from wingspan.project import PostSource


@dataclass
class Found:
    posts: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    tombstones: list[dict[str, Any]] = field(default_factory=list)

    def must_be(self, expected: Expected) -> None:
        assert {one: post["text"] for one, post in self.posts.items()} == expected.kept
        assert self.refused == expected.refused
        assert self.damaged == expected.damaged
        assert self.read == self.rows + self.refused.total() + self.damaged == expected.read
        assert {one["id"] for one in self.tombstones} == expected.tombstones


def source(reader: str, **fields: Any) -> PostSource:
    return PostSource(name="posts", path="unused", licence="made up", reader=reader, **fields)


def find(path: Path, reader: str, **fields: Any) -> Found:
    """All that a reader makes of a path; checks what holds for every batch."""
    found = Found()
    for batch in read_posts(source(reader, **fields), path):
        assert batch.posts.schema.equals(POST_SCHEMA)
        assert batch.tombstones.schema.equals(TOMBSTONE_SCHEMA)
        assert set(batch.posts["visibility"].to_pylist()) <= {"public", "unlisted"}
        found.posts |= {row["post_id"]: row for row in batch.posts.to_pylist()}
        found.rows += batch.posts.num_rows
        found.read += batch.read
        found.refused.update(batch.refused)
        found.damaged += batch.damaged
        found.tombstones += batch.tombstones.to_pylist()
    return found
