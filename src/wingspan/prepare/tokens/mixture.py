"""What is trained on how often, and in what order: epochs by source and language, threads together, seeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa

from wingspan.prepare.flow.flow import Dataset, Flow, frame_of
from wingspan.prepare.repeats.hashing import mixed, text_hashes
from wingspan.project import Mixture


def mix(flow: Flow, posts: Dataset, mixture: Mixture | None, seed: int) -> tuple[Dataset, dict[str, float]]:
    """`posts` (whose tally has `text`: bytes by "source/language") as they are trained on, and the epochs of each.

    A thread's posts stand one after another in order of time, threads in an order drawn by the seed; a fraction of an
    epoch takes the posts that a hash of their ids chooses. Without a mixture: `posts`, and no epochs.
    """
    if mixture is None:
        return posts, {}
    epochs = epochs_of(mixture, posts.tally["text"])
    rows = round(posts.rows * max(epochs.values(), default=1.0))
    scattered = flow.exchange("mixture", partial(_keyed, epochs, seed), posts, parts=flow.batches(rows))
    return flow.map("mixed", _in_order, scattered), epochs


def epochs_of(mixture: Mixture, sizes: Mapping[str, int]) -> dict[str, float]:
    """Epochs of each "source/language" of so many bytes.

    Weighted ones share the text that they have together: of a group with weight w out of W and n bytes out of N,
    epochs are w N / (W n), at most `most_epochs`. A key of a source and a language goes before that of a source,
    and that before one of a language.
    """
    groups = {name: _closest(name, mixture.weights) for name in sizes}
    text: Counter[str] = Counter()
    for name, group in groups.items():
        if group is not None:
            text[group] += sizes[name]
    weights = sum(mixture.weights[group] for group in text)
    epochs = {}
    for name, group in groups.items():
        if group is not None:
            wanted = mixture.weights[group] / weights * text.total() / text[group] if weights and text[group] else 0.0
        else:
            key = _closest(name, mixture.epochs)
            wanted = 1.0 if key is None else mixture.epochs[key]
        epochs[name] = min(wanted, mixture.most_epochs)
    return epochs


def _closest(name: str, keys: Mapping[str, float]) -> str | None:
    source, _, language = name.rpartition("/")
    return next((key for key in (name, source, f"*/{language}") if key in keys), None)


def _keyed(epochs: Mapping[str, float], seed: int, posts: pa.Table) -> pa.Table:
    """Each post as often as it is used, with a key that a thread's posts share in each epoch."""
    frame = frame_of(posts)
    wanted = frame.select(
        pl.format("{}/{}", "source", "lang").replace_strict(epochs, default=1.0, return_dtype=pl.Float64)
    ).to_series()
    chance = mixed(text_hashes(frame["post_id"]) ^ np.uint64(seed)).astype(np.float64) / 2**64
    copies = np.floor(wanted.to_numpy() + chance).astype(np.int64)
    used = frame[np.repeat(np.arange(frame.height), copies)]
    ends = np.cumsum(copies)
    copy = (np.arange(used.height) - np.repeat(ends - copies, copies)).astype(np.uint64)
    thread = text_hashes(used.select(pl.coalesce("root_id", "post_id"))["root_id"])
    return used.with_columns(key=mixed(mixed(thread ^ np.uint64(seed)) + copy)).to_arrow()


def _in_order(posts: pa.Table) -> pa.Table:
    frame = frame_of(posts)
    order = ["key", "created_at", pl.col("post_id").str.len_bytes(), "post_id"]
    return frame.sort(order, maintain_order=True).drop("key").to_arrow()
