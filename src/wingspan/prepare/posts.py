"""The steps that every post goes through, as frame -> frame.

A refused post is marked with the reason, not taken away: so the funnel adds up by construction, and what
each rule removed can be shown. Steps after the mark see only posts that are still kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa

from wingspan.post import POST_SCHEMA, TOMBSTONE_SCHEMA
from wingspan.prepare.cleaning import clean
from wingspan.prepare.duplicates import find_duplicates
from wingspan.prepare.language import detect
from wingspan.prepare.personal import remove_personal_data
from wingspan.prepare.pseudonyms import pseudonymise
from wingspan.prepare.readers.registry import read_posts
from wingspan.prepare.split import split_of
from wingspan.progress import Task
from wingspan.project import PostSource, Prepare

KEPT = pl.col("refused").is_null()


@dataclass
class SourceCount:
    """What became of a source's records before any step: read = posts + refused + damaged."""

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    damaged: int = 0


def read_source(source: PostSource, path: Path, task: Task) -> tuple[pl.DataFrame, SourceCount, pl.DataFrame]:
    """All posts of a source in POST_SCHEMA's columns and `refused` (null: kept), counts, rows of TOMBSTONE_SCHEMA."""
    count = SourceCount()
    tables, notices = [POST_SCHEMA.empty_table()], [TOMBSTONE_SCHEMA.empty_table()]
    for batch in read_posts(source, path):
        count.read += batch.read
        count.refused.update(batch.refused)
        count.damaged += batch.damaged
        tables.append(batch.posts)
        notices.append(batch.tombstones)
        task.advance(batch.read, source.name)
    frame, said = (pl.DataFrame(pa.concat_tables(some)) for some in (tables, notices))
    return frame.with_columns(refused=pl.lit(None, dtype=pl.String)), count, said


def in_order(posts: pl.DataFrame) -> pl.DataFrame:
    """By id, the shorter first: numeric ids then stand in numeric order, which is the order of time."""
    return posts.sort(pl.col("post_id").str.len_chars(), "post_id", maintain_order=True)


def refuse(posts: pl.DataFrame, reason: str, condition: pl.Expr) -> pl.DataFrame:
    """Mark posts that are still kept and meet `condition`."""
    return posts.with_columns(refused=pl.when(KEPT & condition).then(pl.lit(reason)).otherwise("refused"))


def refuse_repeats(posts: pl.DataFrame) -> pl.DataFrame:
    """A post that several sources or archives hold is kept once; reposts are not their author's words."""
    posts = refuse(posts, "repost", pl.col("repost_of").is_not_null())
    repeated = pl.int_range(pl.len()).over("post_id", pl.col("refused").is_null()) > 0
    return refuse(posts, "repeated id", repeated)


def clean_posts(posts: pl.DataFrame, settings: Prepare) -> pl.DataFrame:
    """Plain text; what is then too short is refused."""
    posts = posts.with_columns(text=clean(posts["text"]))
    shortest = max(1, settings.min_characters)
    return refuse(posts, "too short", pl.col("text").str.len_chars() < shortest)


def choose_split(posts: pl.DataFrame, seed: int, held_out: float) -> pl.DataFrame:
    """Column `split`, by the author where it is known, else by the post; needs the platform's own ids."""
    keys = posts.select(pl.coalesce("author_id", "post_id"))["author_id"]
    return posts.with_columns(split_of(keys, seed, held_out))


def protect_people(posts: pl.DataFrame, pseudonym: Callable[[str], str]) -> tuple[pl.DataFrame, Counter[str]]:
    """Texts without personal data, authors and mentions as pseudonyms; links and image texts go unused, so they go."""
    texts, counts = remove_personal_data(posts["text"], pseudonym)
    mentioned = posts["mentions"].explode().drop_nulls().unique(maintain_order=True)
    names = pl.Series([pseudonym(name.removeprefix("@")) for name in mentioned], dtype=pl.String)
    return posts.with_columns(
        pl.col("mentions").list.eval(pl.element().replace(mentioned, names)),
        text=texts,
        author_id=pseudonymise(posts["author_id"], pseudonym),
        urls=pl.lit(None, dtype=pl.List(pl.String)),
        alt_text=pl.lit(None, dtype=pl.List(pl.String)),
    ), counts


def refuse_duplicates(posts: pl.DataFrame, similarity: float) -> pl.DataFrame:
    """Exact and near duplicates refused, the first row of a group kept; column `repeats` is its id."""
    posts = posts.with_row_index("row")
    kept = posts.filter(KEPT)
    found = find_duplicates(kept["text"], similarity)
    marks = pl.DataFrame(
        {"row": kept["row"], "repeats": kept["post_id"].gather(found["first"]), "exact": found["exact"]}
    )
    posts = posts.join(marks, on="row", how="left", maintain_order="left").drop("row")
    posts = refuse(posts, "duplicate", pl.col("repeats").is_not_null() & pl.col("exact"))
    return refuse(posts, "near duplicate", pl.col("repeats").is_not_null()).drop("exact")


def add_language(posts: pl.DataFrame) -> pl.DataFrame:
    """Column `lang`."""
    return posts.with_columns(detect(posts))


def iter_texts(posts: pl.DataFrame) -> Iterator[str]:
    """Texts of a frame, batch by batch."""
    for batch in posts.iter_slices(50_000):
        yield from batch["text"]
