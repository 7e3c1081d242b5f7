"""What readers did with posts: read, joined to the posts that stayed, readers as pseudonyms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from wingspan.errors import InputError
from wingspan.prepare.privacy.pseudonyms import pseudonymise
from wingspan.prepare.privacy.tombstones import Tombstones
from wingspan.prepare.split import SPLITS
from wingspan.workspace import StageContext

_SCANS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".csv": pl.scan_csv, ".parquet": pl.scan_parquet, ".jsonl": pl.scan_ndjson, ".ndjson": pl.scan_ndjson,
}  # fmt: skip


def publish_reactions(
    context: StageContext, pseudonym: Callable[[str], str], stones: Tombstones
) -> list[dict[str, Any]]:
    """Write reactions/NAME.parquet: post_id, author_id (the reader's pseudonym, or null), signal, count.

    Returns what became of each source's rows. Readers who opted out or are gone are left out with all they did.
    """
    counts = []
    posts = pl.concat(
        [pl.scan_parquet(context.output / f"posts/{split}-*.parquet").select("post_id") for split in SPLITS]
    )
    for source in context.project.prepare.reactions:
        rows = _read(context.run.outside(source.path), source.name)
        kept = rows.join(posts.collect(), on="post_id", how="semi", maintain_order="left")
        kept = kept.with_columns(author_id=pseudonymise(kept["author_id"], pseudonym))
        kept = kept.filter(stones.of_authors(kept["author_id"]).is_null())
        path = context.output / f"reactions/{source.name}.parquet"
        path.parent.mkdir(exist_ok=True)
        kept.write_parquet(path, compression="zstd")
        counts.append({"name": source.name, "licence": source.licence, "read": rows.height, "kept": kept.height})
    return counts


def _read(path: Path, name: str) -> pl.DataFrame:
    """Rows of a file of reactions; raises InputError for another format or a column that is not there."""
    where = f"prepare.reactions '{name}'"
    if path.suffix not in _SCANS:
        raise InputError(f"'{path.suffix}' is no format of reactions", where=where, remedy=f"Use {', '.join(_SCANS)}")
    rows = _SCANS[path.suffix](path)
    there = rows.collect_schema().names()
    if missing := {"post_id", "signal", "count"} - set(there):
        raise InputError(
            f"the file has no column {', '.join(sorted(missing))}", where=path, remedy="Give post_id, signal, count"
        )
    reader = pl.col("reader_id") if "reader_id" in there else pl.lit(None)
    chosen = rows.select(
        pl.col("post_id").cast(pl.String), reader.cast(pl.String).alias("author_id"),
        pl.col("signal").cast(pl.String), pl.col("count").cast(pl.Float64),
    )  # fmt: skip
    return chosen.drop_nulls(["post_id", "signal", "count"]).filter(pl.col("count") > 0).collect()
