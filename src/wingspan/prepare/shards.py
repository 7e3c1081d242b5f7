"""Posts as they are published: Parquet shards of each split, which the steps after them read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wingspan.post import POST_SCHEMA
from wingspan.prepare.flow.flow import Dataset, Flow, Part, Tally, frame_of, published, tallied
from wingspan.prepare.posts import KEPT, counts

PUBLISHED_SCHEMA = POST_SCHEMA.append(pa.field("lang", pa.string())).append(pa.field("tags", pa.list_(pa.string())))


@dataclass(frozen=True)
class Cut:
    """The posts of a shard: of a split's kept posts in these parts, `take` after the first `skip`."""

    posts: tuple[Part, ...]
    outcome: tuple[Part, ...]
    skip: int
    take: int


def publish_posts(flow: Flow, folder: Path, split: str, posts: Dataset, outcome: Dataset, most: int) -> Dataset:
    """Write the kept posts of a split as shards of `most`, in order; returns them, a row group a part."""
    cuts = _cuts(posts, outcome, split, most)
    names = [folder / f"{split}-{number:05d}.parquet" for number in range(len(cuts))]
    written = flow.map(f"posts-{split}", partial(_write, split), names, cuts)
    return published(folder, written)


def _cuts(posts: Dataset, outcome: Dataset, split: str, most: int) -> list[Cut]:
    kept = [sum(piece.tally["split"].get(split, 0) for piece in part.pieces) for part in outcome.parts]
    cuts, begin, before = [], 0, 0  # the first part of the shard, and the kept posts in the parts before it
    for start in range(0, max(1, sum(kept)), most):
        while begin < len(kept) - 1 and before + kept[begin] <= start:
            before += kept[begin]
            begin += 1
        end, here = begin, before
        while end < len(kept) and here < start + most:
            here += kept[end]
            end += 1
        cuts.append(Cut(posts.parts[begin:end], outcome.parts[begin:end], start - before, most))
    return cuts


def _write(split: str, path: Path, cut: Cut) -> list[pa.Table]:
    """Write a shard; a row for each row group: `file`, `batch`, `rows`, and counts of what is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with pq.ParquetWriter(temporary, PUBLISHED_SCHEMA, compression="zstd") as writer:
        written = []
        for batch, frame in enumerate(_batches(split, cut)):
            writer.write_table(frame.select(PUBLISHED_SCHEMA.names).to_arrow().cast(PUBLISHED_SCHEMA))
            row = pa.table({"file": [path.name], "batch": [batch], "rows": [frame.height]})
            written.append(tallied(row, _profile(frame)))
    temporary.replace(path)
    return written


def _batches(split: str, cut: Cut) -> Iterator[pl.DataFrame]:
    skip, left = cut.skip, cut.take
    for posts, outcome in zip(cut.posts, cut.outcome, strict=True):
        ended = frame_of(outcome.load())
        frame = frame_of(posts.load()).with_columns(ended["refused"], ended["tags"])
        frame = frame.filter(KEPT & (pl.col("split") == split))[skip : skip + left]
        skip, left = 0, left - frame.height
        yield frame


def _profile(posts: pl.DataFrame) -> Tally:
    name, length = pl.format("{}/{}", "source", "lang"), pl.col("text").str.len_bytes().sum()
    return {
        "languages": counts(posts, "lang"),
        "lengths": counts(posts.select(pl.col("text").str.len_chars().cast(pl.String)), "text"),
        "bytes": int(posts.select(length).item()),
        "text": dict(posts.group_by(name=name).agg(length).iter_rows()),
    }
