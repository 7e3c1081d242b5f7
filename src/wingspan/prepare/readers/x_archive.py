"""The data archive that X (Twitter) gives a user, 2019 to today: `data/tweets.js` and what belongs to it.

The author stands in `manifest.js`, never in `account.js`, which holds the e-mail address. Long posts are cut short
in `tweets.js` and whole in `note-tweet.js`, with no id in common: they are joined by second and beginning.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wingspan.post import POST_SCHEMA
from wingspan.prepare.readers.archives import Member
from wingspan.prepare.readers.columns import Tombstone, as_text
from wingspan.prepare.readers.parsed import NOT_PUBLIC, UNEXPECTED
from wingspan.prepare.readers.records import as_records, batched, json_items
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.prepare.readers.tweets import CUT_SHORT, Entities, Extended, Tweet, Url, tweet_batch
from wingspan.project import PostSource

_ASKS = r"manifest\.js|note-tweet(?:-part\d+)?\.js|protected-history\.js"
_FIRST_LONG_POST = 1_623_000_000_000_000_000  # the id of a tweet of 7 February 2023
_CUT = re.compile(r"…(?:\s*https://t\.co/\w+)?\s*$")
_CUT_FROM = 130  # characters; a shorter text that ends in "…" was written so


@dataclass
class Archive:
    """What the files beside the tweets say of them."""

    author: str | None = None
    protections: list[tuple[str, str]] = field(default_factory=list)  # time, "Protect" or "Unprotect"
    long_posts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by second
    counts: dict[str, int] = field(default_factory=dict)  # base name of a file -> elements

    def learn(self, item: Any) -> None:
        """Take in an element of one of those files."""
        if "userInfo" in item:
            self.author = as_text(item["userInfo"]["accountId"])
            for kind in item["dataTypes"].values():
                for file in kind.get("files", ()):
                    self.counts[file["fileName"].rpartition("/")[2]] = int(file["count"])
        elif "noteTweet" in item:
            note = item["noteTweet"]
            self.long_posts.setdefault(note["createdAt"][:19], []).append(note["core"])
        else:
            change = item["protectedHistory"]
            self.protections.append((str(change["protectedAt"]), str(change["action"])))


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """The tweets of one file; of a file of deleted ones only their ids."""
    deleted = member.base.startswith("deleted")
    archive = Archive() if deleted else _archive(member)
    protected = max(archive.protections, default=("", ""))[1].lower().startswith("protect")

    def refuse(tweet: Tweet) -> str | None:
        if deleted or protected:
            return "deleted" if deleted else NOT_PUBLIC
        return CUT_SHORT if tweet.extended_tweet is None and _is_cut(tweet) else None

    seen = 0
    for items in batched(json_items(member)):
        # the archives of 2019 have tweets without the wrapper {"tweet": ...}
        bare = (item.get("tweet", item) if isinstance(item, dict) else item for item in items)
        tweets, damaged = as_records(bare, Tweet)
        tombstones: list[Tombstone] = []
        for tweet in tweets:
            number = as_text(tweet.id_str or tweet.tweet_id)
            if deleted and number:
                tombstones.append(("post", number, "deleted", None, False))
            elif not deleted and archive.long_posts and _is_cut(tweet):
                tweet.extended_tweet = _long_post(tweet, archive.long_posts)
        seen += len(items)
        yield tweet_batch(tweets, source.name, damaged, tombstones, archive.author, refuse)
    if (missing := archive.counts.get(member.base, 0) - seen) > 0:
        yield ReadBatch(POST_SCHEMA.empty_table(), damaged=missing)


def _archive(member: Member) -> Archive:
    archive = Archive()
    for file in member.beside(_ASKS):
        for item in json_items(file, r"=\s*(?=\{)" if file.base == "manifest.js" else r"\["):
            try:
                archive.learn(item)
            except UNEXPECTED:
                continue  # what is no such element says nothing; no post is lost by it
    return archive


def _is_cut(tweet: Tweet) -> bool:
    text, number = tweet.full_text or "", as_text(tweet.id_str) or ""
    long_enough = len(text) >= _CUT_FROM and number.isdecimal() and int(number) >= _FIRST_LONG_POST
    return long_enough and _CUT.search(text) is not None


def _long_post(tweet: Tweet, long_posts: dict[str, list[dict[str, Any]]]) -> Extended | None:
    """The whole of a tweet that is cut short."""
    begun = html.unescape(_CUT.sub("", tweet.full_text or "")).rstrip()
    begun_without_mentions = re.sub(r"^(?:@\w+\s+)+", "", begun)
    try:
        second = datetime.strptime(str(tweet.created_at), "%a %b %d %H:%M:%S %z %Y").astimezone(UTC)
        for core in long_posts.get(f"{second:%Y-%m-%dT%H:%M:%S}", ()):
            if core["text"].startswith((begun, begun_without_mentions)):
                urls = tuple(Url(one["shortUrl"], one["expandedUrl"]) for one in core.get("urls") or ())
                mentions = tweet.entities.user_mentions if tweet.entities else None
                whole = html.escape(core["text"], quote=False)  # as all other texts are
                return Extended(whole, Entities(urls, mentions), tweet.extended_entities)
    except UNEXPECTED:
        pass
    return None


READER = Reader(
    name="x-archive",
    title="X (Twitter) data archive of 2019 and later",
    opens=r"(?:.*/)?(?:deleted-tweets?|deleted-tweet-headers|tweets?|community-tweet)(?:-part\d+)?\.js",
    looks_like=lambda _, head: re.match(rb"\s*window\.YTD\.\w*tweet\w*\.part\d+\s*=", head) is not None,
    read=read,
    asks=_ASKS,
)
