from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wingspan.prepare.privacy.pseudonyms import pseudonymiser
from wingspan.prepare.privacy.tombstones import SIGNALS, Tombstones, as_notices, bury, prove, read_list

pseudonym = pseudonymiser(hashlib.sha256(b"a key").digest())
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stones(*notices: tuple[str, str], lines: tuple[str, ...] = (), consent: tuple[str, ...] = SIGNALS) -> Tombstones:
    rows = as_notices([(kind, name, "deleted", None, False) for kind, name in notices])
    return Tombstones.build([rows], lines, consent, pseudonym)


ids = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(gone=st.sets(ids, max_size=30), asked=st.lists(st.none() | ids, max_size=30))
def test_exactly_the_given_ids_are_in_the_set_also_from_disk(
    gone: set[str], asked: list[str | None], tmp_path: Path
) -> None:
    built = stones(*(("post", one) for one in gone))
    built.write(tmp_path)
    series = pl.Series("post_id", [*asked, *sorted(gone)], dtype=pl.String)
    for one in (built, Tombstones.open(tmp_path)):
        assert one.of_posts(series).is_not_null().to_list() == [name in gone for name in series]
        assert one.of_authors(series).null_count() == len(series)
    assert built.counts.get("deleted", 0) == len(gone)


def test_an_author_is_known_by_id_in_any_case_and_by_pseudonym() -> None:
    built = stones(("author", "Anna"))
    names = pl.Series(["anna", "ANNA", pseudonym("anna"), "ann", None])
    assert built.of_authors(names).is_not_null().to_list() == [True, True, True, False, False]
    assert built.counts == {"deleted": 1}


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y"]), st.none() | st.integers(0, 9), st.booleans()),
        max_size=12,
    )
)
def test_of_notices_for_one_reason_the_latest_holds_and_one_without_time_always(
    notices: list[tuple[str, str, int | None, bool]],
) -> None:
    rows = as_notices(
        [
            ("author", name, reason, None if at is None else NOON + timedelta(hours=at), lifted)
            for name, reason, at, lifted in notices
        ]
    )
    held = set()
    for name, reason in {(name, reason) for name, reason, *_ in notices}:
        mine = [(at, not lifted) for one, other, at, lifted in notices if (one, other) == (name, reason)]
        latest = max((said for said in mine if said[0] is not None), default=(0, False))  # of equals the one that holds
        if latest[1] or (None, True) in mine:
            held.add(name)
    built, names = Tombstones.build([rows[:5], rows[5:]], (), SIGNALS, pseudonym), pl.Series(["a", "b"])
    assert set(names.filter(built.of_authors(names).is_not_null())) == held
    assert sum(built.counts.values()) == len(held)


def test_signals_count_only_where_the_project_says_so() -> None:
    rows = as_notices([("author", "a", "indexable", None, False), ("author", "b", "account gone", None, False)])
    for consent, expected in ((SIGNALS, ["a", "b"]), (("noindex",), ["b"])):
        built = Tombstones.build([rows[:1], rows[1:]], (), consent, pseudonym)
        names = pl.Series(["a", "b"])
        assert names.filter(built.of_authors(names).is_not_null()).to_list() == expected


