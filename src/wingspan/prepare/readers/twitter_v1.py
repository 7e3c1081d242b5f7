"""Twitter API v1.1: statuses as JSON lines or arrays, and the Stream Grab with its notices of deletion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.columns import Tombstone, as_text
from wingspan.prepare.readers.records import json_records
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.prepare.readers.tweets import NOTICE, WITHHELD, Tweet, tweet_batch
from wingspan.project import PostSource

# Notice -> kind and reason of its tombstone, and whether it takes one back.
_TOMBSTONES: dict[str, tuple[str, str, bool]] = {
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
_NOTICES = (*_TOMBSTONES, "scrub_geo", "limit", "disconnect", "warning")  # a place to scrub: none is read

_Line: Any = msgspec.defstruct("Line", [(name, Any, None) for name in _NOTICES], bases=(Tweet,), gc=False)


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Tweets and tombstones; the record of a notice counts as refused."""
    for records, damaged in json_records(member, _Line):
        notices = [line for line in records if not (line.id_str or line.id)]
        tombstones = [found for line in notices if (found := _tombstone(line)) is not None]
        yield tweet_batch(records, source.name, damaged, tombstones, refuse=_refusal)


def _refusal(line: Any) -> str | None:
    notice = not (line.id_str or line.id) and any(getattr(line, name) is not None for name in _NOTICES)
    return NOTICE if notice else None


def _tombstone(line: Any) -> Tombstone | None:
    name = next((name for name in _TOMBSTONES if isinstance(getattr(line, name), dict)), "")
    body = getattr(line, name, {})
    about = body.get("status", body)
    number = as_text(about.get("id_str") or about.get("id")) if isinstance(about, dict) else None
    if number is None:
        return None
    kind, reason, lifted = _TOMBSTONES[name]
    at = as_text(body.get("timestamp_ms")) or ""
    return kind, number, reason, int(at) if at.isdecimal() else None, lifted


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
