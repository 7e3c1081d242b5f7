"""Replies that readers preferred: only the later one wins, and only for what is neither chance nor noise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from wingspan.align.bridging import bridging_scores
from wingspan.align.preferences import PreferencesRead
from wingspan.align.reactions import WEIGHTS, reaction_preferences

START = datetime(2020, 1, 1, tzinfo=UTC)


def post(post_id: str, minutes: float, author: str, text: str = "four words are here", **more: Any) -> dict[str, Any]:
    counted = {"likes": 0, "replies": 0, "reposts": 0}
    created = START + timedelta(minutes=minutes)
    return {
        "post_id": post_id,
        "author_id": author,
        "created_at": created,
        "text": text,
        "parent_id": "p",
        **counted,
    } | more


def reacted(post_id: str, signal: str, count: float, reader: str | None = None) -> dict[str, Any]:
    return {"post_id": post_id, "author_id": reader, "signal": signal, "count": float(count)}


def shown(**favorites: int) -> list[dict[str, Any]]:
    """1,000 impressions of each reply, and its favorites."""
    return [
        row
        for name, count in favorites.items()
        for row in (reacted(name, "impression", 1000), reacted(name, "favorite", count))
    ]


ROOT = post("p", -5, "asker", "what is good here", parent_id=None)
LAST = post("z", 60 * 24, "someone", parent_id=None)  # the platform goes on: exposure is counted up to here


def pairs(
    folder: Path, posts: list[dict[str, Any]], reactions: list[dict[str, Any]], *, raw: bool = False
) -> PreferencesRead:
    for name, rows in (("posts/train-00000", [ROOT, LAST, *posts]), ("reactions/r", reactions)):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        if rows:
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    return reaction_preferences(folder / "posts", folder / "reactions")


def test_the_later_reply_with_the_higher_score_wins_and_keeps_its_reason(tmp_path: Path) -> None:
    posts = [post("a", 0, "ann", "an answer of five words"), post("b", 30, "bob", "a better one of six words")]
    [one] = pairs(tmp_path, posts, shown(a=20, b=90)).preferences
    assert (one.chosen, one.rejected) == ("a better one of six words", "an answer of five words")
    assert one.messages == ({"role": "user", "content": "what is good here"},)
    assert one.post_ids == ("p", "b", "a")
    assert "1,800 s later, yet 45.0 against 10.0 weighted reactions in 1,000 impressions" in one.reason


@pytest.mark.parametrize(
    ("second", "reactions", "why"),
    [
        ({}, shown(a=90, b=20), "the earlier one leads"),
        ({}, shown(a=20, b=24), "by chance"),
        ({}, [*shown(a=20, b=90), reacted("b", "report", 10)], "the earlier one leads"),
        ({}, [*shown(a=20, b=900), reacted("b", "not_interested", 60)], "the earlier one leads"),
        ({"minutes": 60 * 12}, shown(a=20, b=90), "unequal exposure"),
        ({"author": "ann"}, shown(a=20, b=90), "by one author"),
        (
            {"text": "more than twice as many words as the other has"},
            shown(a=20, b=90),
            "unequal length",
        ),
        (
            {},
            [*shown(a=20), reacted("b", "impression", 9000), reacted("b", "favorite", 900)],
            "unequal reach of the authors",
        ),
    ],
)
def test_what_is_not_compared(
    tmp_path: Path, second: dict[str, Any], reactions: list[dict[str, Any]], why: str
) -> None:
    given = {"minutes": 30, "author": "bob"} | second
    found = pairs(tmp_path, [post("a", 0, "ann"), post("b", **given)], reactions)
    assert (found.preferences, dict(found.refused)) == ([], {why: 1})


def test_outrage_never_wins(tmp_path: Path) -> None:
    posts = [post("a", 0, "ann"), post("b", 30, "bob")]
    reactions = [*shown(a=1, b=20), reacted("b", "repost", 20), reacted("b", "copy_link", 30), reacted("b", "block", 4)]
    assert pairs(tmp_path, posts, reactions).refused == {"outrage": 1}


def test_likes_without_impressions_say_nothing(tmp_path: Path) -> None:
    posts = [post("a", 0, "ann", likes=20), post("b", 30, "bob", likes=90)]
    assert pairs(tmp_path, posts, []).preferences == []
    assert pairs(tmp_path, posts, [reacted("a", "favorite", 20), reacted("b", "favorite", 90)]).preferences == []


def test_a_brigade_and_a_machine_count_little(tmp_path: Path) -> None:
    others = [post(f"b{one}", 30, "bob", parent_id=None) for one in range(1, 400)]
    posts = [post("a", 0, "ann"), post("b0", 30, "bob"), *others]
    crowd = [reacted("b0", "favorite", 1, f"reader {one}") for one in range(40)]
    machine = [reacted(f"b{one % 400}", "favorite" if one < 400 else "reply", 1, "machine") for one in range(800)]
    brigade = [reacted(f"b{one}", "report", 1, "foe") for one in range(400)]  # all of an author's posts
    impressions = [reacted(name, "impression", 1000) for name in ("a", *(f"b{one}" for one in range(400)))]
    [one] = pairs(tmp_path, posts, [*impressions, reacted("a", "favorite", 8), *crowd, *machine, *brigade]).preferences
    assert one.chosen == "four words are here"
    assert "19.4 against 4.0" in one.reason, "40 readers; the foe's report counts a 400th"


def test_bridging_finds_what_both_sides_like() -> None:
    random = np.random.default_rng(3)
    liked = {"left": (0.9, 0.1), "right": (0.1, 0.9), "both": (0.8, 0.8), "none": (0.15, 0.15)}
    rows = []
    for reader in range(60):
        for topic in range(6):
            for kind, chances in liked.items():
                signal = "favorite" if random.random() < chances[reader % 2] else "mute"
                rows.append({"reader_id": f"r{reader}", "post_id": f"{kind}{topic}", "signal": signal})
    scores = bridging_scores(pl.DataFrame(rows), WEIGHTS)
    for topic in range(6):
        sides = max(scores[f"left{topic}"], scores[f"right{topic}"])
        assert scores[f"both{topic}"] > sides > scores[f"none{topic}"]


def test_what_one_side_likes_does_not_win(tmp_path: Path) -> None:
    posts = [post("a", 0, "ann"), post("b", 30, "bob"), *(post(f"t{n}", 60, f"x{n}", parent_id=None) for n in range(8))]
    rows = [reacted(name, "impression", 1000) for name in ("a", "b")]
    for reader in range(80):
        side = reader % 2
        rows += [reacted(f"t{n}", "favorite" if n % 2 == side else "not_interested", 1, f"r{reader}") for n in range(8)]
        rows += [reacted("a", "favorite", 1, f"r{reader}")] if reader < 20 else []
        rows += [reacted("b", "favorite", 1, f"r{reader}")] if side or reader < 12 else []
    rows += [reacted("b", "not_interested", 1, f"r{reader}") for reader in (20,)]
    assert pairs(tmp_path, posts, rows).preferences == []
