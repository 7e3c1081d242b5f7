"""Token shards as Megatron-LM's indexed data sets: SPLIT.bin and SPLIT.idx, every post a document of its own."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from wingspan.errors import InputError

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_CODES = {"uint16": 8, "int32": 4}  # of megatron.core.datasets.indexed_dataset.DType, which has no uint32


def export_megatron(tokens: Path, target: Path) -> dict[str, int]:
    """Write `target`/SPLIT.bin and .idx out of the shards of `tokens`; returns documents by split.

    The index is, little-endian: magic, version (u64), type (u8), sequences (u64), documents + 1 (u64), then lengths
    (i32), byte offsets (i64) and the sequence that each document begins with (i64).
    """
    if not (tokens / "index.json").is_file():
        raise InputError("there are no tokens", where=tokens, remedy="Start with: wingspan prepare PROJECT")
    index = json.loads((tokens / "index.json").read_text())
    target.mkdir(parents=True, exist_ok=True)
    kind = "uint16" if index["dtype"] == "uint16" else "int32"  # ids stay below 2**31
    written = {}
    for split, shards in index["splits"].items():
        with (target / f"{split}.bin").open("wb") as stream:
            for shard in shards:
                with (tokens / shard["file"]).open("rb") as source:
                    shutil.copyfileobj(source, stream, 1 << 20)
        names = [tokens / shard["file"].replace(".bin", ".documents.parquet") for shard in shards]
        tables = [pq.read_table(name, columns=["length", "bytes"]) for name in names]
        lengths, texts = (np.concatenate([one[name].to_numpy() for one in tables]) for name in ("length", "bytes"))
        sizes = lengths * np.dtype(kind).itemsize
        offsets, stays = np.cumsum(sizes) - sizes, texts > 0  # the place of a forgotten post is no document
        lengths = lengths[stays]
        with (target / f"{split}.idx").open("wb") as stream:
            stream.write(_MAGIC + struct.pack("<QBQQ", _VERSION, _CODES[kind], len(lengths), len(lengths) + 1))
            stream.write(lengths.astype("<i4").tobytes())
            stream.write(offsets[stays].astype("<i8").tobytes())
            stream.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
        written[split] = len(lengths)
    return written
