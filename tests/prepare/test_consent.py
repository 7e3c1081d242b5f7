"""Deletions and consent across networks, through the whole stage: what one source says holds for all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from generate_archives import json_lines, pack
from generate_networks import (
    ANNA,
    DID,
    OTHER,
    POST,
    account,
    account_event,
    bluesky_post,
    comment,
    commit,
    labels,
    mastodon_archive,
    repository,
    status,
    submission,
)
from wingspan.prepare.privacy.tombstones import SIGNALS

Prepare = Callable[..., tuple[Path, dict[str, Any]]]
LATER = 60_000_000  # microseconds


def said(number: int) -> str:
    """Words that no other number's are like, and the number."""
    letters = hashlib.sha256(str(number).encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))
    return " ".join(letters[at : at + 6] for at in range(0, 60, 6)) + f" number {number}"


@pytest.fixture
def network(
    platform: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[pl.DataFrame, dict[str, Any]]]:
    """Prepares these files, by the reader that they are for; returns the posts that stay, and the report."""
    monkeypatch.setenv("WINGSPAN_WORKERS", "1")
    names = (f"out{number}" for number in range(9))

    def run(files: dict[str, Any], **settings: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
        sources = []
        for number, (reader, content) in enumerate(files.items()):
            name = f"{number}.{'car' if reader == 'bluesky-car' else 'zip' if isinstance(content, dict) else 'jsonl'}"
            if isinstance(content, dict):
                pack(content, platform / name)
            else:
                (platform / name).write_bytes(content if isinstance(content, bytes) else json_lines(content))
            sources.append({"name": f"s{number}", "path": name, "licence": "made up", "reader": reader})
        output, report = prepare(next(names), posts=sources, labels=[], held_out=0.3, **settings)
        assert report["tombstones"]["found"] == 0
        assert report["read"] == report["kept"] + sum(report["refused"].values()) + report["damaged"]
        return pl.read_parquet(output / "posts/*.parquet"), report

    return run


def texts(posts: pl.DataFrame) -> set[int]:
    return {int(text.rpartition(" ")[2]) for text in posts["text"]}


def test_what_a_stream_takes_back_goes_from_repositories_too(network: Any) -> None:
    repositories = {f"{POST}/{number}": bluesky_post(said(number)) for number in range(20)}
    stream = [
        commit("3", None),  # one of the repository, deleted since
        *(commit(f"o{number}", bluesky_post(said(number)), OTHER) for number in range(20, 30)),
        account_event(OTHER, False, 5, "deactivated"),
        commit("4", bluesky_post(said(94)), operation="update"),
        commit("n", bluesky_post(said(40), labels=labels("!no-unauthenticated")), "did:plc:third"),
        commit("r", bluesky_post(said(41), reply={"parent": {"uri": f"at://{OTHER}/{POST}/o21"}}), "did:plc:third"),
    ]
    files = {"bluesky-car": repository(repositories)[0], "bluesky-jetstream": stream}
    posts, report = network(files)
    assert texts(posts) == {*range(20), 94, 41} - {3, 4}
    assert posts["parent_id"].null_count() == len(posts)
    assert report["refused"]["account gone"] == 10
    assert report["refused"]["no-unauthenticated"] == 1
    assert (report["refused"]["deleted"], report["refused"]["repeated id"]) == (1, 1)
    stream.append(account_event(OTHER, True, LATER))
    assert set(range(20, 30)) <= texts(network(files)[0])


def test_a_profile_that_says_no_is_heard_in_every_source(network: Any) -> None:
    archive, expected = mastodon_archive()
    wary = account("anna", indexable=False)
    others = [status(number, f"<p>{said(number)}</p>", account("ben")) for number in range(30)]
    pages = {"mastodon-archive": archive, "mastodon-api": [*others, status(5000, f"<p>{said(31)}</p>", wary)]}
    posts, report = network(pages)
    assert texts(posts) == set(range(30))
    assert report["refused"]["indexable"] == len(expected.kept) + 1
    assert report["tombstones"]["reasons"] == {"indexable": 1}
    posts, _ = network(pages, consent=[one for one in SIGNALS if one != "indexable"])
    assert f"{ANNA}/statuses/5000" in posts["post_id"].to_list()


def test_own_lists_name_people_and_places_on_any_network(network: Any, platform: Path) -> None:
    (platform / "out.txt").write_text(f"@ben@fedi.example\ndomain:left.example\nauthor:ASKER\nat://{DID}/*\n")
    statuses = [
        *(status(number, f"<p>{said(number)}</p>", account("ben")) for number in range(3)),
        *(status(number, f"<p>{said(number)}</p>", account("cleo", "left.example")) for number in range(3, 6)),
        *(status(number, f"<p>{said(number)}</p>", account("dora")) for number in range(6, 30)),
    ]
    files = {
        "mastodon-api": statuses,
        "reddit": [submission(1, said(30)), comment(2, said(31))],
        "bluesky-jetstream": [commit("a", bluesky_post(said(32)))],
    }
    posts, report = network(files, opt_outs="out.txt")
    assert texts(posts) == {*range(6, 30), 31}
    assert report["refused"]["opted out"] == 8
