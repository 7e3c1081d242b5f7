"""Twitter API v1.1: statuses as JSON lines or arrays, and the Stream Grab with its notices of deletion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.columns import Tombstone, as_text
from wingspan.prepare.readers.records import json_records
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.prepare.readers.tweets import WITHHELD, Tweet, tweet_batch
from wingspan.project import PostSource

# Notice -> kind and reason of its tombstone, and whether it takes one back.
_NOTICES: dict[str, tuple[str, str, bool]] = {
    "delete": ("post", "deleted", False),
    "status_withheld": ("post", WITHHELD, False),
    "user_withheld": ("author", WITHHELD, False),
    "user_delete": ("author", "account deleted", False),
    "user_undelete": ("author", "account deleted", True),
    "user_suspend": ("author", "account suspended", False),
    "user_unsuspend": ("author", "account suspended", True),
    "user_protect": ("author", "account protected", False),
    "user_unprotect": ("author", "account protected", True),
}


class Line(Tweet, gc=False):
    """A line is a tweet or one notice."""

    delete: Any = None
    status_withheld: Any = None
    user_withheld: Any = None
    user_delete: Any = None
    user_undelete: Any = None
    user_suspend: Any = None
    user_unsuspend: Any = None
    user_protect: Any = None
    user_unprotect: Any = None
    scrub_geo: Any = None  # takes back a place: none is read
    limit: Any = None
    disconnect: Any = None
    warning: Any = None


_NAMES = (*_NOTICES, "scrub_geo", "limit", "disconnect", "warning")


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Tweets and tombstones; the record of a notice counts as refused."""
    for records, damaged in json_records(member, Line):
        notices = [notice for line in records if (notice := _tombstone(line)) is not None]
        yield tweet_batch(records, source.name, damaged, notices, refuse=_notice)


def _notice(line: Tweet) -> str | None:
    if line.id_str or line.id:
        return None
    return next(("notice" for name in _NAMES if getattr(line, name) is not None), None)


def _tombstone(line: Line) -> Tombstone | None:
    if line.id_str or line.id:
        return None
    for name, (kind, reason, lifted) in _NOTICES.items():
        body = getattr(line, name)
        if isinstance(body, dict):
            about = body.get("status", body)
            found = as_text(about.get("id_str") or about.get("id")) if isinstance(about, dict) else None
            at = as_text(body.get("timestamp_ms")) or ""
            return (kind, found, reason, int(at) if at.isdecimal() else None, lifted) if found else None
    return None


def _looks_like(_: str, head: bytes) -> bool:
    """A tweet or a notice within the first lines."""
    return any(
        (b'"id_str"' in line and b'"created_at"' in line and (b'"full_text"' in line or b'"text"' in line))
        or line.lstrip().startswith(b'{"delete":{"status"')
        for line in head.split(b"\n")[:50]
    )


READER = Reader(
    name="twitter-v1",
    title="Twitter API v1.1 statuses, or the Stream Grab",
    opens=rf".*\.(?:jsonl?|ndjson|txt){COMPRESSED}",
    looks_like=_looks_like,
    read=read,
    splits=True,
)
