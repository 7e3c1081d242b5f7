"""A Mastodon account's archive (zip or tar): the posts in its ActivityPub outbox, and its profile's consent.

Read are posts addressed to everybody: in `to` (public) or in `cc` (unlisted). Followers-only and direct posts,
likes, bookmarks and media are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from wingspan.prepare.readers.archives import Member
from wingspan.prepare.readers.columns import Tombstone
from wingspan.prepare.readers.mastodon import consent, language
from wingspan.prepare.readers.parsed import NO_TEXT, NOT_A_POST, NOT_PUBLIC, REPOST, Post, parsed_batch
from wingspan.prepare.readers.records import batched, json_items
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource

_EVERYBODY = {"https://www.w3.org/ns/activitystreams#Public", "as:Public", "Public"}
_QUOTES = ("quote", "quoteUri", "quoteUrl", "_misskey_quote")


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Posts of an outbox; with them what the profile beside it says."""
    author, tombstones = _profile(member)
    for batch in batched(json_items(member, opening=r'"orderedItems"\s*:\s*\[')):
        yield parsed_batch(source, batch, partial(_parse, author), tombstones=tombstones)


def _profile(member: Member) -> tuple[str | None, list[Tombstone]]:
    for actor in member.beside(r"actor\.json"):
        try:
            profile = json.loads(b"".join(actor.chunks()))
            return profile["id"], list(consent(profile["id"], profile))
        except (ValueError, KeyError, TypeError):
            member.problems.append("damaged profile")
    return None, []


def _parse(author: str | None, item: Any, _: list[Tombstone]) -> Post | str:
    if item["type"] == "Announce":
        return REPOST
    if item["type"] != "Create":
        return NOT_A_POST
    note = item["object"]
    if not (everybody := [name for name in ("to", "cc") if _EVERYBODY & set(_several(note.get(name, item.get(name))))]):
        return NOT_PUBLIC
    text = note.get("content") or ""
    if not text.strip():
        return NO_TEXT
    contents = note.get("contentMap") or {}
    lang = next((code for code, one in contents.items() if one == text), next(iter(contents), None))
    return {
        "post_id": note["id"],
        "author_id": note.get("attributedTo") or item.get("actor") or author,
        "created_at": note.get("published") or item.get("published"),
        "text": text,
        "lang_hint": language(lang),
        "parent_id": note.get("inReplyTo"),
        "quote_of": next((note[name] for name in _QUOTES if isinstance(note.get(name), str)), None),
        "visibility": "public" if everybody[0] == "to" else "unlisted",
        "sensitive": bool(note.get("sensitive") or note.get("summary")),
        "edited_from": [note["id"]] if note.get("updated") else None,
        "mentions": [tag["name"] for tag in note.get("tag") or () if tag.get("type") == "Mention"] or None,
        "alt_text": [one["name"] for one in note.get("attachment") or () if one.get("name")] or None,
    }


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


READER = Reader(
    name="mastodon-archive",
    title="Mastodon archive (ActivityPub outbox)",
    opens=r"(?:.*/)?outbox\.json",
    looks_like=lambda name, head: name.endswith("outbox.json") and b'"orderedItems"' in head,
    read=read,
    asks=r"actor\.json",
)
