"""The fediverse, Bluesky and Reddit, on look-alikes with every trap, and on real files where there are any."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generate_archives import CANARY, json_lines, pack
from generate_networks import (
    ANNA,
    DID,
    NOON,
    OTHER,
    POST,
    bluesky_post,
    jetstream,
    labels,
    mastodon_archive,
    mastodon_statuses,
    reddit,
    repository,
    status,
)
from reading import find
from wingspan.prepare.readers.archives import Member

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@pytest.mark.parametrize("form", ["archive.zip", "archive.tar.gz", "archive"])
def test_a_mastodon_archive_gives_what_everybody_could_read(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[str] = set()
    chunks = Member.chunks
    monkeypatch.setattr(Member, "chunks", lambda member: opened.add(member.base) or chunks(member))
    files, expected = mastodon_archive()
    found = find(pack(files, tmp_path / form), "mastodon-archive")
    found.must_be(expected)
    assert opened & set(files) == {"outbox.json", "actor.json"}
    posts = {uri.rpartition("/")[2]: post for uri, post in found.posts.items()}
    assert {post["author_id"] for post in posts.values()} == {ANNA}
    assert Counter(post["visibility"] for post in posts.values()) == {"public": 7, "unlisted": 1}
    assert (posts["1103"]["sensitive"], posts["1103"]["edited_from"]) == (True, [f"{ANNA}/statuses/1103"])
    assert posts["1104"]["parent_id"] == "https://other.example/users/ben/statuses/9"
    assert [posts[one]["lang_hint"] for one in ("1104", "1105")] == ["fr", "zh-CN"]
    assert posts["1105"]["quote_of"] == "https://other.example/users/ben/statuses/8"
    assert (posts["1106"]["alt_text"], posts["1108"]["mentions"]) == (["a cat asleep"], ["@ben@other.example"])
    assert CANARY not in json.dumps(list(found.posts.values()), default=str)


@pytest.mark.parametrize(
    ("profile", "signals"),
    [
        ({"indexable": False}, {"indexable"}),
        ({"discoverable": False, "memorial": True}, {"discoverable", "memorial"}),
        ({"suspended": True}, {"account gone"}),
        ({"indexable": None}, set()),
    ],
)
def test_a_mastodon_profile_speaks_for_all_its_posts(
    tmp_path: Path, profile: dict[str, Any], signals: set[str]
) -> None:
    files, _ = mastodon_archive(**profile)
    found = find(pack(files, tmp_path / "archive.zip"), "mastodon-archive")
    assert {(one["kind"], one["id"], one["reason"]) for one in found.tombstones} == {
        ("author", ANNA, signal) for signal in signals
    }


def test_a_damaged_profile_is_counted(tmp_path: Path) -> None:
    files, expected = mastodon_archive()
    found = find(pack(files | {"actor.json": b"{"}, tmp_path / "archive"), "mastodon-archive")
    assert found.damaged == expected.damaged + 1
    assert len(found.posts) == len(expected.kept)


def test_mastodon_statuses_are_known_by_their_uri_and_find_their_parents(tmp_path: Path) -> None:
    records, expected = mastodon_statuses()
    (tmp_path / "statuses.jsonl").write_bytes(json_lines(records))
    found = find(tmp_path / "statuses.jsonl", "mastodon-api")
    found.must_be(expected)
    posts = {uri.rpartition("/")[2]: post for uri, post in found.posts.items()}
    assert posts["900"]["parent_id"] == "https://other.example/users/ben/statuses/507"  # given later, remote
    assert posts["800"]["parent_id"] == f"{ANNA}/statuses/790"  # an own one that the file does not hold
    assert posts["700"]["parent_id"] is None
    assert posts["440"]["quote_of"] == "https://other.example/users/ben/statuses/507"
    assert posts["102"]["author_id"] == "https://fedi.example/users/eva"
    assert (posts["450"]["edited_from"], posts["450"]["sensitive"]) == ([f"{ANNA}/statuses/450"], True)
    assert (posts["507"]["visibility"], posts["507"]["lang_hint"], posts["507"]["likes"]) == ("unlisted", None, 4)


def test_jetstream_gives_posts_and_takes_them_back(tmp_path: Path) -> None:
    events, expected = jetstream()
    (tmp_path / "events.jsonl").write_bytes(json_lines(events))
    found = find(tmp_path / "events.jsonl", "bluesky-jetstream")
    found.must_be(expected)
    posts = {uri.rpartition("/")[2]: post for uri, post in found.posts.items()}
    assert posts["a"]["urls"] == ["https://example.org/a/long/way"]
    assert posts["a"]["mentions"] == [OTHER]
    assert (posts["b"]["parent_id"], posts["b"]["root_id"]) == (f"at://{OTHER}/{POST}/p", f"at://{OTHER}/{POST}/r")
    assert [posts[one]["quote_of"] for one in "cdh"] == [f"at://{OTHER}/{POST}/p"] * 2 + [None]
    assert posts["d"]["alt_text"] == ["a butterfly"]
    assert {posts[one]["created_at"].timestamp() for one in "ef"} == {NOON / 1e6}  # never later than it was seen
    assert (posts["g"]["sensitive"], posts["j"]["edited_from"]) == (True, [f"at://{DID}/{POST}/j"])
    said = {(one["reason"], one["id"], one["lifted"]) for one in found.tombstones}
    assert ("no-unauthenticated", OTHER, False) in said
    assert ("account gone", OTHER, False) in said


def test_a_later_profile_and_a_new_preference_speak_for_all_posts(tmp_path: Path) -> None:
    intent = {"$type": "org.user-intents.declaration", "bulkDataset": {"allow": False}, "publicAccessArchive": {}}
    records = {
        f"{POST}/1": bluesky_post("hello"),
        "app.bsky.actor.profile/self": {"displayName": "Anna", "labels": labels("!no-unauthenticated")},
        "org.user-intents.declaration/self": intent,
        "app.bsky.feed.like/2": {"subject": {"uri": "x"}},
        "app.bsky.feed.repost/3": {"subject": {"uri": "x"}},
    }
    (tmp_path / "anna.car").write_bytes(repository(records)[0])
    found = find(tmp_path / "anna.car", "bluesky-car")
    assert [post["text"] for post in found.posts.values()] == ["hello"]
    assert found.refused == {"not a post": 3, "repost": 1}
    assert {(one["id"], one["reason"], one["lifted"]) for one in found.tombstones} == {
        (DID, "no-unauthenticated", False),
        (DID, "ai-preference", False),
    }


POSTS = {f"{POST}/3l{number:05d}": bluesky_post(f"post number {number}") for number in range(300)}


def test_every_record_of_a_repository_is_found_by_the_tree(tmp_path: Path) -> None:
    content, blocks = repository(POSTS)
    orphan = b"\x01\x71\x12\x20" + b"\0" * 32 + blocks[f"{POST}/3l00000"]
    (tmp_path / "a.car").write_bytes(content + bytes([len(orphan) & 0x7F | 0x80, len(orphan) >> 7]) + orphan)
    found = find(tmp_path / "a.car", "bluesky-car")
    assert {key: post["text"] for key, post in found.posts.items()} == {
        f"at://{DID}/{key}": record["text"] for key, record in POSTS.items()
    }
    assert found.read == 300


@same_folder
@given(st.data())
def test_no_damage_to_a_repository_loses_or_changes_a_record_unseen(tmp_path: Path, data: st.DataObject) -> None:
    content, _ = repository(dict(list(POSTS.items())[:40]))
    at = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.booleans())
    flipped = bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    broken = content[:at] + (b"" if cut else flipped)
    (tmp_path / "a.car").write_bytes(broken)
    found = find(tmp_path / "a.car", "bluesky-car")
    assert {post["text"] for post in found.posts.values()} <= {record["text"] for record in POSTS.values()}
    assert len(found.posts) == 40 or found.damaged >= 1


@pytest.mark.parametrize("name", ["RC_2024-02.zst", "gardening_comments", "RS_2011-01.jsonl"])
def test_reddit_dumps_of_all_years_are_read_without_what_is_gone(tmp_path: Path, name: str) -> None:
    records, expected = reddit()
    content = json_lines(records)
    (tmp_path / name).write_bytes(in_a_window_of_two_gigabytes(content) if name.endswith("zst") else content)
    found = find(tmp_path / name, "reddit")
    found.must_be(expected)
    assert CANARY not in json.dumps(list(found.posts.values()), default=str)
    posts = found.posts
    assert (posts["t1_k2"]["parent_id"], posts["t1_k2"]["root_id"]) == ("t1_k1", "t3_s1")
    assert posts["t1_k2"]["created_at"].year == 2009
    assert (posts["t1_k3"]["likes"], posts["t1_k3"]["edited_from"]) == (-12, ["t1_k3"])
    assert (posts["t3_s2"]["urls"], posts["t3_s2"]["sensitive"]) == (["https://pictures.example/1.jpg"], True)
    assert posts["t3_s3"]["quote_of"] == "t3_other"


def in_a_window_of_two_gigabytes(content: bytes) -> bytes:
    """A zstd frame of one raw block that declares the window of Reddit's dumps."""
    window = (31 - 10) << 3
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, window]) + (len(content) << 3 | 1).to_bytes(3, "little") + content
    assert zstandard.get_frame_parameters(frame).window_size == 2**31
    return frame