@pytest.mark.parametrize(
    ("line", "posts", "authors"),
    [
        ("17", ["17"], ["17"]),
        ("post:17", ["17"], []),
        ("author: 17", [], ["17"]),
        ("author:did:plc:abc", [], ["did:plc:abc"]),
        ("at://did:plc:abc/app.bsky.feed.post/1", ["at://did:plc:abc/app.bsky.feed.post/1"], []),
        ("@anna@fedi.example", [], ["https://fedi.example/users/anna", "https://fedi.example/@ANNA"]),
        ("domain:fedi.example", ["https://fedi.example/users/anna/statuses/1"], ["https://fedi.example/users/anna"]),
        ("domain:example", ["https://fedi.example/1", "https://example:8080/1"], ["anna@fedi.example"]),
        ("https://fedi.example/users/b*/statuses/*", ["https://fedi.example/users/ben/statuses/7"], []),
        ("at://did:plc:abc/*", ["at://did:plc:abc/app.bsky.feed.post/1"], []),
        ("# a comment", [], []),
        ("  ", [], []),
    ],
)
def test_an_opt_out_list_names_posts_authors_and_places(line: str, posts: list[str], authors: list[str]) -> None:
    everything = [
        "17", "18", "did:plc:abc", "https://fedi.example/users/anna", "https://fedi.example/@ANNA", "https://fedi.example/1",
        "https://fedi.example/users/anna/statuses/1", "https://fedi.example/users/ben/statuses/7", "anna@fedi.example",
        "at://did:plc:abc/app.bsky.feed.post/1", "https://example:8080/1", "https://notfedi.example.org/1",
    ]  # fmt: skip
    built, series = stones(lines=(line,)), pl.Series(everything)
    if "domain:example" not in line and "*" not in line:
        assert set(series.filter(built.of_posts(series).is_not_null())) >= set(posts)
    found = set(series.filter(built.of_posts(series).is_not_null()))
    assert set(posts) <= found
    assert "18" not in found
    assert "https://notfedi.example.org/1" not in found
    if line in ("17", "post:17", "author: 17"):
        assert found == set(posts)
    assert set(authors) <= set(series.filter(built.of_authors(series).is_not_null()))


def test_an_address_that_names_an_author_who_left_is_not_linked_to_though_the_post_was_never_read() -> None:
    built = stones(("author", "did:plc:abc"), ("author", "https://fedi.example/users/anna"))
    addresses = [
        "at://did:plc:abc/app.bsky.feed.post/1",
        "https://fedi.example/users/anna/statuses/7",
        "at://did:plc:abcd/app.bsky.feed.post/1",
        "https://fedi.example/users/ann/statuses/7",
        "17",
        None,
    ]
    assert built.of_posts(pl.Series(addresses)).is_not_null().to_list() == [True, True, False, False, False, False]


def test_patterns_are_literal_but_for_the_star() -> None:
    _, patterns = read_list(["https://a.example/(x)*"])
    built = stones(lines=("https://a.example/(x)*",))
    ids = pl.Series(["https://a.example/(x)1", "https://a.example/x", "https://axexample/(x)"])
    assert len(patterns) == 1
    assert built.of_posts(ids).is_not_null().to_list() == [True, False, False]


def test_burying_takes_words_and_links_and_what_authors_who_left_had_posted(tmp_path: Path) -> None:
    posts = pl.DataFrame(
        {
            "post_id": ["1", "2", "3", "4"],
            "author_id": ["a", "b", "c", None],
            "text": ["one", "two", "three", "four"],
            "parent_id": [None, "1", "2", "2"],
            "root_id": [None, "1", "1", "3"],
            "quote_of": [None, None, None, "2"],
            "refused": [None, None, "repost", None],
        }
    )
    built = stones(("post", "1"), ("author", "B")).with_posts_of_authors(posts)
    assert built.counts == {"deleted": 2}
    buried = bury(posts, built)
    assert buried["text"].to_list() == ["", "", "three", "four"]
    assert buried["refused"].to_list() == ["deleted", "deleted", "repost", None]
    assert buried.select("parent_id", "root_id", "quote_of").rows() == [
        (None,) * 3,
        (None,) * 3,
        (None,) * 3,
        (None, "3", None),
    ]
    kept = buried.filter(pl.col("refused").is_null())
    (tmp_path / "posts").mkdir()
    kept.write_parquet(tmp_path / "posts/a.parquet")
    pl.DataFrame({"post_ids": [["4"], ["3", "4"]]}).write_parquet(tmp_path / "posts/b.parquet")
    assert prove(tmp_path, built)["found"] == 0
    pl.DataFrame({"post_ids": [["4"], ["3", "1"]]}).write_parquet(tmp_path / "posts/b.parquet")
    pl.DataFrame({"author_id": [pseudonym("b")]}).write_parquet(tmp_path / "posts/c.parquet")
    assert prove(tmp_path, built) == {
        "reasons": {"deleted": 2}, "files_searched": 3, "ids_searched": 6, "found": 2,
    }  # fmt: skip
