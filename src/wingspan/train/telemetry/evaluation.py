"""Held-out posts scored while training goes on: bits per byte of each source and language. It changes no weight."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wingspan.progress import SilentProgress
from wingspan.train.data.batches import TokenSplit
from wingspan.train.parallel.part import Part
from wingspan.train.telemetry.score import total_loss

_GROUPS = 12  # the largest; what is left is scored together
_OTHER = ("other", "other")

Group = tuple[str, str]  # source, language


class HeldOut:
    """A sample of about `tokens` held-out tokens, in the same shares of each group as in all of them."""

    def __init__(self, split: TokenSplit, groups: Sequence[Group], tokens: int, seed: int) -> None:
        sizes: dict[Group, int] = {}
        for group, length in zip(groups, split.length.tolist(), strict=True):
            sizes[group] = sizes.get(group, 0) + length
        large = sorted(sizes, key=lambda group: (-sizes[group], group))[:_GROUPS]
        places: dict[Group, list[int]] = {}
        for place, group in enumerate(groups):
            places.setdefault(group if group in large else _OTHER, []).append(place)
        share = tokens / max(1, sum(sizes.values()))
        self._groups = {group: split.select(np.array(places[group])) for group in sorted(places)}
        self._groups = {
            group: one.sample(round(share * int(one.length.sum())), seed) for group, one in self._groups.items()
        }

    def score(self, part: Part, sequence: int, global_batch: int) -> dict[str, Any]:
        """Bits per byte of all groups together and of each; every rank calls this."""
        by, bits, size = [], 0.0, 0
        for (source, language), split in self._groups.items():
            if bytes_ := int(split.bytes.sum()):  # posts forgotten since have none
                nats = total_loss(part, split.packed(sequence), global_batch, SilentProgress(), "")
                found = {"bits_per_byte": nats / math.log(2) / bytes_, "bytes": bytes_}
                by.append({"source": source, "language": language, **found})
                bits, size = bits + nats / math.log(2), size + bytes_
        return {"bits_per_byte": bits / max(1, size), "bytes": size, "by": by}


def groups_of(prepared: Path, split: str) -> list[Group]:
    """Source and language of each document of a split, in the order of its shards, as its post says them."""
    shards = json.loads((prepared / "tokens/index.json").read_text())["splits"][split]
    files = [(prepared / "tokens" / shard["file"]).with_suffix(".documents.parquet") for shard in shards]
    names = pa.chunked_array([chunk for file in files for chunk in pq.read_table(file, columns=["post_id"])[0].chunks])
    tables = [
        pq.read_table(file, columns=["post_id", "source", "lang"])
        for file in sorted((prepared / "posts").glob(f"{split}-*.parquet"))
    ]
    if not tables:
        return [_OTHER] * len(names)
    posts = pa.concat_tables(tables)
    place = pc.index_in(names, posts["post_id"])
    found = (pc.fill_null(pc.take(posts[name], place), "other").to_pylist() for name in ("source", "lang"))
    return list(zip(*found, strict=True))
