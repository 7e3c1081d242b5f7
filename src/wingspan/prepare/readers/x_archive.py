"""The data archive that X (Twitter) gives a user, 2019 to today: `data/tweets.js` and what belongs to it.

The author stands in `manifest.js`, never in `account.js`, which holds the e-mail address. Long posts are cut short
in `tweets.js` and whole in `note-tweet.js`, with no id in common: they are joined by second and beginning.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from wingspan.post import POST_SCHEMA
from wingspan.prepare.readers.archives import Member
from wingspan.prepare.readers.columns import Tombstone, as_text
from wingspan.prepare.readers.parsed import NOT_PUBLIC
from wingspan.prepare.readers.records import as_record, batched, json_items
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.prepare.readers.tweets import CUT_SHORT, Entities, Extended, Tweet, Url, tweet_batch
from wingspan.project import PostSource

Record = TypeVar("Record")

_FIRST_LONG_POST = 1_623_000_000_000_000_000  # the id of a tweet of 7 February 2023
_CUT = re.compile(r"…(?:\s*https://t\.co/\w+)?\s*$")
_CUT_FROM = 130  # characters; a shorter text that ends in "…" was written so


class DeletedTweet(Tweet):
    """An element of `deleted-tweets.js` or of `deleted-tweet-headers.js`."""

    tweet_id: Any = None


class NoteUrl(msgspec.Struct, rename="camel"):
    """A link of a long post."""

    short_url: str | None = None
    expanded_url: str | None = None


class NoteCore(msgspec.Struct):
    """The words of a long post, not escaped."""

    text: str
    urls: list[NoteUrl] = []


class Note(msgspec.Struct, rename="camel"):
    """A long post of `note-tweet.js`."""

    core: NoteCore
    created_at: str


class NoteItem(msgspec.Struct, rename="camel"):
    """An element of `note-tweet.js`."""

    note_tweet: Note


class Protection(msgspec.Struct, rename="camel"):
    """A change of who sees the account's posts."""

    protected_at: str = ""
    action: str = ""


class ProtectionItem(msgspec.Struct, rename="camel"):
    """An element of `protected-history.js`."""

    protected_history: Protection


class UserInfo(msgspec.Struct, rename="camel", frozen=True):
    """Whose archive it is."""

    account_id: Any = None


class File(msgspec.Struct, rename="camel"):
    """A file that the archive should hold."""

    file_name: str = ""
    count: Any = None


class DataType(msgspec.Struct):
    """A kind of data."""

    files: list[File] = []


class Manifest(msgspec.Struct, rename="camel"):
    """`manifest.js`."""

    user_info: UserInfo = UserInfo()
    data_types: dict[str, DataType] = {}


@dataclass(frozen=True)
class Archive:
    """What the other files of an archive say of its tweets."""

    author: str | None
    protected: bool
    notes: Mapping[str, list[Extended]]  # second -> long posts
    counts: Mapping[str, int]  # base name of a file -> elements


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """The tweets of one file; of a file of deleted ones only their ids."""
    if member.base.startswith("deleted"):
        yield from _read_deleted(source, member)
        return
    archive, seen = _archive(member), 0
    for items in batched(json_items(member)):
        tweets = _tweets(items, Tweet)
        for tweet in tweets:
            tweet.extended_tweet = _long_post(tweet, archive.notes)
        seen += len(items)
        refuse = _refusal_in(archive)
        yield tweet_batch(tweets, source.name, len(items) - len(tweets), (), archive.author, refuse)
    if (missing := archive.counts.get(member.base, 0) - seen) > 0:  # the manifest knows of more
        yield ReadBatch(POST_SCHEMA.empty_table(), damaged=missing)


def _tweets(items: list[Any], kind: type[Tweet]) -> list[Any]:
    """Typed elements; early archives have tweets without the wrapper `{"tweet": ...}`."""
    bare = [item.get("tweet", item) if isinstance(item, dict) else item for item in items]
    return [tweet for item in bare if (tweet := as_record(item, kind)) is not None]


