"""Look-alike archives of real platforms, in their exact forms and with their traps; every word is made up.

A maker of files returns `Files` (name -> bytes), which `pack` writes as a folder, a zip or a tar, and says in
`Expected` what a right reader makes of them. Members that must never be opened hold `CANARY`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CANARY = "canaryword-of-a-private-message"
Files = dict[str, bytes]


@dataclass
class Expected:
    """What a reader must find: texts by id, records refused by reason, damaged ones, ids of tombstones."""

    kept: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    tombstones: set[str] = field(default_factory=set)

    @property
    def read(self) -> int:
        return len(self.kept) + self.refused.total() + self.damaged


def pack(files: Files, path: Path) -> Path:
    """Write files as a folder, or by the name's end as .zip, .tar or .tar.gz."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif ".tar" in path.suffixes:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        for name, content in files.items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return path


def json_lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in records)


def _assigned(variable: str, items: Any) -> bytes:
    """As X writes it: an assignment, printed with two spaces and ` : `."""
    return f"{variable} = {json.dumps(items, indent=2, ensure_ascii=False, separators=(',', ' : '))}".encode()


# X data archive ---------------------------------------------------------------------------------------------------

OWNER = "2244994945"
_FIRST = 1_700_000_000_000_000_000  # beyond 2**53, in the autumn of 2023
_SECONDS = "Wed Nov 15 {hour:02d}:13:{second:02d} +0000 2023"


def x_tweet(number: int, text: str, **fields: Any) -> dict[str, Any]:
    """A tweet of the data archive: all numbers are strings, the author is not in it."""
    identity = str(_FIRST + number)
    return {
        "edit_info": {
            "initial": {
                "editTweetIds": [identity],
                "editableUntil": "2023-11-15T21:13:20.000Z",
                "editsRemaining": "5",
                "isEditEligible": True,
            }
        },
        "retweeted": False,
        "source": '<a href="https://mobile.twitter.com" rel="nofollow">Twitter Web App</a>',
        "entities": {"hashtags": [], "symbols": [], "user_mentions": [], "urls": []},
        "display_text_range": ["0", str(len(text))],
        "favorite_count": str(number % 7),
        "id_str": identity,
        "truncated": False,
        "retweet_count": "0",
        "id": identity,
        "created_at": _SECONDS.format(hour=number % 24, second=number % 60),
        "favorited": False,
        "full_text": text,
        "lang": "en",
    } | fields


