"""Reddit: monthly dumps of comments and submissions (Pushshift and its successors), JSON lines, often .zst.

The dumps hold what the public interface showed. A community that is not readable by everybody is refused; what was
deleted or removed, by whomever, is a tombstone, and so is what is left of an author who deleted the account.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.columns import Tombstone
from wingspan.prepare.readers.parsed import NO_TEXT, NOT_A_POST, NOT_PUBLIC, Post, parsed_lines
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource

_PUBLIC = (None, "public", "restricted", "archived", "user")  # anybody reads these; dumps before 2017 have no type
_GONE = re.compile(r"\[ ?(?:deleted|removed)\b[^\]]*\]", re.IGNORECASE)


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Comments and submissions of a dump."""
    return parsed_lines(source, member, _parse)


def _parse(record: Any, tombstones: list[Tombstone]) -> Post | str:
    comment = "body" in record
    if not comment and "title" not in record:
        return NOT_A_POST
    post_id = ("t1_" if comment else "t3_") + record["id"]
    if record.get("subreddit_type") not in _PUBLIC or record.get("quarantine"):
        return NOT_PUBLIC
    words = [record["body"]] if comment else [record["title"], record.get("selftext") or ""]
    author = record.get("author")
    removed = record.get("removed_by_category") or record.get("removal_reason")
    if removed or author in (None, "[deleted]") or any(_GONE.fullmatch(one.strip()) for one in words):
        tombstones.append(("post", post_id, "deleted", None, False))
        return "deleted"
    text = "\n\n".join(one for one in words if one and not one.isspace())
    if not text:
        return NO_TEXT
    return {
        "post_id": post_id,
        "author_id": author,
        "created_at": int(float(record["created_utc"])),  # a number or text, by the year of the dump
        "text": text,
        "parent_id": record.get("parent_id"),
        "root_id": record.get("link_id"),
        "quote_of": record.get("crosspost_parent"),
        "visibility": "public",
        "sensitive": record.get("over_18"),
        "edited_from": [post_id] if record.get("edited") else None,
        "urls": None if comment or record.get("is_self") else [record.get("url")],
        "likes": record.get("score"),
        "replies": record.get("num_comments"),
    }


def _looks_like(_: str, head: bytes) -> bool:
    return b'"subreddit"' in head and any(mark in head for mark in (b'"link_id"', b'"selftext"'))


READER = Reader(
    name="reddit",
    title="Reddit dump of comments or submissions",
    opens=rf"(?:.*/)?(?:R[CS]_[^/]+|[^/]+\.(?:jsonl|ndjson|json)|[^/]*(?:comments|submissions)){COMPRESSED}",
    looks_like=_looks_like,
    read=read,
    splits=True,
)
