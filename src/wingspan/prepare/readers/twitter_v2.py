"""Twitter API v2: pages of `data`, `includes` and `errors` as twarc stores them, flattened tweets, compliance jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.columns import Tombstone, as_text
from wingspan.prepare.readers.parsed import NOT_A_POST, NOT_PUBLIC, REPOST, UNEXPECTED, Post, parsed_batch
from wingspan.prepare.readers.records import json_records
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.prepare.readers.tweets import NOTICE, OLDER, WITHHELD, Url, expand_links, is_true, language
from wingspan.project import PostSource

Json = dict[str, Any]


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Each tweet and each error of a page is a record, whole posts among its `includes` too."""
    for lines, damaged in json_records(member, dict[str, Any]):
        records: list[Json] = []
        for line in lines:
            try:
                records += _records(line)
            except UNEXPECTED:
                damaged += 1
        yield parsed_batch(source, records, _post, damaged)


def _records(line: Json) -> list[Json]:
    """The tweets and errors of a page, or the line itself; each tweet with what its page says of it."""
    included = line.get("includes") or {}
    users = included.get("users") or []
    hidden = {user["id"] for user in (users if isinstance(users, list) else [users]) if is_true(user.get("protected"))}
    pictures = {one["media_key"]: one for one in included.get("media") or ()}
    data = line.get("data") or []
    tweets = [*(data if isinstance(data, list) else [data]), *(included.get("tweets") or ())]
    records = [*tweets, *({"error": error} for error in line.get("errors") or ())] or [line]
    for record in records:
        attached = record.setdefault("attachments", None) or {}
        record["pictures"] = attached.get("media") or [
            pictures.get(key, {}) for key in attached.get("media_keys") or ()
        ]
        author = record.get("author") or {}
        record["hidden"] = record.get("author_id") in hidden or is_true(author.get("protected"))
    return records


def _post(tweet: Json, tombstones: list[Tombstone]) -> Post | str:
    if "error" in tweet or "action" in tweet:
        tombstones += _tombstones(tweet)
        return NOTICE
    if tweet["hidden"]:
        return NOT_PUBLIC
    if tweet.get("withheld"):
        tombstones.append(("post", tweet["id"], WITHHELD, None, False))
        return WITHHELD
    whole = tweet.get("note_tweet") or tweet
    if (text := whole.get("text")) is None:
        return NOT_A_POST  # users, lists, counts: twarc stores them in the same form
    related = {one["type"]: as_text(one["id"]) for one in tweet.get("referenced_tweets") or ()}
    if "retweeted" in related or text.startswith("RT @"):
        return REPOST
    versions = tweet.get("edit_history_tweet_ids") or []
    if versions and versions[-1] != tweet["id"]:
        return OLDER
    entities, metrics = whole.get("entities") or {}, tweet.get("public_metrics") or {}
    links = entities.get("urls") or []
    return {
        "post_id": tweet["id"],
        "author_id": tweet.get("author_id") or (tweet.get("author") or {}).get("id"),
        "created_at": tweet.get("created_at"),
        "text": expand_links(text, [Url(one["url"], one.get("expanded_url")) for one in links]),
        "lang_hint": language(tweet.get("lang")),
        "parent_id": related.get("replied_to"),
        "root_id": tweet.get("conversation_id"),
        "quote_of": related.get("quoted"),
        "visibility": "public",
        "sensitive": tweet.get("possibly_sensitive"),
        "edited_from": versions[:-1] or None,
        "urls": [one.get("unwound_url") or one.get("expanded_url") or one["url"] for one in links] or None,
        "mentions": [one["username"] for one in entities.get("mentions") or ()] or None,
        "alt_text": [one["alt_text"] for one in tweet["pictures"] if one.get("alt_text")] or None,
        "likes": metrics.get("like_count"),
        "replies": metrics.get("reply_count"),
        "reposts": metrics.get("retweet_count"),
    }


def _tombstones(record: Json) -> Iterator[Tombstone]:
    """What the platform no longer shows. A line of a compliance job does not say whether it names a tweet or a user."""
    error = record.get("error") or {}
    kinds = {"tweet": ["post"], "user": ["author"]}.get(str(error.get("resource_type")), ["post", "author"])
    number = as_text(error.get("resource_id") or record.get("id")) or ""
    if number.isdecimal():  # else a handle
        reason = str(error.get("title") or record.get("reason") or "deleted")
        yield from ((kind, number, reason, None, False) for kind in kinds)


def _looks_like(_: str, head: bytes) -> bool:
    first = next((line for line in head.split(b"\n") if line.strip()), b"")
    return b'"__twarc"' in head or any(
        re.search(pattern, first) for pattern in (rb'^\s*\{"data":', rb'"author_id":', rb'"id":"\d+","action":"delete"')
    )


READER = Reader(
    name="twitter-v2",
    title="Twitter API v2 pages or flattened tweets",
    opens=rf".*\.(?:jsonl?|ndjson|txt){COMPRESSED}",
    looks_like=_looks_like,
    read=read,
    splits=True,
)