def x_archive(tweets: int = 40) -> tuple[Files, Expected]:
    """A data archive of 2022 and later in two parts, with a long post, edits, a repost, a deleted tweet."""
    expected = Expected()
    items: list[dict[str, Any]] = []

    def add(text: str, reason: str | None = None, shown: str | None = None, **fields: Any) -> str:
        tweet = x_tweet(len(items), text, **fields)
        items.append({"tweet": tweet})
        if reason:
            expected.refused[reason] += 1
        else:
            expected.kept[tweet["id_str"]] = shown or text
        return str(tweet["id_str"])

    for number in range(tweets):
        add(f"Reading \U0001f4da number {number}: bread &amp; roses &gt; both")
    link = {"url": "https://t.co/abcDEF1234", "expanded_url": "https://example.org/a?x=1&y=2", "indices": ["5", "28"]}
    add(
        "Look https://t.co/abcDEF1234",
        shown="Look https://example.org/a?x=1&amp;y=2",
        entities={"urls": [link], "user_mentions": [{"screen_name": "jane", "id_str": "9"}]},
    )
    add("RT @someone: words of another, often cut sho…", "repost")
    add("Only for my circle", "not public", scopes={"followers": True})
    add("Not for all countries", "withheld", withheld_in_countries=["DE"])
    expected.tombstones.add(items[-1]["tweet"]["id_str"])
    add("An answer to myself", in_reply_to_status_id_str=str(_FIRST), in_reply_to_user_id_str=OWNER)

    versions = [str(_FIRST + len(items)), str(_FIRST + len(items) + 1)]
    edit = {"edit": {"initialTweetId": versions[0], "editControlInitial": {"editTweetIds": versions}}}
    add("A first verison", "older version", edit_info=edit)
    add("A first version", edit_info=edit)

    long = "This long post says & shows \U0001f600 more than fits: " + "word after word, " * 30 + "and the end."
    add(
        long[:240].replace("&", "&amp;") + "… https://t.co/long000000",
        shown=long.replace("&", "&amp;"),
        created_at="Thu Dec 07 08:09:10 +0000 2023",
    )
    add("A long post whose whole text is nowhere: " + "la " * 80 + "…", "cut short")
    gone = add("Deleted since, yet still in the list", "deleted later")
    del expected.refused["deleted later"]
    expected.kept[gone] = "Deleted since, yet still in the list"  # the tombstone removes it, later and everywhere
    expected.tombstones.add(gone)
    expected.tombstones.add(str(_FIRST + 900_000))
    expected.refused["deleted"] = 3

    half = len(items) // 2
    note = {
        "noteTweetId": "1732664420000000001",
        "createdAt": "2023-12-07T08:09:10.000Z",
        "updatedAt": "2023-12-07T08:09:10.000Z",
        "lifecycle": {"value": "1", "name": "Active"},
        "core": {"text": long, "mentions": [], "hashtags": [], "urls": [], "cashtags": [], "styletags": []},
    }
    other = note | {"noteTweetId": "1732664420000000002", "core": {"text": "In the same second, another text"}}
    deleted = x_tweet(900_000, f"a deleted tweet {CANARY}", deleted_at="Thu Nov 16 00:00:00 +0000 2023")
    headers = [
        {"tweet": {"tweet_id": one, "user_id": OWNER, "created_at": "x", "deleted_at": "y"}}
        for one in (gone, deleted["id_str"])
    ]
    counts = {"tweets.js": half, "tweets-part1.js": len(items) - half}
    manifest = {
        "userInfo": {"accountId": OWNER, "userName": "a_user", "displayName": "A User"},
        "archiveInfo": {"sizeBytes": "1000", "isPartialArchive": False, "maxPartSizeBytes": "53687091200"},
        "dataTypes": {
            "tweets": {
                "mediaDirectory": "data/tweets_media",
                "files": [
                    {"fileName": f"data/{name}", "globalName": f"YTD.tweets.part{part}", "count": str(count)}
                    for part, (name, count) in enumerate(counts.items())
                ],
            },
            "tweetsMedia": {"mediaDirectory": "data/tweets_media"},
        },
    }
    files = {
        "Your archive.html": b"<html></html>",
        "data/manifest.js": _assigned("window.__THAR_CONFIG", manifest),
        "data/tweets.js": _assigned("window.YTD.tweets.part0", items[:half]),
        "data/tweets-part1.js": _assigned("window.YTD.tweets.part1", items[half:]),
        "data/note-tweet.js": _assigned("window.YTD.note_tweet.part0", [{"noteTweet": other}, {"noteTweet": note}]),
        "data/deleted-tweets.js": _assigned("window.YTD.deleted_tweets.part0", [{"tweet": deleted}]),
        "data/deleted-tweet-headers.js": _assigned("window.YTD.deleted_tweet_headers.part0", headers),
        "data/tweets_media/1-a.jpg": b"\xff\xd8\xff",
    }
    return files | _x_private(), expected


X_PRIVATE = (
    "account", "ageinfo", "bookmark", "contact", "direct-messages", "direct-messages-group", "email-address-change",
    "follower", "grok-chat-item", "ip-audit", "like", "personalization", "phone-number", "tweet-headers",
    "twitter-circle-tweet",
)  # fmt: skip


def _x_private() -> Files:
    return {
        f"data/{name}.js": _assigned(f"window.YTD.{name.replace('-', '_')}.part0", [{"x": {"full_text": CANARY}}])
        for name in X_PRIVATE
    }


# Grailbird --------------------------------------------------------------------------------------------------------


