"""Held-out posts: chosen by a hash, so that the choice depends on nothing but the seed and the id."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
import xxhash

TRAIN, HELD_OUT = "train", "held_out"
SPLITS = (TRAIN, HELD_OUT)


def split_of(keys: Iterable[str], seed: int, held_out: float) -> pl.Series:
    """`train` or `held_out` for each key; about a share `held_out` of distinct keys is held out.

    Equal keys fall on the same side: give a post's author where it is known, so that nobody is on both.
    """
    limit = int(held_out * 2**64)
    sides = [HELD_OUT if xxhash.xxh3_64_intdigest(key.encode(), seed) < limit else TRAIN for key in keys]
    return pl.Series("split", sides, dtype=pl.String)
