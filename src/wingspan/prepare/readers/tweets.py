"""What the older forms of a tweet have in common: API v1.1, the Stream Grab, both data archives.

Ids are the `_str` fields where there are any: numbers beyond 2**53 were often rounded by whoever stored them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from wingspan.prepare.readers.columns import Tombstone, as_text, read_batch
from wingspan.prepare.readers.parsed import NOT_PUBLIC, REPOST
from wingspan.prepare.readers.registry import ReadBatch

CUT_SHORT, NOTICE, OLDER, WITHHELD = "cut short", "notice", "older version", "withheld"
# What the platform writes where it knows no language, and its names for three that it knows.
_LANGUAGES = dict.fromkeys(("und", "art", "zxx", "qam", "qct", "qht", "qme", "qst")) | {
    "in": "id",
    "iw": "he",
    "ji": "yi",
}


class Url(msgspec.Struct, gc=False):
    """A link in the text, as written and as meant."""

    url: str | None = None
    expanded_url: str | None = None


class Mention(msgspec.Struct, gc=False):
    """Somebody's handle in the text."""

    screen_name: str | None = None


class Media(msgspec.Struct, gc=False):
    """A picture or film; its link in the text says nothing."""

    url: str | None = None
    ext_alt_text: str | None = None


class Entities(msgspec.Struct, gc=False):
    """What stands in a text."""

    urls: tuple[Url, ...] | None = None
    user_mentions: tuple[Mention, ...] | None = None
    media: tuple[Media, ...] | None = None


class User(msgspec.Struct, gc=False):
    """An author, whose profile is not read."""

    id_str: Any = None
    id: Any = None
    protected: Any = None


class Extended(msgspec.Struct, gc=False):
    """All of a text that `text` gives cut short."""

    full_text: str | None = None
    entities: Entities | None = None
    extended_entities: Entities | None = None


class Scopes(msgspec.Struct, gc=False):
    """Who sees a tweet."""

    followers: Any = None


class Inner(msgspec.Struct, gc=False):
    """Somebody else's tweet inside a tweet: that it is there is all that counts."""


class Tweet(msgspec.Struct, gc=False):
    """The fields that are read; all others are skipped."""

    id_str: Any = None
    id: Any = None
    created_at: Any = None
    text: str | None = None
    full_text: str | None = None
    truncated: Any = None
    extended_tweet: Extended | None = None
    lang: Any = None
    in_reply_to_status_id_str: Any = None
    in_reply_to_status_id: Any = None
    quoted_status_id_str: Any = None
    retweeted_status: Inner | None = None
    user: User | None = None
    entities: Entities | None = None
    extended_entities: Entities | None = None
    possibly_sensitive: Any = None
    favorite_count: Any = None
    retweet_count: Any = None
    reply_count: Any = None
    withheld_in_countries: Any = None
    withheld_copyright: Any = None
    scopes: Scopes | None = None
    edit_info: Any = None
    tweet_id: Any = None  # of the header of a deleted tweet


_FIELDS = (
    "post_id", "author_id", "created_at", "text", "lang_hint", "parent_id", "quote_of", "visibility", "sensitive",
    "edited_from", "urls", "mentions", "alt_text", "likes", "replies", "reposts", "refused",
)  # fmt: skip


def tweet_batch(
    tweets: Iterable[Tweet],
    source: str,
    damaged: int = 0,
    tombstones: Iterable[Tombstone] = (),
    author: str | None = None,
    refuse: Callable[[Tweet], str | None] = lambda _: None,
) -> ReadBatch:
    """Tweets as a batch. `author` stands where a tweet names none; `refuse` adds reasons to refuse one."""
    rows = [_row(tweet, author, refuse(tweet)) for tweet in tweets]
    withheld = [number for row in rows if row[-1] == WITHHELD and (number := as_text(row[0]))]
    notices: list[Tombstone] = [("post", number, WITHHELD, None, False) for number in withheld]
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(_FIELDS)
    return read_batch(dict(zip(_FIELDS, columns, strict=True)), source, damaged, [*tombstones, *notices])


def _row(tweet: Tweet, author: str | None, refused: str | None) -> tuple[Any, ...]:
    user, extended, entities = tweet.user, tweet.extended_tweet, tweet.entities
    text, media = tweet.full_text or tweet.text, tweet.extended_entities
    if extended is not None and extended.full_text:
        text, entities, media = extended.full_text, extended.entities, extended.extended_entities
    versions = edit_versions(tweet) if tweet.edit_info else ()
    urls = mentions = alt = None
    if entities is not None:
        media = media or entities
        if entities.urls:
            urls = [one.expanded_url or one.url for one in entities.urls]
        if entities.user_mentions:
            mentions = [one.screen_name for one in entities.user_mentions]
        if media.media:
            alt = [one.ext_alt_text for one in media.media if one.ext_alt_text]
        if text and (entities.urls or media.media):
            text = expand_links(text, entities.urls or (), media.media or ())
    return (
        tweet.id_str or tweet.id,
        (user.id_str or user.id) if user is not None else author,
        tweet.created_at,
        text,
        language(tweet.lang),
        tweet.in_reply_to_status_id_str or tweet.in_reply_to_status_id,
        tweet.quoted_status_id_str,
        "public",
        tweet.possibly_sensitive,
        versions[:-1] or None,
        urls,
        mentions,
        alt,
        tweet.favorite_count,
        tweet.reply_count,
        tweet.retweet_count,
        refused or _refusal(tweet, text, versions),
    )


def _refusal(tweet: Tweet, text: str | None, versions: Sequence[str]) -> str | None:
    """Why a tweet is not read; privacy first."""
    user, scopes = tweet.user, tweet.scopes
    if (user is not None and is_true(user.protected)) or (scopes is not None and is_true(scopes.followers)):
        return NOT_PUBLIC
    if tweet.withheld_in_countries or is_true(tweet.withheld_copyright):
        return WITHHELD
    if tweet.retweeted_status is not None or (text is not None and text.startswith("RT @")):
        return REPOST  # an old archive has no more than "RT @somebody: ", and those are somebody's words
    if is_true(tweet.truncated) and (tweet.extended_tweet is None and tweet.full_text is None):
        return CUT_SHORT
    if versions and versions[-1] != (tweet.id_str or tweet.id):
        return OLDER
    return None


def language(code: Any) -> str | None:
    """The platform's code as the world writes it; None where it knows none."""
    return _LANGUAGES.get(code, code) if isinstance(code, str) else None


def is_true(value: Any) -> bool:
    """Truth as JSON or as text has it."""
    return value is True or (isinstance(value, str) and value.lower() in ("true", "1"))


def edit_versions(tweet: Tweet) -> Sequence[str]:
    """Ids of a tweet's versions, the last one in force: `edit_info` of the data archive."""
    info = tweet.edit_info
    first = info.get("initial") if isinstance(info, dict) else None
    if isinstance(info, dict) and isinstance(info.get("edit"), dict):
        first = info["edit"].get("editControlInitial")
    ids = first.get("editTweetIds") if isinstance(first, dict) else None
    return [str(one) for one in ids] if isinstance(ids, list) else ()


def expand_links(text: str, urls: Iterable[Url], media: Iterable[Media] = ()) -> str:
    """Short links as what they lead to, escaped as the rest of the text is; links to the tweet's own pictures go."""
    for one in urls:
        if one.url and one.expanded_url:
            text = text.replace(one.url, one.expanded_url.replace("&", "&amp;"))
    for picture in media:
        if picture.url:
            text = text.replace(picture.url, "")
    return text.strip()