def grailbird() -> tuple[Files, Expected]:
    """A tweet archive of 2012 to 2018: numeric ids, `text`, `retweeted_status`."""
    expected = Expected()
    user = {"name": "A", "screen_name": "a", "protected": False, "id_str": "12", "id": 12}
    months: dict[str, list[dict[str, Any]]] = {}
    for number in range(24):
        month = f"2013_{number % 3 + 1:02d}"
        tweet: dict[str, Any] = {
            "source": "web",
            "entities": {"user_mentions": [], "media": [], "hashtags": [], "urls": []},
            "geo": {},
            "id_str": str(300_000_000_000_000_000 + number),
            "text": f"Month {month}, tweet {number}",
            "id": 300_000_000_000_000_000 + number,
            "created_at": f"2013-{number % 3 + 1:02d}-09 10:00:00 +0000",
            "user": user,
        }
        if number % 8 == 5:
            tweet |= {"text": "RT @b: not mine", "retweeted_status": {"id_str": "1", "text": "not mine"}}
            expected.refused["repost"] += 1
        else:
            expected.kept[tweet["id_str"]] = tweet["text"]
        months.setdefault(month, []).append(tweet)
    files = {
        f"data/js/tweets/{month}.js": f"Grailbird.data.tweets_{month} = \n {json.dumps(tweets, indent=1)}".encode()
        for month, tweets in months.items()
    }
    files["data/js/user_details.js"] = f'var user_details = {{"bio" : "{CANARY}", "id" : "12"}}'.encode()
    files["tweets.csv"] = f'"tweet_id","text"\n"1","{CANARY}"\n'.encode()
    return files, expected


# API v1.1 and the Stream Grab -------------------------------------------------------------------------------------


def v1_tweet(number: int, text: str, **fields: Any) -> dict[str, Any]:
    """A status of the streaming API, with the fat that real ones have."""
    identity = 400_000_000_000_000_000 + number
    return {
        "created_at": f"Mon Apr 07 10:{number % 60:02d}:00 +0000 2014",
        "id": identity,
        "id_str": str(identity),
        "text": text,
        "source": '<a href="http://twitter.com" rel="nofollow">Web</a>',
        "truncated": False,
        "in_reply_to_status_id": None,
        "in_reply_to_status_id_str": None,
        "user": {
            "id": 70 + number % 9,
            "id_str": str(70 + number % 9),
            "name": "Somebody",
            "screen_name": "somebody",
            "location": "Lyon",
            "description": "a profile that nobody reads",
            "protected": False,
            "followers_count": 12,
            "profile_image_url": "http://pbs.twimg.com/profile_images/1/x.jpeg",
        },
        "geo": None,
        "retweet_count": 0,
        "favorite_count": number % 5,
        "entities": {"hashtags": [], "urls": [], "user_mentions": []},
        "lang": "en",
    } | fields


def v1_records(tweets: int = 60) -> tuple[list[dict[str, Any]], Expected]:
    """Statuses and notices as a stream brings them."""
    expected = Expected()
    records: list[dict[str, Any]] = []

    def add(text: str, reason: str | None = None, shown: str | None = None, **fields: Any) -> None:
        tweet = v1_tweet(len(records), text, **fields)
        records.append(tweet)
        if reason:
            expected.refused[reason] += 1
        else:
            expected.kept[tweet["id_str"]] = shown or text

    def notice(name: str, body: Any, *ids: str) -> None:
        records.append({name: body})
        expected.refused["notice"] += 1
        expected.tombstones.update(ids)

    for number in range(tweets):
        add(f"Status {number}\nwith two lines")
        if number % 9 == 0:  # names a tweet of years before, beyond 2**53
            about = {"id": 9007199254740993 + number, "id_str": str(9007199254740993 + number), "user_id": 3}
            notice("delete", {"status": about, "timestamp_ms": "1396864800123"}, about["id_str"])
    media = [{"url": "http://t.co/pic0000000", "ext_alt_text": "a cat"}]
    extended = {"full_text": "All of a text that was cut http://t.co/pic0000000", "entities": {"media": media}}
    add("All of a text that was…", shown="All of a text that was cut", truncated=True, extended_tweet=extended)
    add("Cut and gone…", "cut short", truncated=True)
    add("RT @x: theirs", "repost", retweeted_status={"id_str": "5", "text": "theirs"})
    add("RT @x: by hand", "repost")
    add("Only for followers", "not public", user={"id_str": "1", "protected": True})
    add("Not in France", "withheld", withheld_in_countries=["FR"])
    expected.tombstones.add(records[-1]["id_str"])
    add("With a quote", quoted_status_id_str="400000000000000001", quoted_status={"id_str": "400000000000000001"})
    notice("scrub_geo", {"user_id": 14090452, "up_to_status_id": 23260136625})
    notice("status_withheld", {"id": 1234567890, "user_id": 123, "withheld_in_countries": ["DE"]}, "1234567890")
    notice("user_protect", {"id": 77, "timestamp_ms": "1396864800123"}, "77")
    notice("limit", {"track": 1234})
    return records, expected