def _refusal_in(archive: Archive) -> Any:
    """Reasons that the archive as a whole gives."""

    def refuse(tweet: Tweet) -> str | None:
        if archive.protected:
            return NOT_PUBLIC
        return CUT_SHORT if tweet.extended_tweet is None and _is_cut(tweet) else None

    return refuse


def _is_cut(tweet: Tweet) -> bool:
    text, number = tweet.full_text or "", as_text(tweet.id_str) or ""
    return (
        len(text) >= _CUT_FROM
        and number.isdecimal()
        and int(number) >= _FIRST_LONG_POST
        and _CUT.search(text) is not None
    )


def _long_post(tweet: Tweet, notes: Mapping[str, list[Extended]]) -> Extended | None:
    if not notes or not _is_cut(tweet):
        return None
    try:
        second = datetime.strptime(str(tweet.created_at), "%a %b %d %H:%M:%S %z %Y").astimezone(UTC)
    except ValueError:
        return None
    begun = html.unescape(_CUT.sub("", tweet.full_text or "")).rstrip()
    without_mentions = re.sub(r"^(?:@\w+\s+)+", "", begun)
    for note in notes.get(f"{second:%Y-%m-%dT%H:%M:%S}", ()):
        whole = html.unescape(note.full_text or "")
        if whole.startswith((begun, without_mentions)):
            mentions = tweet.entities.user_mentions if tweet.entities else None
            urls = note.entities.urls if note.entities else None
            return Extended(note.full_text, Entities(urls, mentions), tweet.extended_entities)
    return None


def _read_deleted(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    for items in batched(json_items(member)):
        tweets = _tweets(items, DeletedTweet)
        ids = [number for tweet in tweets if (number := as_text(tweet.id_str or tweet.id or tweet.tweet_id))]
        notices: list[Tombstone] = [("post", number, "deleted", None, False) for number in ids]
        yield tweet_batch(tweets, source.name, len(items) - len(tweets), notices, refuse=lambda _: "deleted")


def _archive(member: Member) -> Archive:
    manifest = next(_beside(member, r"manifest\.js", Manifest, r"=\s*(?=\{)"), Manifest())
    history = [item.protected_history for item in _beside(member, r"protected-history\.js", ProtectionItem)]
    last = max(history, key=lambda change: change.protected_at, default=Protection())
    files = [file for kind in manifest.data_types.values() for file in kind.files]
    counts = {file.file_name.rpartition("/")[2]: as_text(file.count) or "" for file in files}
    return Archive(
        author=as_text(manifest.user_info.account_id),
        protected=last.action.lower().startswith("protect"),
        notes=_notes(member),
        counts={name: int(count) for name, count in counts.items() if count.isdecimal()},
    )


def _notes(member: Member) -> dict[str, list[Extended]]:
    notes: dict[str, list[Extended]] = {}
    for item in _beside(member, r"note-tweet(?:-part\d+)?\.js", NoteItem):
        note = item.note_tweet
        urls = tuple(Url(one.short_url, one.expanded_url) for one in note.core.urls)
        whole = Extended(html.escape(note.core.text, quote=False), Entities(urls))  # as all other texts are
        notes.setdefault(note.created_at[:19], []).append(whole)
    return notes


def _beside(member: Member, name: str, kind: type[Record], opening: str = r"\[") -> Iterator[Record]:
    """Elements of the files of that name; one of another form is left out: it is no post."""
    for file in member.beside(name):
        yield from (record for item in json_items(file, opening) if (record := as_record(item, kind)) is not None)


READER = Reader(
    name="x-archive",
    title="X (Twitter) data archive of 2019 and later",
    opens=r"(?:.*/)?(?:deleted-tweets?|deleted-tweet-headers|tweets?|community-tweet)(?:-part\d+)?\.js",
    looks_like=lambda _, head: re.match(rb"\s*window\.YTD\.\w*tweet\w*\.part\d+\s*=", head) is not None,
    read=read,
    asks=r"manifest\.js|note-tweet(?:-part\d+)?\.js|protected-history\.js",
)
