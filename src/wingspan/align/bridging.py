"""Which posts please readers who usually disagree: the score that Community Notes gives to notes, for posts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

_LAMBDA_INTERCEPT, _LAMBDA_FACTOR = 0.15, 0.03  # as Community Notes: an intercept must be earned five times over
_LEAST_READERS = 5  # of a post, and posts of a reader
_SWEEPS = 30


def bridging_scores(reactions: pl.DataFrame, weights: Mapping[str, float]) -> dict[str, float]:
    """Intercepts of posts, from reactions (reader_id, post_id, signal) of known readers; posts with few are left out.

    The rating r of a post by a reader, 1 for and 0 against, is fitted as mu + i_reader + i_post + f_reader f_post
    (Wojcik et al. 2022): what a viewpoint explains goes into the factors f, and i_post is what pleases in spite of
    it. Alternating least squares; deterministic.
    """
    signs = pl.DataFrame({"signal": [*weights], "rating": [float(weight > 0) for weight in weights.values()]})
    ratings = reactions.join(signs, on="signal").group_by("reader_id", "post_id", maintain_order=True)
    rated = ratings.agg(pl.col("rating").min()).filter(pl.len().over("post_id") >= _LEAST_READERS)
    rated = rated.filter(pl.len().over("reader_id") >= 2).sort("reader_id", "post_id")
    if rated.is_empty():
        return {}
    reader, post = (rated[name].rank("dense").cast(pl.Int64).to_numpy() - 1 for name in ("reader_id", "post_id"))
    rating = rated["rating"].to_numpy()
    mean = rating.mean()
    start = np.random.default_rng(0).standard_normal(reader.max() + 1)
    readers = np.column_stack((np.zeros(len(start)), start))
    posts = np.zeros((post.max() + 1, 2))
    for _ in range(_SWEEPS):
        posts = _solve(post, reader, rating - mean - readers[reader, 0], readers)
        readers = _solve(reader, post, rating - mean - posts[post, 0], posts)
    return dict(zip(rated["post_id"].unique().sort(), posts[:, 0].tolist(), strict=True))


def _solve(mine: NDArray[Any], other: NDArray[Any], rest: NDArray[Any], factors: NDArray[Any]) -> NDArray[Any]:
    """Intercept and factor of each of mine, given the factors of the others, by ridge regression."""
    inputs = np.column_stack((np.ones(len(rest)), factors[other, 1]))
    size = mine.max() + 1
    squares, sums = np.zeros((size, 2, 2)), np.zeros((size, 2))
    np.add.at(squares, mine, inputs[:, :, None] * inputs[:, None, :])
    np.add.at(sums, mine, inputs * rest[:, None])
    ridge = np.diag([_LAMBDA_INTERCEPT, _LAMBDA_FACTOR])
    return np.linalg.solve(squares + ridge, sums[:, :, None])[:, :, 0]