def stream_grab(minutes: int = 4) -> tuple[Files, Expected]:
    """A day of the Stream Grab: a tar of compressed minutes."""
    records, expected = v1_records()
    size = -(-len(records) // minutes)
    files: Files = {}
    for minute in range(minutes):
        content = json_lines(records[minute * size : (minute + 1) * size])
        packed = bz2.compress(content) if minute % 2 else gzip.compress(content)
        files[f"2014/04/07/10/{minute:02d}.json.{'bz2' if minute % 2 else 'gz'}"] = packed
    return files, expected


# API v2 -----------------------------------------------------------------------------------------------------------


def v2_pages() -> tuple[list[dict[str, Any]], Expected]:
    """Pages as twarc stores them, a flattened tweet, and lines of a compliance job."""
    expected = Expected()

    def tweet(number: int, text: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
        identity = str(1_580_000_000_000_000_000 + number)
        if reason:
            expected.refused[reason] += 1
        else:
            expected.kept[identity] = fields.get("note_tweet", {}).get("text", text)
        return {
            "id": identity,
            "text": text,
            "author_id": "55",
            "created_at": "2022-10-12T08:00:00.000Z",
            "conversation_id": identity,
            "lang": "en",
            "reply_settings": "everyone",
            "public_metrics": {"retweet_count": 0, "reply_count": 1, "like_count": 2, "quote_count": 0},
            "edit_history_tweet_ids": [identity],
        } | fields

    data = [tweet(number, f"Page tweet {number}") for number in range(10)]
    data.append(tweet(20, "RT @x: …", "repost", referenced_tweets=[{"type": "retweeted", "id": "1"}]))
    data.append(tweet(21, "Mine alone", "not public", author_id="66"))
    data.append(tweet(22, "Banned", "withheld", withheld={"country_codes": ["DE"], "copyright": False}))
    data.append(
        tweet(23, "Old", "older version", edit_history_tweet_ids=["1580000000000000023", "1580000000000000024"])
    )
    data.append(tweet(24, "Long…", note_tweet={"text": "Long and whole"}))
    includes = {
        "users": [{"id": "55", "username": "a", "protected": False}, {"id": "66", "username": "b", "protected": True}],
        "tweets": [tweet(30, "An included tweet is whole too")],
    }
    errors = [
        {"resource_type": "tweet", "resource_id": "1570000000000000001", "title": "Not Found Error", "detail": "x"},
        {"resource_type": "user", "resource_id": "a_handle", "title": "Forbidden", "detail": "suspended"},
    ]
    single = tweet(31, "One tweet alone in its page")
    flat = tweet(32, "A flattened tweet", author={"id": "55", "protected": False, "description": "unread"})
    expected.refused["notice"] += 3
    expected.tombstones |= {"1570000000000000001", "1170025343920402432", "1580000000000000022"}
    return [
        {
            "data": data,
            "includes": includes,
            "errors": errors,
            "meta": {"result_count": 15},
            "__twarc": {"version": "2"},
        },
        {"data": single, "includes": {"users": []}, "__twarc": {"version": "2"}},
        flat | {"__twarc": {"version": "2"}},
        {
            "id": "1170025343920402432",
            "action": "delete",
            "created_at": "2019-09-06T17:25:54.667Z",
            "reason": "deleted",
        },
    ], expected
