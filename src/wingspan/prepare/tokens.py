"""Token shards: flat little-endian token ids, and which post lies where.

tokens/index.json                           what there is, with a hash per shard
tokens/train-00000.bin                      ids; each post is followed by end_of_document
tokens/train-00000.documents.parquet        post_id, offset, length (tokens), bytes (UTF-8)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tokenizers import Tokenizer

from wingspan.model.chat import END_OF_DOCUMENT
from wingspan.workspace import file_hash

FORMAT = 1
_BATCH = 10_000  # posts encoded at once


@dataclass(frozen=True)
class Shard:
    """One .bin file, as index.json describes it; bytes are those of the file."""

    file: str
    tokens: int
    documents: int
    bytes: int
    sha256: str


def write_tokens(
    splits: dict[str, pl.DataFrame], tokenizer: Tokenizer, documents_per_shard: int, folder: Path
) -> dict[str, Any]:
    """Write the shards of each split's posts (columns post_id, text), in order; returns the index."""
    folder.mkdir(parents=True)
    vocab = tokenizer.get_vocab_size()
    dtype = np.dtype("<u2" if vocab <= 1 << 16 else "<u4")
    index: dict[str, Any] = {
        "format": FORMAT,
        "dtype": dtype.name,
        "vocab": vocab,
        "end_of_document": tokenizer.token_to_id(END_OF_DOCUMENT),
        "splits": {
            split: [
                asdict(_write_shard(documents, tokenizer, dtype, folder, f"{split}-{number:05d}"))
                for number, documents in enumerate(posts.iter_slices(documents_per_shard))
            ]
            for split, posts in splits.items()
        },
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))
    return index


def _write_shard(posts: pl.DataFrame, tokenizer: Tokenizer, dtype: np.dtype[Any], folder: Path, name: str) -> Shard:
    path = folder / f"{name}.bin"
    end = [tokenizer.token_to_id(END_OF_DOCUMENT)]
    lengths: list[int] = []
    with path.open("wb") as stream:
        for batch in posts.iter_slices(_BATCH):
            for encoding in tokenizer.encode_batch_fast(batch["text"].to_list(), add_special_tokens=False):
                ids = np.array(encoding.ids + end, dtype=dtype)
                lengths.append(ids.size)
                stream.write(ids.tobytes())
    sizes = pl.Series("length", lengths, dtype=pl.Int64)
    posts.select(
        "post_id",
        offset=sizes.cum_sum() - sizes,
        length=sizes,
        bytes=pl.col("text").str.len_bytes().cast(pl.Int64),
    ).write_parquet(folder / f"{name}.documents.parquet", compression="zstd")
    return Shard(path.name, sum(lengths), posts.height, path.stat().st_size, file_hash(path))
