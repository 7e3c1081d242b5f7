"""Files without what was forgotten: each is copied into a draft only if it changes.

Files are known by the names of their columns and keys, not by who wrote them, so that none is left out. Of token
shards the forgotten places are overwritten and stay as holes: no other post moves, so the ledger of a training run
can still be read, and an unfinished one goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wingspan.prepare.privacy.tombstones import LINKS, POST_COLUMNS, Tombstones, search
from wingspan.workspace import file_hash

_SHARD = ".documents.parquet"


def rewrite(folder: Path, draft: Path, stones: Tombstones) -> Counter[str]:
    """Write to `draft` what changes below `folder`; returns what goes: rows by kind of file, links, JSON entries."""
    gone: Counter[str] = Counter()
    for file in sorted(folder.rglob("*")):
        target = draft / file.relative_to(folder)
        if file.suffix == ".parquet" and not search(file, stones)[1]:
            continue
        if file.name.endswith(_SHARD):
            gone += _empty_places(file, target, stones)
        elif file.suffix == ".parquet":
            kind = file.relative_to(folder).parts[0].removesuffix(".parquet")
            gone += _drop_rows(file, target, stones, "lookups" if kind == "tokens" else kind)
        elif file.suffix in (".json", ".jsonl") and file.name not in ("manifest.json", "tokenizer.json"):
            gone += _drop_entries(file, target, stones)
    return gone


def _drop_rows(file: Path, target: Path, stones: Tombstones, kind: str) -> Counter[str]:
    """A table without rows that are or rest on something forgotten, and without links to it; row group by row group."""
    gone: Counter[str] = Counter()
    parquet = pq.ParquetFile(file)
    kept: list[pa.Table] = []
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group)
        stays, links = _mask(table, stones), 0
        for name in set(LINKS) & set(table.column_names):
            reasons = stones.of_posts(pl.Series(table[name]))
            if hits := len(reasons) - reasons.null_count():
                links += hits
                at, linked = table.column_names.index(name), pa.array(reasons.is_null())
                table = table.set_column(at, table.schema.field(at), pc.if_else(linked, table[name], None))
        gone += Counter({kind: int((~stays).sum()), "links": links})
        kept.append(table.filter(pa.array(stays)))
    _write(target, kept, parquet.schema_arrow)
    return +gone


def _mask(table: pa.Table, stones: Tombstones) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of a table stay."""
    stays = np.ones(len(table), dtype=np.bool_)
    for name in {"post_id", "repost_of", "repeats"} & set(table.column_names):
        stays &= stones.of_posts(pl.Series(table[name])).is_null().to_numpy()
    if "author_id" in table.column_names:
        stays &= stones.of_authors(pl.Series(table["author_id"])).is_null().to_numpy()
    if "post_ids" in table.column_names:
        rests = pl.DataFrame({"row": range(len(table)), "id": pl.Series(table["post_ids"])}).explode("id")
        stays[rests["row"].filter(stones.of_posts(rests["id"]).is_not_null()).to_numpy()] = False
    return stays


def _empty_places(file: Path, target: Path, stones: Tombstones) -> Counter[str]:
    """A shard whose forgotten documents are nothing but ends of documents, and have neither id nor bytes."""
    table = pq.read_table(file)
    gone = stones.of_posts(pl.Series(table["post_id"])).is_not_null()
    documents = pl.DataFrame(table)
    draft = target.with_name("index.json")
    index = json.loads((draft if draft.exists() else file.with_name("index.json")).read_text())
    tokens = file.with_name(file.name.removesuffix(_SHARD) + ".bin")
    ids = np.fromfile(tokens, dtype=np.dtype(index["dtype"]).newbyteorder("<"))
    for offset, length in documents.filter(gone).select("offset", "length").iter_rows():
        ids[offset : offset + length] = index["end_of_document"]
    target.parent.mkdir(parents=True, exist_ok=True)
    ids.tofile(target.with_name(tokens.name))
    (shard,) = (one for shards in index["splits"].values() for one in shards if one["file"] == tokens.name)
    shard["sha256"] = file_hash(target.with_name(tokens.name))
    draft.write_text(json.dumps(index, indent=1))
    emptied = [pl.when(~gone).then("post_id"), pl.when(gone).then(0).otherwise("bytes").alias("bytes")]
    _write(target, [documents.with_columns(emptied).to_arrow().cast(table.schema)], table.schema)
    return Counter({"tokens": int(documents.filter(gone)["length"].sum()), "documents": int(gone.sum())})


def _drop_entries(file: Path, target: Path, stones: Tombstones) -> Counter[str]:
    """A JSON document, or JSON lines, without those entries of its lists that name something forgotten."""
    lines = file.suffix == ".jsonl"
    text = file.read_text(encoding="utf-8")
    content = [json.loads(line) for line in text.split("\n") if line] if lines else json.loads(text)
    named = pl.Series(sorted(set(_named(content))), dtype=pl.String)
    forgotten = set(named.filter(stones.of_posts(named).is_not_null()))
    entries: Counter[str] = Counter()
    if forgotten:
        target.parent.mkdir(parents=True, exist_ok=True)
        pruned = _pruned(content, forgotten, entries)
        parts = [json.dumps(one, ensure_ascii=False) + "\n" for one in pruned] if lines else None
        target.write_text(
            "".join(parts) if parts is not None else json.dumps(pruned, indent=1, ensure_ascii=False), "utf-8"
        )
    return entries


def _named(value: Any) -> Iterator[str]:
    """Every id that stands under a key that holds ids."""
    if isinstance(value, list):
        for one in value:
            yield from _named(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key in POST_COLUMNS:
                yield from (name for name in (one if isinstance(one, list) else [one]) if isinstance(name, str))
            else:
                yield from _named(one)


def _pruned(value: Any, forgotten: set[str], entries: Counter[str]) -> Any:
    """`value` without the outermost entries of lists that name any of `forgotten`."""
    if isinstance(value, dict):
        return {key: _pruned(one, forgotten, entries) for key, one in value.items()}
    if isinstance(value, list):
        kept = [one for one in value if not forgotten.intersection(_named(one))]
        entries["samples"] += len(value) - len(kept)
        return kept
    return value


def _write(target: Path, groups: list[pa.Table], schema: pa.Schema) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group)
