from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generate_archives import (
    CANARY,
    OWNER,
    X_PRIVATE,
    Files,
    grailbird,
    json_lines,
    pack,
    stream_grab,
    v1_records,
    v1_tweet,
    v2_pages,
    x_archive,
)
from reading import find
from wingspan.prepare.readers import archives
from wingspan.prepare.readers.archives import Member

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the members whose bytes were asked for."""
    names: list[str] = []
    chunks = Member.chunks

    def noted(member: Member) -> Any:
        names.append(member.name)
        return chunks(member)

    monkeypatch.setattr(Member, "chunks", noted)
    return names


@pytest.mark.parametrize("form", ["archive", "archive.zip", "archive.tar", "archive.tar.gz"])
def test_an_x_archive_is_read_whole_and_nothing_private_is_opened(tmp_path: Path, form: str, opened: list[str]) -> None:
    files, expected = x_archive()
    found = find(pack(files, tmp_path / form), "x-archive")
    found.must_be(expected)
    assert {post["author_id"] for post in found.posts.values()} == {OWNER}
    assert CANARY not in json.dumps(list(found.posts.values()), default=str)
    inside = {name for name in opened if name.startswith("data/")}
    assert inside == {name for name in files if name.startswith("data/")} - {
        *(f"data/{name}.js" for name in X_PRIVATE),
        "data/tweets_media/1-a.jpg",
    } - {"data/protected-history.js"}


def test_what_an_x_archive_says_of_a_tweet_arrives(tmp_path: Path) -> None:
    files, _ = x_archive()
    posts = find(pack(files, tmp_path / "a.zip"), "x-archive").posts
    by_text = {post["text"]: post for post in posts.values()}
    linked = by_text["Look https://example.org/a?x=1&amp;y=2"]
    assert (linked["urls"], linked["mentions"]) == (["https://example.org/a?x=1&y=2"], ["jane"])
    answer = by_text["An answer to myself"]
    assert answer["parent_id"] == "1700000000000000000"
    assert by_text["A first version"]["edited_from"] == [str(int(by_text["A first version"]["post_id"]) - 1)]
    assert answer["created_at"].year == 2023


def test_a_protected_account_is_refused_whole(tmp_path: Path) -> None:
    files, expected = x_archive()
    changes = [("2023-10-01T00:00:00.000Z", "Unprotect"), ("2023-11-01T00:00:00.000Z", "Protect")]
    items = [{"protectedHistory": {"protectedAt": at, "action": action}} for at, action in changes]
    files["data/protected-history.js"] = b"window.YTD.protected_history.part0 = " + json.dumps(items).encode()
    found = find(pack(files, tmp_path / "a.zip"), "x-archive")
    assert not found.posts
    assert found.read == expected.read
    assert found.refused["not public"] == expected.read - 3  # of deleted ones only the ids are read


def test_what_the_manifest_counts_and_the_file_lacks_is_damage(tmp_path: Path) -> None:
    files, expected = x_archive()
    whole = files["data/tweets.js"].decode()
    files["data/tweets.js"] = whole[: whole.rindex("full_text") - 40].encode()
    found = find(pack(files, tmp_path / "a.zip"), "x-archive")
    assert found.damaged == 1
    assert found.read == expected.read


def test_a_damaged_tweet_costs_that_tweet_alone(tmp_path: Path) -> None:
    files, expected = x_archive()
    files["data/tweets.js"] = files["data/tweets.js"].replace(b'"id_str" : "1700000000000000003"', b'"id_str" ; "17', 1)
    found = find(pack(files, tmp_path / "a.zip"), "x-archive")
    assert set(expected.kept) - set(found.posts) == {"1700000000000000003"}
    assert (found.damaged, found.read) == (1, expected.read)


def test_an_archive_of_2019_has_bare_tweets(tmp_path: Path) -> None:
    tweet = {"id_str": "1", "full_text": "bare", "created_at": "Wed Nov 15 10:00:00 +0000 2017"}
    content = b"window.YTD.tweet.part0 = " + json.dumps([tweet]).encode()
    assert find(pack({"tweet.js": content}, tmp_path / "a.zip"), "x-archive").posts["1"]["text"] == "bare"


@pytest.mark.parametrize("form", ["archive", "archive.zip"])
def test_grailbird(tmp_path: Path, form: str, opened: list[str]) -> None:
    files, expected = grailbird()
    found = find(pack(files, tmp_path / form), "grailbird")
    found.must_be(expected)
    assert not any("user_details" in name or name.endswith("csv") for name in opened)
    assert {post["author_id"] for post in found.posts.values()} == {"12"}
    assert {post["created_at"].month for post in found.posts.values()} == {1, 2, 3}


@pytest.mark.parametrize("form", ["day", "day.tar", "day.zip", "day.tar.gz"])
def test_the_stream_grab(tmp_path: Path, form: str) -> None:
    files, expected = stream_grab()
    found = find(pack(files, tmp_path / form), "twitter-v1")
    found.must_be(expected)
    notice = next(one for one in found.tombstones if one["id"] == "9007199254740993")
    assert (notice["kind"], notice["reason"], notice["at"].year) == ("post", "deleted", 2014)
    assert {"kind": "author", "id": "77"}.items() <= next(one for one in found.tombstones if one["id"] == "77").items()


@pytest.mark.parametrize("written", ["lines", "array", "printed"])
def test_statuses_in_lines_in_an_array_or_printed(tmp_path: Path, written: str) -> None:
    records, expected = v1_records()
    content = {
        "lines": json_lines(records),
        "array": json.dumps(records).encode(),
        "printed": "\n".join(json.dumps(one, indent=1) for one in records).encode(),
    }[written]
    find(pack({"a.json": content}, tmp_path / "x"), "twitter-v1").must_be(expected)


def test_pages_of_api_v2(tmp_path: Path) -> None:
    records, expected = v2_pages()
    find(pack({"a.jsonl": json_lines(records)}, tmp_path / "x"), "twitter-v2").must_be(expected)


@pytest.mark.parametrize(
    ("trap", "text"),
    [
        (lambda line: line.replace(b"trap", "caf\u00e9 \u201cx\u201d".encode("cp1252")), "caf\u00e9 \u201cx\u201d"),
        (lambda line: line.replace(b"trap", b"nu\0l"), "nul"),
        (lambda line: line.replace(b"trap", b"lone \\ud83d!"), "lone ?!"),
        (lambda line: line.replace(b"trap", b"tab\there"), "tab\there"),
        (lambda line: b"\xef\xbb\xbf" + line, "trap"),
        (lambda line: line.replace(b"\n", b"\r\n"), "trap"),
        (lambda line: line.replace(b'"favorite_count": 0', b'"favorite_count": "3"'), "trap"),
        (lambda line: line.replace(b'"favorite_count": 0', b'"favorite_count": NaN'), "trap"),
        (lambda line: line.decode().encode("utf-16"), "trap"),
    ],
)
def test_traps_of_bytes(tmp_path: Path, trap: Any, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(trap(json_lines([v1_tweet(0, "trap")])))
    found = find(path, "twitter-v1")
    assert [post["text"] for post in found.posts.values()] == [text]
    assert found.read == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
TWEET_KEYS = (
    "id_str", "id", "text", "full_text", "user", "entities", "extended_tweet", "edit_info", "delete", "lang", "data",
    "created_at", "truncated", "scopes", "retweeted_status", "includes", "errors", "withheld", "note_tweet",
    "referenced_tweets", "user_protect",
)  # fmt: skip
strange = st.dictionaries(st.sampled_from(TWEET_KEYS), json_values, max_size=6)


@given(lines=st.lists(strange.map(lambda one: json.dumps(one).encode()) | st.binary(max_size=30), max_size=12))
@same_folder
@pytest.mark.parametrize("reader", ["twitter-v1", "twitter-v2"])
def test_no_line_whatever_it_holds_crashes_or_goes_silently(tmp_path: Path, reader: str, lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b" ") for line in [b'{"id": 0}', *lines]]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = find(path, reader)
    assert found.read == found.rows + found.refused.total() + found.damaged
    assert found.read >= sum(bool(re.sub(rb"[\0\s]", b"", line)) for line in lines if line.isascii())


@given(items=st.lists(strange.map(lambda one: {"tweet": one}) | json_values, max_size=8), cut=st.integers(0, 60))
@same_folder
def test_no_x_archive_crashes(tmp_path: Path, items: list[Any], cut: int) -> None:
    content = b"window.YTD.tweets.part0 = " + json.dumps(items).encode()
    note = b"window.YTD.note_tweet.part0 = " + json.dumps([{"noteTweet": item} for item in items]).encode()
    files: Files = {"data/tweets.js": content[: len(content) - cut], "data/note-tweet.js": note}
    files["data/manifest.js"] = (
        b"window.__THAR_CONFIG = " + json.dumps({"userInfo": items, "dataTypes": items}).encode()
    )
    found = find(pack(files, tmp_path / "x"), "x-archive")
    assert found.read == found.rows + found.refused.total() + found.damaged
    if cut == 0:
        assert found.read == len(items)


@pytest.mark.shared_data
def test_real_pages_of_api_v2(shared_data: Path) -> None:
    found = find(shared_data / "data" / "twitter-api-v2", "twitter-v2")
    assert found.damaged == 0
    assert len(found.posts) > 700
    assert {one["reason"] for one in found.tombstones} >= {"protected", "deactivated", "Not Found Error"}


@pytest.mark.shared_data
def test_real_statuses_of_api_v1(shared_data: Path) -> None:
    found = find(shared_data / "data" / "rumoureval-threads" / "train.tweets.v1.jsonl", "twitter-v1")
    assert (found.read, found.damaged, found.refused) == (4238, 0, {"repost": 28})
    assert sum(post["parent_id"] is not None for post in found.posts.values()) > 3000


def test_large_files_are_cut_into_parts_that_together_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, expected = v1_records()
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(records))
    for part in (700, 1024, 5000):
        monkeypatch.setattr("wingspan.prepare.readers.registry.PART", part)
        find(path, "twitter-v1").must_be(expected)
    assert archives.CHUNK > 5000
