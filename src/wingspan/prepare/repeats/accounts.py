"""What many posts have in common: accounts that flood or repeat themselves, templates, and texts that go round.

An exchange by key brings together the posts of an author, of a text and of an opening. Each rule looks at whole
groups, so the result depends on no order and no batch.
"""

from __future__ import annotations

from functools import partial

import polars as pl
import pyarrow as pa

from wingspan.prepare.flow.flow import Dataset, Flow, frame_of, keyed_by_part, place, row_of
from wingspan.prepare.repeats.hashing import text_hashes
from wingspan.project import Prepare

ACCOUNT_RULES = ("flooding account", "repeating account", "linking account", "template", "copypasta")

_FEWEST_POSTS = 20  # of an account, below which its habits are not judged
_COPIED_WORDS, _COPYING_ACCOUNTS = 8, 5
_TEMPLATE_POSTS, _TEMPLATE_SHARE = 30, 1e-4  # of all posts
_AUTHOR, _TEXT, _OPENING = range(3)
_TRACED = ("author_id", "created_at", "skeleton", "opening", "words", "linked", "refused")


def judge_groups(flow: Flow, posts: Dataset, settings: Prepare) -> Dataset:
    """For each part of `posts` (quality.judge's columns, author_id, created_at, refused): `row`, `tag`."""
    parts = len(posts.parts)
    traces = flow.exchange("traces", _traces, range(parts), posts.only(*_TRACED), parts=flow.buckets(3 * posts.rows))
    judged = flow.exchange("habits", partial(_judged, settings, posts.rows), traces, parts=parts)
    return flow.map("habits-by-post", _first_of_each, judged)


def _traces(part: int, posts: pa.Table) -> pa.Table:
    """Of each kept post a row for its author, its text, and its opening where it has a link."""
    frame = frame_of(posts).with_row_index("row").filter(pl.col("refused").is_null())
    shared = frame.select(
        author=pl.when(pl.col("author_id").is_not_null()).then(pl.Series(text_hashes(frame["author_id"]))),
        at=pl.Series(place(part, frame["row"])),
        day=pl.col("created_at").dt.date(),
        text=pl.col("skeleton"),
        opening=pl.col("opening"),
        words=pl.col("words"),
        linked=pl.col("linked"),
    )
    return pl.concat(
        [
            shared.filter(pl.col("author").is_not_null()).with_columns(key="author", kind=pl.lit(_AUTHOR, pl.Int8)),
            shared.filter(pl.col("words") >= _COPIED_WORDS).with_columns(key="text", kind=pl.lit(_TEXT, pl.Int8)),
            shared.filter(pl.col("linked") & (pl.col("opening") != 0)).with_columns(
                key="opening", kind=pl.lit(_OPENING, pl.Int8)
            ),
        ]
    ).to_arrow()


def _judged(settings: Prepare, posts: int, traces: pa.Table) -> pa.Table:
    """Places and tags of the posts of the groups that meet a rule, moved to their parts."""
    frame = frame_of(traces)
    fewest_posts = {  # of a group that can meet a rule: most groups are smaller, and looked at no further
        _AUTHOR: min(_FEWEST_POSTS, settings.account_posts_per_day + 1),
        _TEXT: _COPYING_ACCOUNTS,
        _OPENING: _TEMPLATE_POSTS,
    }
    kinds = [frame.filter(pl.col("kind") == kind) for kind in fewest_posts]
    authors, texts, openings = (
        rows.filter(pl.len().over("key") >= least) for rows, least in zip(kinds, fewest_posts.values(), strict=True)
    )
    many = pl.len() >= _FEWEST_POSTS
    habits = authors.group_by("key").agg(
        flooding=(
            pl.col("day").drop_nulls().value_counts().struct.field("count").max() > settings.account_posts_per_day
        ),
        repeating=many & (10 * pl.col("text").n_unique() <= 3 * pl.len()),
        linking=many & (20 * pl.col("linked").sum() >= 19 * pl.len()),
    )
    copied = texts.group_by("key").agg(met=pl.col("author").drop_nulls().n_unique() >= _COPYING_ACCOUNTS)
    fewest = max(_TEMPLATE_POSTS, _TEMPLATE_SHARE * posts)
    templates = openings.group_by("key").agg(met=pl.col("text").n_unique() >= fewest)
    met = (
        *((authors, habits.filter(name)) for name in ("flooding", "repeating", "linking")),
        (openings, templates.filter("met")),
        (texts, copied.filter("met")),
    )
    found = pl.concat(
        [
            rows.join(groups, on="key", how="semi").select("at", rule=pl.lit(number, pl.Int8))
            for number, (rows, groups) in enumerate(met)
        ]
    )
    return keyed_by_part(found, found["at"])


def _first_of_each(judged: pa.Table) -> pa.Table:
    """Of the rules that a post's groups meet, the first."""
    first = frame_of(judged).group_by("at").agg(pl.col("rule").min()).sort("at")
    tags = pl.Series(ACCOUNT_RULES).gather(first["rule"])
    return pa.table({"row": pa.array(row_of(first["at"])), "tag": tags.to_arrow()})
