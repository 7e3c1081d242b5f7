"""What readers did with replies -> which of two replies to one post was better, and why.

Engagement is not helpfulness: a pair is kept only where the two replies had the same chance and what speaks for one
is neither chance, nor length, nor fame, nor a few loud readers, nor outrage. docs/align.md has the method's limits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wingspan.align.bridging import bridging_scores
from wingspan.align.preferences import Preference, PreferencesRead
from wingspan.model.chat import Message

# What X published of its own ranking (home-mixer/params, August 2026): weight of each reaction in a post's score.
WEIGHTS = {
    "favorite": 0.5, "reply": 5.0, "repost": 1.0, "quote": 5.0, "share": 2.0, "share_dm": 5.0, "copy_link": 20.0,
    "follow_author": 4.0, "click": 0.4, "not_interested": -43.2, "mute": -58.8, "block": -31.2, "report": -234.0,
}  # fmt: skip
AGAINST = [name for name, weight in WEIGHTS.items() if weight < 0]
IMPRESSION = "impression"

_EQUAL_EXPOSURE = 0.9  # the younger reply's time before readers, of the older one's
_LEAST_IMPRESSIONS = 100  # of each reply
_SAME_REACH = 4.0  # the authors' usual impressions differ at most by this factor
_SAME_LENGTH = 2.0  # and the replies' words by this one
_CERTAIN = 1.96  # standard errors between the two scores: one in forty by chance
_OUTRAGE = 0.05  # share of reactions against a reply from which it is never preferred
_BUSY_READER = 500  # reactions of one reader from which it is a machine
_PER_READER = 1.0  # what one reader's reactions of a kind to all posts of one author count together


@dataclass(frozen=True)
class _Reply:
    """A reply, what readers made of it per 1,000 impressions (and the variance), and by whose taste (None: unknown)."""

    post_id: str
    author: str
    reach: float
    seconds: float  # before readers
    words: int
    text: str
    score: float
    variance: float
    against: float  # share of the reactions
    impressions: float
    bridging: float | None


def reaction_preferences(posts: Path, reactions: Path, *, raw: bool) -> PreferencesRead:
    """Pairs of replies in prepare's posts, from its reactions; none where there are none.

    `raw` takes likes, replies and reposts of the posts themselves, without impressions, where no reactions are.
    """
    files = sorted(posts.glob("train-*.parquet"))
    known = sorted(reactions.glob("*.parquet"))
    if not files or not (known or raw):
        return PreferencesRead([], Counter())
    shown = pl.concat([pl.read_parquet(file) for file in files]).sort("post_id")
    counts = pl.concat([pl.read_parquet(file) for file in known]) if known else _raw(shown)
    counts = counts.rename({"author_id": "reader_id"})
    replies = _replies(shown, counts)
    parents = dict(shown.select("post_id", "text").iter_rows())
    found: list[Preference] = []
    refused: Counter[str] = Counter()
    for parent, siblings in replies.items():
        used: set[str] = set()
        for first, second in combinations(sorted(siblings, key=lambda one: -one.seconds), 2):
            if used & {first.post_id, second.post_id}:
                continue
            verdict = _compare(first, second)
            if isinstance(verdict, str):
                refused[verdict] += 1
                continue
            better, worse, reason = verdict
            used |= {better.post_id, worse.post_id}
            asked: tuple[Message, ...] = ({"role": "user", "content": parents[parent]},)
            ids = (parent, better.post_id, worse.post_id)
            found.append(Preference(asked, better.text, worse.text, "reactions", reason, ids, "public posts"))
    return PreferencesRead(found, refused)


def _raw(posts: pl.DataFrame) -> pl.DataFrame:
    """Public counts of posts as reactions of nobody in particular; every post counts as equally shown."""
    names = {"likes": "favorite", "replies": "reply", "reposts": "repost"}
    counted = posts.select("post_id", *(pl.col(name).alias(signal) for name, signal in names.items()))
    counted = counted.with_columns(pl.lit(10 * _LEAST_IMPRESSIONS).alias(IMPRESSION))
    long = counted.unpivot(index="post_id", variable_name="signal", value_name="count").drop_nulls()
    return long.with_columns(pl.col("count").cast(pl.Float64), author_id=pl.lit(None, dtype=pl.String))


def _replies(posts: pl.DataFrame, reactions: pl.DataFrame) -> dict[str, list[_Reply]]:
    """The replies with enough impressions to each post that is there, scored alike."""
    latest = posts["created_at"].max()
    weights = pl.DataFrame({"signal": [*WEIGHTS], "weight": [*WEIGHTS.values()]})
    given = _guarded(reactions, posts).join(weights, on="signal")
    totals = given.group_by("post_id").agg(
        weighed=(pl.col("count") * pl.col("weight")).sum(),
        spread=(pl.col("square") * pl.col("weight") ** 2).sum(),
        against=pl.col("count").filter(pl.col("weight") < 0).sum() / pl.col("count").sum(),
    )
    impressions = reactions.filter(signal=IMPRESSION).group_by("post_id").agg(impressions=pl.col("count").sum())
    scored = (
        posts.join(impressions, on="post_id")
        .join(totals, on="post_id", how="left")
        .with_columns(pl.col("weighed", "spread", "against").fill_null(0.0))
        .with_columns(
            reach=pl.col("impressions").median().over("author_id"),
            words=pl.col("text").str.split(" ").list.len(),
            seconds=(pl.lit(latest) - pl.col("created_at")).dt.total_seconds(),
            score=1000 * pl.col("weighed") / pl.col("impressions"),
            variance=1e6 * pl.col("spread") / pl.col("impressions") ** 2,
        )
        .filter(pl.col("parent_id").is_in(posts["post_id"].implode()), pl.col("impressions") >= _LEAST_IMPRESSIONS)
        .drop_nulls(["author_id", "seconds"])
        .sort("post_id")
    )
    bridging = bridging_scores(reactions.drop_nulls("reader_id"), WEIGHTS)
    found: dict[str, list[_Reply]] = {}
    for row, score in zip(scored.iter_rows(named=True), _without_length(scored), strict=True):
        reply = _Reply(
            row["post_id"], row["author_id"], row["reach"], row["seconds"], row["words"], row["text"], float(score),
            row["variance"], row["against"], row["impressions"], bridging.get(row["post_id"]),
        )  # fmt: skip
        found.setdefault(row["parent_id"], []).append(reply)
    return found


def _guarded(reactions: pl.DataFrame, posts: pl.DataFrame) -> pl.DataFrame:
    """Reactions without those of machines; a reader counts once a post and kind, and little on one author's posts.

    `square` is the variance of `count`: counts vary as Poisson's do, a known reader reacts or does not.
    """
    told = reactions.filter(pl.col("signal") != IMPRESSION)
    unknown = told.filter(pl.col("reader_id").is_null()).select("post_id", "signal", "count", square="count")
    readers = told.drop_nulls("reader_id").unique(["reader_id", "post_id", "signal"], maintain_order=True)
    readers = readers.filter(pl.len().over("reader_id") <= _BUSY_READER)
    of_author = readers.join(posts.select("post_id", "author_id"), on="post_id")
    share = (_PER_READER / pl.len().over("reader_id", "author_id", "signal")).clip(upper_bound=1.0)
    return pl.concat([unknown, of_author.select("post_id", "signal", count=share, square=share**2)])


def _without_length(replies: pl.DataFrame) -> NDArray[Any]:
    """Scores less what the logarithm of length explains of them, by least squares."""
    score: NDArray[Any] = replies["score"].to_numpy()
    length = np.log(replies["words"].to_numpy().clip(min=1))
    if len(score) < 3 or np.ptp(length) == 0:
        return score
    slope, _ = np.polyfit(length, score, 1)
    rest: NDArray[Any] = score - slope * (length - length.mean())
    return rest


def _compare(older: _Reply, younger: _Reply) -> tuple[_Reply, _Reply, str] | str:
    """The better and the worse of two replies with the reason, or why they are not compared.

    Only the later one can win (as in SHP, Ethayarajh et al. 2022): the earlier had more time to be seen.
    """
    lead = younger.score - older.score
    error = float(np.hypot(younger.variance**0.5, older.variance**0.5))
    checks = {
        "by one author": older.author == younger.author,
        "unequal exposure": younger.seconds < _EQUAL_EXPOSURE * older.seconds,
        "unequal reach of the authors": not _within(older.reach, younger.reach, _SAME_REACH),
        "unequal length": not _within(older.words, younger.words, _SAME_LENGTH),
        "the earlier one leads": lead <= 0 or younger.seconds >= older.seconds,
        "by chance": lead < _CERTAIN * error or error == 0,
        "outrage": younger.against >= _OUTRAGE,
    }
    if older.bridging is not None and younger.bridging is not None:
        checks["liked by one side only"] = younger.bridging <= older.bridging
    if refused := next((name for name, holds in checks.items() if holds), None):
        return refused
    reason = (
        f"{older.seconds - younger.seconds:,.0f} s later, yet {younger.score:.1f} against {older.score:.1f} weighted "
        f"reactions in 1,000 impressions ({younger.impressions:,.0f} and {older.impressions:,.0f}), "
        f"{lead / error:.1f} standard errors apart; {younger.words} and {older.words} words"
    )
    if younger.bridging is not None and older.bridging is not None:
        reason += f"; across viewpoints {younger.bridging:+.2f} against {older.bridging:+.2f}"
    return younger, older, reason


def _within(first: float, second: float, factor: float) -> bool:
    return max(first, second) <= factor * min(first, second)
