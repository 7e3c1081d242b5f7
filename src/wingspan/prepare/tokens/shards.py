"""Token shards: flat little-endian token ids, which post lies where, and where each post lies.

tokens/index.json                           what there is, with a hash per shard
tokens/train-00000.bin                      ids; each post is followed by end_of_document
tokens/train-00000.documents.parquet        post_id, offset, length (tokens), bytes (UTF-8), in the shard's order
tokens/posts-00000.parquet                  post_id, shard, offset, length, sorted by post_id: the reverse index
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import awkward
import gigatoken
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wingspan.model.chat import END_OF_DOCUMENT, load_tokenizer
from wingspan.prepare.flow.flow import Dataset, Flow, Part, Piece, frame_of
from wingspan.prepare.repeats.hashing import text_hashes
from wingspan.workspace import write_atomically

FORMAT = 1
_PLACE = [pa.field("offset", pa.int64()), pa.field("length", pa.int64())]
DOCUMENT_SCHEMA = pa.schema([pa.field("post_id", pa.string()), *_PLACE, pa.field("bytes", pa.int64())])
LOOKUP_SCHEMA = pa.schema([pa.field("post_id", pa.string()), pa.field("shard", pa.string()), *_PLACE])
_CHECKED = 64  # texts of each batch, encoded by Hugging Face's tokenizers too

Ids = npt.NDArray[np.uint32]
Encode = Callable[[list[str]], tuple[Ids, npt.NDArray[np.int64]]]  # all ids in a row, and how many each text has


def write_tokens(flow: Flow, splits: Mapping[str, Dataset], tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Write a token shard for each shard of each split's posts, and the reverse index; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_tokenizer(tokenizer)
    vocab = loaded.get_vocab_size()
    dtype = np.dtype("<u2" if vocab <= 1 << 16 else "<u4")
    names: list[str] = []
    shards: dict[str, list[dict[str, Any]]] = {}
    documents = Dataset(())
    for split, posts in splits.items():
        files = [tuple(pieces) for _, pieces in groupby(posts.pieces, lambda piece: piece.file)]
        stems = [f"{split}-{number:05d}" for number in range(len(files))]
        write = partial(_write_shard, tokenizer, dtype.str)
        written = flow.map(f"tokens-{split}", write, [folder / stem for stem in stems], files)
        shards[split] = [row for table in written.tables() for row in table.to_pylist()]
        names += stems
        documents += Dataset(
            tuple(
                Part(tuple(replace(piece, file=folder / f"{stem}.documents.parquet") for piece in pieces))
                for stem, pieces in zip(stems, files, strict=True)
            )
        )
    moved = flow.exchange("lookup", _by_id, names, documents, parts=flow.buckets(documents.rows))
    lookups = [folder / f"posts-{number:05d}.parquet" for number in range(len(moved.parts))]
    flow.map("lookups", _write_lookup, lookups, moved)
    index: dict[str, Any] = {
        "format": FORMAT,
        "dtype": dtype.name,
        "vocab": vocab,
        "end_of_document": loaded.token_to_id(END_OF_DOCUMENT),
        "splits": shards,
        "posts": [path.name for path in lookups],
    }
    write_atomically(folder / "index.json", json.dumps(index, indent=1))
    return index


def _write_shard(tokenizer: Path, dtype: str, path: Path, posts: Sequence[Piece]) -> pa.Table:
    """Write PATH.bin and PATH.documents.parquet; returns the shard as index.json describes it."""
    encode, end = encoder(tokenizer), int(load_tokenizer(tokenizer).token_to_id(END_OF_DOCUMENT) or 0)
    tokens = documents = 0
    target, listed = path.with_suffix(".bin"), path.with_suffix(".documents.parquet")
    part, part_listed = (file.with_name(f".{file.name}") for file in (target, listed))
    sha256 = hashlib.sha256()
    with part.open("wb") as stream, pq.ParquetWriter(part_listed, DOCUMENT_SCHEMA, compression="zstd") as writer:
        for piece in posts:
            rows = frame_of(replace(piece, columns=("post_id", "text")).load())
            ids, lengths = encode(rows["text"].to_list())
            ends = np.cumsum(lengths)
            content = np.insert(ids, ends, end).astype(dtype).tobytes()
            stream.write(content)
            sha256.update(content)
            lengths = lengths + 1
            sizes = pl.DataFrame({"offset": tokens + np.cumsum(lengths) - lengths, "length": lengths})
            described = rows.select("post_id", *sizes, bytes=pl.col("text").str.len_bytes().cast(pl.Int64))
            writer.write_table(described.to_arrow().cast(DOCUMENT_SCHEMA))
            tokens, documents = tokens + int(lengths.sum()), documents + len(rows)
    part_listed.replace(listed)
    part.replace(target)
    size = target.stat().st_size
    shard = {"file": target.name, "tokens": tokens, "documents": documents, "bytes": size, "sha256": sha256.hexdigest()}
    return pa.Table.from_pylist([shard])


def _by_id(shard: str, documents: pa.Table) -> pa.Table:
    rows = frame_of(documents).select("post_id", "offset", "length", shard=pl.lit(shard))
    return rows.with_columns(key=text_hashes(rows["post_id"])).to_arrow()


def _write_lookup(path: Path, rows: pa.Table) -> pa.Table:
    """Sorted by id, so that the statistics of the file lead to the few rows that are wanted."""
    found = frame_of(rows).select("post_id", "shard", "offset", "length").sort("post_id")
    temporary = path.with_name(f".{path.name}")
    pq.write_table(found.to_arrow().cast(LOOKUP_SCHEMA), temporary, compression="zstd", row_group_size=1 << 14)
    temporary.replace(path)
    return pa.table({"rows": [found.height]})


def encoder(tokenizer: Path) -> Encode:
    """Text -> ids of a Hugging Face tokenizer folder; special tokens that a text spells are text.

    By gigatoken, forty times as fast, where it gives the same ids for a sample of each batch; else by tokenizers.
    """
    reference = load_tokenizer(tokenizer)
    reference.encode_special_tokens = True
    fast = _gigatoken(tokenizer)

    def encode(texts: list[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        if fast is not None:
            found = fast.encode_batch(texts, parallel=False)
            sample = range(0, len(texts), max(1, len(texts) // _CHECKED))
            checked = reference.encode_batch_fast([texts[at] for at in sample], add_special_tokens=False)
            if all(found[at].tolist() == one.ids for at, one in zip(sample, checked, strict=True)):
                return awkward.to_numpy(awkward.flatten(found)), awkward.to_numpy(awkward.num(found))
        encodings = [one.ids for one in reference.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        return np.fromiter(chain.from_iterable(encodings), np.uint32, int(lengths.sum())), lengths

    return encode


@cache
def _gigatoken(tokenizer: Path) -> gigatoken.Tokenizer | None:
    """None for a tokenizer of a kind that it does not know."""
    content = json.loads((tokenizer / "tokenizer.json").read_text("utf-8"))
    content["added_tokens"] = []  # text never spells one
    try:
        return gigatoken.Tokenizer.from_json(json.dumps(content))
    except (ValueError, NotImplementedError, RuntimeError):
        return None
