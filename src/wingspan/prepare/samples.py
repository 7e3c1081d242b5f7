"""Posts that each rule dropped or tagged, for a person to judge the rule by; personal data is out of them already.

Of each rule the posts with the least hashes of seed and id: a sample that every batch can draw from its own posts
and that does not depend on how they were cut into batches.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from wingspan.errors import InputError
from wingspan.prepare.flow.flow import Dataset, Flow, frame_of, part_of, row_of
from wingspan.prepare.repeats.hashing import mixed, text_hashes

SAMPLES_FILE = "samples.parquet"
_PER_RULE = 100
_SHOWN = ("post_id", "author_id", "source", "lang", "text")


def write_samples(flow: Flow, posts: Dataset, outcome: Dataset, seed: int, target: Path) -> pl.DataFrame:
    """Write and return at most 100 posts per rule: `rule`, `dropped` (else only tagged), the post, what it repeats."""
    posts = posts.only(*_SHOWN)
    drawn = flow.map("samples", partial(_draw, seed), posts, outcome)
    found = _least(pl.concat([frame_of(table) for table in drawn.tables()]))
    repeated = [(None, None) if at is None else _post_at(posts, at) for at in found["repeats"]]
    repeats = pl.DataFrame(repeated, schema={"repeats": pl.String, "kept": pl.String}, orient="row")
    found = found.drop("repeats", "hash").hstack(repeats)
    found.write_parquet(target, compression="zstd")
    return found


def _draw(seed: int, posts: pa.Table, outcome: pa.Table) -> pa.Table:
    """The sample of this part: dropped posts under what dropped them, kept ones under each of their tags."""
    frame = frame_of(posts).hstack(frame_of(outcome.select(["refused", "repeats", "tags"])))
    frame = frame.with_columns(hash=mixed(text_hashes(frame["post_id"]) ^ np.uint64(seed)))
    frame = frame.filter(pl.col("text") != "")  # of the deleted and of those who opted out, no words are left
    columns = ["rule", "dropped", *_SHOWN, "repeats", "hash"]
    dropped = frame.filter(pl.col("refused").is_not_null()).with_columns(rule="refused", dropped=pl.lit(True))
    tagged = frame.filter(pl.col("refused").is_null()).explode("tags").drop_nulls("tags")
    tagged = tagged.with_columns(rule="tags", dropped=pl.lit(False))
    return _least(pl.concat([dropped.select(columns), tagged.select(columns)])).to_arrow()


def _least(frame: pl.DataFrame) -> pl.DataFrame:
    """Of each rule the posts with the least hashes."""
    ordered = frame.sort("rule", "dropped", "hash", "post_id", descending=[False, True, False, False])
    return ordered.group_by("rule", "dropped", maintain_order=True).head(_PER_RULE).select(frame.columns)


def _post_at(posts: Dataset, place: int) -> tuple[str, str]:
    """Id and text of a post."""
    (row,) = row_of(pl.Series([place], dtype=pl.UInt64))
    found: tuple[str, str] = frame_of(posts.parts[part_of(place)].load())[["post_id", "text"]].row(int(row))
    return found


def read_samples(folder: Path, rule: str | None, count: int) -> list[dict[str, Any]]:
    """At most `count` sampled posts of a prepared folder, of one rule or, without, of each.

    Raises InputError when nothing is prepared, or when no post was dropped or tagged by that rule.
    """
    path = folder / SAMPLES_FILE
    if not path.is_file():
        raise InputError("no posts are prepared", where=folder, remedy="Start with: wingspan prepare PROJECT")
    frame = pl.read_parquet(path)
    if rule is not None:
        known = frame["rule"].unique().sort().to_list()
        if rule not in known:
            raise InputError(
                f"no post was dropped or tagged by '{rule}'",
                where=path,
                remedy=f"Name one of: {', '.join(known)}" if known else "Nothing was dropped: there is nothing to see",
            )
        frame = frame.filter(pl.col("rule") == rule)
    return frame.group_by("rule", "dropped", maintain_order=True).head(count).select(frame.columns).to_dicts()
