"""Statuses as Mastodon's REST API gives them: one per line, pages of them, or contexts (ancestors and descendants).

Ids are local to the server that answered, so a post is known by its `uri`; a reply names its parent by local id,
which is looked up among the file's own statuses. Read are public and unlisted statuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.columns import Tombstone
from wingspan.prepare.readers.mastodon import consent, language
from wingspan.prepare.readers.parsed import NO_TEXT, NOT_A_POST, NOT_PUBLIC, REPOST, Post, parsed_batch
from wingspan.prepare.readers.records import json_lines
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource

_REMEMBERED = 500_000  # statuses whose replies find them, the first of a file: about 100 MB
_DECODER = msgspec.json.Decoder(dict[str, Any] | list[Any])


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Statuses of a file; it is read twice, since timelines give replies before what they reply to."""
    before, uris = len(member.problems), dict[str, str]()
    for records, _ in json_lines(member, _DECODER):
        for status in _statuses(records):
            local, uri = (status.get("id"), status.get("uri")) if isinstance(status, dict) else (None, None)
            if len(uris) < _REMEMBERED and isinstance(local, str) and isinstance(uri, str):
                uris[local] = uri
    del member.problems[before:]
    for records, damaged in json_lines(member, _DECODER):
        yield parsed_batch(source, _statuses(records), partial(_parse, uris), damaged)


def _statuses(records: Iterable[Any]) -> Iterator[Any]:
    for record in records:
        if isinstance(record, list):
            yield from record
        elif isinstance(record, dict) and isinstance(record.get("descendants"), list):
            yield from (*(record.get("ancestors") or ()), *record["descendants"])
        else:
            yield record


def _parse(uris: Mapping[str, str], status: Any, tombstones: list[Tombstone]) -> Post | str:
    if "uri" not in status:
        return NOT_A_POST  # an earlier version of a status, an account, a notification
    if status.get("reblog"):
        return REPOST
    account = status["account"]
    author = _author(status["uri"], account)
    tombstones += consent(author, account)
    if status.get("visibility") not in ("public", "unlisted") or status.get("local_only"):
        return NOT_PUBLIC
    if not (status.get("content") or "").strip():
        return NO_TEXT
    quoted = status.get("quote") or {}
    quote_of = (quoted.get("quoted_status") or {}).get("uri") or uris.get(quoted.get("quoted_status_id", ""))
    return {
        "post_id": status["uri"],
        "author_id": author,
        "created_at": status["created_at"],
        "text": status["content"],
        "lang_hint": language(status.get("language")),
        "parent_id": _parent(status, uris),
        "quote_of": quote_of,
        "visibility": status["visibility"],
        "sensitive": bool(status.get("sensitive") or status.get("spoiler_text")),
        "edited_from": [status["uri"]] if status.get("edited_at") else None,
        "mentions": [one["acct"] for one in status.get("mentions") or ()] or None,
        "alt_text": [one["description"] for one in status.get("media_attachments") or () if one.get("description")]
        or None,
        "likes": status.get("favourites_count"),
        "replies": status.get("replies_count"),
        "reposts": status.get("reblogs_count"),
    }


def _author(uri: str, account: dict[str, Any]) -> str:
    """The author's ActivityPub id, as an archive names it too; servers before 4.2 give it only within a status's."""
    owner, statuses, _ = uri.partition("/statuses/")
    return str(account.get("uri") or (owner if statuses else account["url"]))


def _parent(status: dict[str, Any], uris: Mapping[str, str]) -> str | None:
    """The uri of what it replies to; of an own status of this server it follows from the local id."""
    parent = status.get("in_reply_to_id")
    if parent is None:
        return None
    uri, own = status["uri"], status.get("in_reply_to_account_id") == status["account"].get("id")
    if own and uri.endswith(f"/{status['id']}"):
        return f"{uri.removesuffix(status['id'])}{parent}"
    return uris.get(parent)


def _looks_like(_: str, head: bytes) -> bool:
    return all(mark in head for mark in (b'"spoiler_text"', b'"visibility"', b'"uri"'))


READER = Reader(
    name="mastodon-api",
    title="Mastodon API statuses",
    opens=rf".*\.(?:jsonl|ndjson|json){COMPRESSED}",
    looks_like=_looks_like,
    read=read,
)
