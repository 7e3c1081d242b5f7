"""Deleted posts and people who opted out: one global set, applied to all sources at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from wingspan.prepare.readers.records import text_lines

_LINKS = ("parent_id", "root_id", "quote_of")


@dataclass(frozen=True)
class Tombstones:
    """Ids that must not be used: posts that a source marks as deleted, posts and authors that opted out."""

    deleted: frozenset[str]
    opted_out: frozenset[str]


def collect_tombstones(posts: pl.DataFrame, opt_outs: Path | None) -> Tombstones:
    """The global set. `opt_outs` has one post or author id per line; blank lines and `#` comments are skipped."""
    deleted = posts.filter(pl.col("deleted_at").is_not_null())["post_id"]
    lines = (line.strip() for line in text_lines(opt_outs)) if opt_outs else ()
    return Tombstones(frozenset(deleted), frozenset(line for line in lines if line and not line.startswith("#")))


def bury(posts: pl.DataFrame, tombstones: Tombstones) -> pl.DataFrame:
    """`posts` with tombstoned ones refused, whatever source they are from; their words and links to them are gone."""
    deleted, opted_out = (pl.Series(sorted(ids), dtype=pl.String) for ids in (tombstones.deleted, tombstones.opted_out))
    gone = pl.concat([deleted, opted_out]).unique()
    reason = (
        pl.when(pl.col("post_id").is_in(opted_out.implode()) | pl.col("author_id").is_in(opted_out.implode()))
        .then(pl.lit("opted out"))
        .when(pl.col("post_id").is_in(deleted.implode()))
        .then(pl.lit("deleted"))
    )
    posts = posts.with_columns(
        refused=pl.coalesce(reason, "refused"), text=pl.when(reason.is_null()).then("text").otherwise(pl.lit(""))
    )
    buried = pl.concat([gone, posts.filter(pl.col("refused").is_in(["opted out", "deleted"]))["post_id"]]).unique()
    return posts.with_columns(pl.when(~pl.col(link).is_in(buried.implode())).then(pl.col(link)) for link in _LINKS)
