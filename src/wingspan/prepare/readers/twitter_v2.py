"""Twitter API v2: pages of `data`, `includes` and `errors` as twarc stores them, flattened tweets, compliance jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

import msgspec

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.columns import Tombstone, as_text, read_batch
from wingspan.prepare.readers.parsed import NOT_A_POST, NOT_PUBLIC, REPOST
from wingspan.prepare.readers.records import json_records
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.prepare.readers.tweets import (
    OLDER,
    WITHHELD,
    Url,
    expand_links,
    is_true,
    language,
    withheld_notices,
)
from wingspan.project import PostSource


class Mention(msgspec.Struct):
    """Somebody's handle in the text."""

    username: str | None = None


class Link(Url):
    """A link, as far as it was followed."""

    unwound_url: str | None = None
    media_key: Any = None


class Entities(msgspec.Struct):
    """What stands in a text."""

    urls: list[Link] | None = None
    mentions: list[Mention] | None = None


class Note(msgspec.Struct):
    """The whole of a long post."""

    text: str
    entities: Entities | None = None


class Reference(msgspec.Struct):
    """Another tweet that this one answers, quotes or repeats."""

    type: str
    id: Any


class Metrics(msgspec.Struct):
    """Reactions."""

    like_count: Any = None
    reply_count: Any = None
    retweet_count: Any = None


class Media(msgspec.Struct):
    """A picture or film."""

    media_key: Any = None
    alt_text: str | None = None


class Attachments(msgspec.Struct):
    """Pictures of a tweet: keys in a page, the pictures themselves in a flattened tweet."""

    media_keys: list[str] | None = None
    media: list[Media] | None = None


class User(msgspec.Struct):
    """An author, whose profile is not read."""

    id: Any = None
    protected: Any = None


class Tweet(msgspec.Struct):
    """The fields that are read; all others are skipped."""

    id: Any = None
    text: str | None = None
    created_at: Any = None
    author_id: Any = None
    author: User | None = None
    lang: Any = None
    conversation_id: Any = None
    referenced_tweets: list[Reference] | None = None
    edit_history_tweet_ids: list[str] | None = None
    possibly_sensitive: Any = None
    public_metrics: Metrics | None = None
    entities: Entities | None = None
    attachments: Attachments | None = None
    note_tweet: Note | None = None
    withheld: Any = None
    action: Any = None  # of a line of a compliance job, which is no tweet
    reason: Any = None


class Error(msgspec.Struct):
    """What a page says of something that it could not give."""

    title: str = ""
    resource_type: str = ""
    resource_id: Any = None


class Includes(msgspec.Struct):
    """What the tweets of a page refer to; tweets among it are whole."""

    tweets: list[Tweet] | None = None
    users: list[User] | User | None = None
    media: list[Media] | None = None


class Line(Tweet):
    """A page, or one tweet."""

    data: list[Tweet] | Tweet | None = None
    includes: Includes | None = None
    errors: list[Error] | None = None
    meta: Any = None


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Each tweet and each error of a page is a record."""
    for lines, damaged in json_records(member, Line):
        rows = [row for line in lines for row in _rows(line)]
        tombstones = [notice for line in lines for notice in _tombstones(line)]
        tombstones += withheld_notices((row["post_id"], row["refused"]) for row in rows)
        names = rows[0].keys() if rows else ()
        yield read_batch({name: [row[name] for row in rows] for name in names}, source.name, damaged, tombstones)


def _rows(line: Line) -> Iterator[dict[str, Any]]:
    included = line.includes or Includes()
    users = included.users if isinstance(included.users, list) else [included.users or User()]
    hidden = {user.id for user in users if is_true(user.protected)}
    alt_texts = {picture.media_key: picture.alt_text for picture in included.media or ()}
    data = line.data if isinstance(line.data, list) else [line.data] if line.data else []
    tweets = [*data, *(included.tweets or ())]
    if not tweets and line.errors is None:
        tweets = [line]
    yield from (_row(tweet, hidden, alt_texts) for tweet in tweets)
    yield from (_row(Tweet(action="error"), hidden, alt_texts) for _ in line.errors or ())


def _row(tweet: Tweet, hidden: Set[Any], alt_texts: Mapping[Any, str | None]) -> dict[str, Any]:
    note, metrics = tweet.note_tweet, tweet.public_metrics or Metrics()
    text, entities = (note.text, note.entities) if note else (tweet.text, tweet.entities)
    links = entities.urls or [] if entities else []
    attached = tweet.attachments or Attachments()
    alt = [*(alt_texts.get(key) for key in attached.media_keys or ()), *(one.alt_text for one in attached.media or ())]
    related = {one.type: as_text(one.id) for one in tweet.referenced_tweets or ()}
    author = tweet.author.id if tweet.author else tweet.author_id
    return {
        "post_id": tweet.id,
        "author_id": author,
        "created_at": tweet.created_at,
        "text": expand_links(text, links) if text else None,
        "lang_hint": language(tweet.lang),
        "parent_id": related.get("replied_to"),
        "root_id": tweet.conversation_id,
        "quote_of": related.get("quoted"),
        "visibility": "public",
        "sensitive": tweet.possibly_sensitive,
        "edited_from": (tweet.edit_history_tweet_ids or [])[:-1] or None,
        "urls": [one.unwound_url or one.expanded_url or one.url for one in links] or None,
        "mentions": [one.username for one in entities.mentions or ()] or None if entities else None,
        "alt_text": [one for one in alt if one] or None,
        "likes": metrics.like_count,
        "replies": metrics.reply_count,
        "reposts": metrics.retweet_count,
        "refused": _refusal(tweet, author in hidden, related),
    }


def _refusal(tweet: Tweet, hidden: bool, related: Mapping[str, Any]) -> str | None:
    if hidden or (tweet.author and is_true(tweet.author.protected)):
        return NOT_PUBLIC
    if tweet.withheld:
        return WITHHELD
    if tweet.action:
        return "notice"
    if tweet.text is None:
        return NOT_A_POST  # users, lists, counts: twarc stores them in the same form
    if "retweeted" in related or tweet.text.startswith("RT @"):
        return REPOST
    versions = tweet.edit_history_tweet_ids
    return OLDER if versions and versions[-1] != as_text(tweet.id) else None


def _tombstones(line: Line) -> Iterator[Tombstone]:
    """What the platform no longer shows. A compliance line does not say whether it names a tweet or a user."""
    number = as_text(line.id)
    if line.action == "delete" and number:
        yield from ((kind, number, str(line.reason or "deleted"), None, False) for kind in ("post", "author"))
    for error in line.errors or ():
        number = as_text(error.resource_id) or ""
        if number.isdecimal() and error.resource_type in ("tweet", "user"):
            kind = "post" if error.resource_type == "tweet" else "author"
            yield kind, number, error.title or "not found", None, False


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