@same_folder
@given(
    st.sampled_from(["mastodon-api", "bluesky-jetstream", "reddit"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["uri", "account", "did", "kind", "commit", "id", "body", "title", "x"]), inner
            )
        ),
    ),
)
def test_no_record_is_too_strange_to_be_counted(tmp_path: Path, reader: str, record: Any) -> None:
    real = {"mastodon-api": status(1, "<p>x</p>"), "reddit": reddit()[0][0]}.get(reader, jetstream()[0][0])
    strange = [record, real | record if isinstance(record, dict) else real]
    (tmp_path / "a.jsonl").write_bytes(json_lines([real, *strange]))
    found = find(tmp_path / "a.jsonl", reader)
    assert found.read >= 2
    assert found.rows >= 1


@pytest.mark.shared_data
def test_real_files_are_read_to_the_last_record(shared_data: Path) -> None:
    shared = shared_data / "data"
    listed = (shared / "bluesky-jetstream/car_expected_records.tsv").read_text().splitlines()
    repo = find(shared / "bluesky-jetstream/repo.car", "bluesky-car")
    assert (repo.read, repo.damaged) == (len(listed), 0)
    assert len(repo.posts) == sum(line.startswith(f"{POST}/") for line in listed)
    events = find(shared / "bluesky-jetstream/expected_v1.jsonl", "bluesky-jetstream")
    assert (events.read, events.damaged, events.refused["deletion notice"]) == (152, 0, 1)
    for kind in ("RC", "RS"):
        dump = find(shared / f"reddit-pushshift/{kind}_2024-02.sample.zst", "reddit")
        assert (dump.read, dump.damaged) == ({"RC": 27, "RS": 31}[kind], 0)
    statuses = find(shared / "mastodon-api/statuses.jsonl", "mastodon-api")
    assert (statuses.read, statuses.rows, statuses.damaged) == (126, 88, 0)
