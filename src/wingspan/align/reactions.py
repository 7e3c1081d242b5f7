"""What readers did with replies -> which of two replies to one post was better, and why.

Engagement is not helpfulness: a pair is kept only where the two replies had the same chance and what speaks for one
is neither chance, nor length, nor fame, nor a few loud readers, nor outrage. docs/align.md has the method's limits.
"""

from __future__ import annotations

import math
from collections import Counter
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
IMPRESSION = "impression"

_EQUAL_EXPOSURE = 0.9  # the younger reply's time before readers, of the older one's
_LEAST_IMPRESSIONS = 100  # of each reply
_SAME_REACH = 4.0  # the authors' usual impressions differ at most by this factor
_SAME_LENGTH = 2.0  # and the replies' words by this one
_CERTAIN = 1.96  # standard errors between the two scores: one in forty by chance
_OUTRAGE = 0.05  # share of reactions against a reply from which it is never preferred
_BUSY_READER = 500  # reactions of one reader from which it is a machine
_PER_READER = 1.0  # what one reader's reactions of a kind to all posts of one author count together


Reply = dict[
    str, Any
]  # a post, with `score`, `variance`, `against`, `impressions`, `reach`, `seconds`, `words`, `bridging`


def reaction_preferences(posts: Path, reactions: Path) -> PreferencesRead:
    """Pairs of replies in prepare's posts, from its reactions; none where there are none.

    Likes and replies that posts come with are never used: without impressions they say who was seen.
    """
    if not any(reactions.glob("*.parquet")):
        return PreferencesRead([], Counter())
    shown = pl.read_parquet(posts / "train-*.parquet").sort("post_id")
    replies = _replies(shown, pl.read_parquet(reactions / "*.parquet").rename({"author_id": "reader_id"}))
    parents = dict(shown.select("post_id", "text").iter_rows())
    found: list[Preference] = []
    refused: Counter[str] = Counter()
    for parent, siblings in replies.items():
        used: set[str] = set()
        for older, younger in combinations(sorted(siblings, key=lambda one: -one["seconds"]), 2):
            if used & {older["post_id"], younger["post_id"]}:
                continue
            if why := _not_compared(older, younger):
                refused[why] += 1
                continue
            used |= {older["post_id"], younger["post_id"]}
            asked: tuple[Message, ...] = ({"role": "user", "content": parents[parent]},)
            ids, reason = (parent, younger["post_id"], older["post_id"]), _reason(older, younger)
            found.append(Preference(asked, younger["text"], older["text"], "reactions", reason, ids, "public posts"))
    return PreferencesRead(found, refused)


def _replies(posts: pl.DataFrame, reactions: pl.DataFrame) -> dict[str, list[Reply]]:
    """The replies with enough impressions to each post that is there, scored alike: per 1,000 impressions."""
    weights = pl.DataFrame({"signal": [*WEIGHTS], "weight": [*WEIGHTS.values()]})
    totals = (_guarded(reactions, posts).join(weights, on="signal").group_by("post_id")).agg(
        weighed=(pl.col("count") * pl.col("weight")).sum(),
        spread=(pl.col("square") * pl.col("weight") ** 2).sum(),
        against=pl.col("count").filter(pl.col("weight") < 0).sum() / pl.col("count").sum(),
    )
    bridging = bridging_scores(reactions.drop_nulls("reader_id"), WEIGHTS)
    impressions = reactions.filter(signal=IMPRESSION).group_by("post_id").agg(impressions=pl.col("count").sum())
    scored = (
        posts.join(impressions, on="post_id")
        .join(totals, on="post_id", how="left")
        .with_columns(pl.col("weighed", "spread", "against").fill_null(0.0))
        .with_columns(
            reach=pl.col("impressions").median().over("author_id"),
            words=pl.col("text").str.split(" ").list.len(),
            seconds=(pl.lit(posts["created_at"].max()) - pl.col("created_at")).dt.total_seconds(),
            score=1000 * pl.col("weighed") / pl.col("impressions"),
            variance=1e6 * pl.col("spread") / pl.col("impressions") ** 2,
            bridging=pl.col("post_id").replace_strict(bridging, default=None, return_dtype=pl.Float64),
        )
        .filter(pl.col("parent_id").is_in(posts["post_id"].implode()), pl.col("impressions") >= _LEAST_IMPRESSIONS)
        .drop_nulls(["author_id", "seconds"])
        .sort("post_id")
    )
    found: dict[str, list[Reply]] = {}
    for reply in scored.with_columns(score=_without_length(scored)).iter_rows(named=True):
        found.setdefault(reply["parent_id"], []).append(reply)
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


def _not_compared(older: Reply, younger: Reply) -> str | None:
    """Why the younger of two replies is not the better one of a pair; None where it is.

    Only the later one can win (as in SHP, Ethayarajh et al. 2022): the earlier had more time to be seen.
    """
    lead, error = younger["score"] - older["score"], math.sqrt(younger["variance"] + older["variance"])
    sides = older["bridging"], younger["bridging"]
    checks = {
        "by one author": older["author_id"] == younger["author_id"],
        "unequal exposure": younger["seconds"] < _EQUAL_EXPOSURE * older["seconds"],
        "unequal reach of the authors": not _within(older["reach"], younger["reach"], _SAME_REACH),
        "unequal length": not _within(older["words"], younger["words"], _SAME_LENGTH),
        "the earlier one leads": lead <= 0 or younger["seconds"] >= older["seconds"],
        "by chance": lead < _CERTAIN * error or error == 0,
        "outrage": younger["against"] >= _OUTRAGE,
        "liked by one side only": None not in sides and sides[1] <= sides[0],
    }
    return next((name for name, holds in checks.items() if holds), None)


def _reason(older: Reply, younger: Reply) -> str:
    scores, words, seen = ([one[name] for one in (younger, older)] for name in ("score", "words", "impressions"))
    error = math.sqrt(younger["variance"] + older["variance"])
    sides = [one["bridging"] for one in (younger, older) if one["bridging"] is not None]
    return (
        f"{older['seconds'] - younger['seconds']:,.0f} s later, yet {scores[0]:.1f} against {scores[1]:.1f} weighted "
        f"reactions in 1,000 impressions ({seen[0]:,.0f} and {seen[1]:,.0f}), {(scores[0] - scores[1]) / error:.1f} "
        f"standard errors apart; {words[0]} and {words[1]} words"
        + (f"; across viewpoints {sides[0]:+.2f} against {sides[1]:+.2f}" if len(sides) == 2 else "")
    )


def _within(first: float, second: float, factor: float) -> bool:
    return max(first, second) <= factor * min(first, second)
