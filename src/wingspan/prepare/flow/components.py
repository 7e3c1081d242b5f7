"""Connected components of any number of edges, by exchanges alone: for duplicates and for reply trees.

Each part's own edges are joined in memory first, so that few edges, which are one part, are done at once. Many are
joined by large-star and small-star in turn (Kiveris et al., Connected Components in MapReduce and Beyond, 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from wingspan.prepare.flow.compiled import compiled
from wingspan.prepare.flow.flow import Dataset, Flow, frame_of, tallied
from wingspan.prepare.repeats.hashing import Hashes, mixed


def components(flow: Flow, name: str, edges: Dataset) -> Dataset:
    """`node` -> `label`, the least node that it hangs together with; from edges `left`, `right` (uint64).

    Nodes that are labels are absent. A node is in the part that its `key`, a hash of it, says.
    """
    parts = flow.buckets(edges.rows)
    stars = flow.map(f"{name}-joined", _joined, flow.exchange(f"{name}-edges", _joined, edges, parts=parts))
    turn, changes = 0, parts > 1
    while changes:
        turn += 1
        around = flow.exchange(f"{name}-around-{turn}", _around, stars, parts=parts)
        large = flow.exchange(f"{name}-large-{turn}", _large_star, around, parts=parts)
        stars = flow.map(f"{name}-small-{turn}", _small_star, large)
        changes = bool(large.tally["changes"] + stars.tally["changes"])
    return stars


def _stars(node: Hashes, label: Hashes, changes: int = 0) -> pa.Table:
    return tallied(pa.table({"key": mixed(node), "left": label, "right": node}), {"changes": changes})


def _joined(edges: pa.Table) -> pa.Table:
    """Components of these edges alone, as edges from each node (right) to the least one (left)."""
    left, right = edges["left"].to_numpy(), edges["right"].to_numpy()
    nodes, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    least = _union(place[: len(left)], place[len(left) :], len(nodes))
    joined = least != np.arange(len(nodes))
    return _stars(nodes[joined], nodes[least[joined]])


def _around(edges: pa.Table) -> pa.Table:
    """Each edge as seen from either end."""
    left, right = edges["left"].to_numpy(), edges["right"].to_numpy()
    here, there = np.concatenate([left, right]), np.concatenate([right, left])
    return pa.table({"key": mixed(here), "here": here, "there": there})


def _large_star(around: pa.Table) -> pa.Table:
    """Larger neighbours are tied to the least one around."""
    ends = frame_of(around).with_columns(least=pl.min_horizontal("here", pl.col("there").min().over("here")))
    larger = ends.filter(pl.col("there") > pl.col("here"))
    changes = larger.filter(pl.col("least") != pl.col("here")).height
    return _stars(larger["there"].to_numpy(), larger["least"].to_numpy(), changes)


def _small_star(edges: pa.Table) -> pa.Table:
    """A node and its smaller neighbours are tied to the least of them."""
    tied = frame_of(edges).select("left", "right").unique(maintain_order=True)
    tied = tied.with_columns(least=pl.col("left").min().over("right"))
    others = tied.filter(pl.col("left") != pl.col("least"))
    own = tied.select("right", "least").unique(maintain_order=True)
    node = np.concatenate([own["right"].to_numpy(), others["left"].to_numpy()])
    label = np.concatenate([own["least"].to_numpy(), others["least"].to_numpy()])
    return _stars(node, label, others.height)


@compiled
def _union(ones: npt.NDArray[np.int64], others: npt.NDArray[np.int64], nodes: int) -> npt.NDArray[np.int64]:
    """The least node of each node's component: union by the lesser root, with path halving (Tarjan & van Leeuwen)."""
    parent = np.arange(nodes)
    for edge in range(len(ones)):
        one, other = ones[edge], others[edge]
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        while parent[other] != other:
            parent[other] = parent[parent[other]]
            other = parent[other]
        if one != other:
            parent[max(one, other)] = min(one, other)
    for node in range(nodes):
        parent[node] = parent[parent[node]]  # roots are lesser, so theirs is final
    return parent
