"""Bluesky Jetstream: one JSON line per event of the network, posts among them.

Deletions, deactivated accounts and consent come as events too, and may be taken back: the latest counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.bluesky import POST, consent, post_of
from wingspan.prepare.readers.columns import Tombstone
from wingspan.prepare.readers.parsed import NOT_A_POST, NOTICE, REPOST, Post, parsed_lines
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Posts of a file of events."""
    return parsed_lines(source, member, _parse)


def _parse(event: Any, tombstones: list[Tombstone]) -> Post | str:
    did, at = event["did"], int(event["time_us"]) // 1000
    if event["kind"] == "account":
        tombstones.append(("author", did, "account gone", at, bool(event["account"]["active"])))
        return "account notice"
    if event["kind"] != "commit":
        return NOT_A_POST
    commit = event["commit"]
    collection, gone = commit["collection"], commit["operation"] == "delete"
    uri = f"at://{did}/{collection}/{commit['rkey']}"
    if collection != POST:
        tombstones += consent(did, collection, {} if gone else commit["record"], at)
        return REPOST if collection == "app.bsky.feed.repost" else NOT_A_POST
    if gone:
        tombstones.append(("post", uri, "deleted", at, False))
        return NOTICE
    post = post_of(uri, did, commit["record"], tombstones, seen=at)
    if isinstance(post, dict) and commit["operation"] == "update":
        post["edited_from"] = [uri]
    return post


READER = Reader(
    name="bluesky-jetstream",
    title="Bluesky Jetstream events",
    opens=rf".*\.(?:jsonl|ndjson|json){COMPRESSED}",
    looks_like=lambda _, head: all(mark in head for mark in (b'"did"', b'"time_us"', b'"kind"')),
    read=read,
    splits=True,
)
