"""The tweet archive of 2012 to 2018 (Grailbird): one JavaScript file per month."""

from __future__ import annotations

from collections.abc import Iterator

from wingspan.prepare.readers.archives import Member
from wingspan.prepare.readers.records import as_records, batched, json_items
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.prepare.readers.tweets import Tweet, tweet_batch
from wingspan.project import PostSource


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """The tweets of a month. `tweets.csv` beside them holds the same ones with less and is not opened."""
    for items in batched(json_items(member)):
        tweets, damaged = as_records(items, Tweet)
        yield tweet_batch(tweets, source.name, damaged)


READER = Reader(
    name="grailbird",
    title="Twitter archive of 2012 to 2018",
    opens=r"(?:.*/)?data/js/tweets/\d{4}_\d{2}\.js",
    looks_like=lambda _, head: head.lstrip().startswith(b"Grailbird.data.tweets_"),
    read=read,
)
