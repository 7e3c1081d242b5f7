"""Hyper-parameters found on a small model that hold on a large one: muP over width, CompleteP over depth.

Yang et al. 2022 (Tensor Programs V, table 3) and Dey et al. 2025 (CompleteP, alpha = 1), written without factors in
the network, so that its checkpoints stay those of Hugging Face: an AdamW update of a weight behind a factor f is an
update f times as large of the product. With w = hidden / tuned hidden and d = layers / tuned layers:

| parameters                       | initial deviation | learning rate, AdamW | learning rate, Muon |
|----------------------------------|-------------------|----------------------|---------------------|
| embedding, norms inside          | 1                 | 1                    |                     |
| matrices of the blocks           | 1 / sqrt(w)       | 1 / w                | 1 / sqrt(w)         |
| those that end a branch, besides | 1 / d             | 1 / d                | 1 / d               |
| head of its own                  | 1 / w             | 1 / w                |                     |
| tied: last norm, before the head | 1 / w             | 1 / w                |                     |

Weight decay times learning rate stays what it was (CompleteP). Muon's updates are of full rank: their spectral norm
grows with the root of the width where AdamW's grows with the width. Widths of heads and the ratio of MLP to width are
meant to be the same in both models.
"""

from __future__ import annotations

import math

from wingspan.model.shape import ModelShape
from wingspan.project import TunedAt

ENDS_OF_BRANCHES = ("o_proj.weight", "down_proj.weight", "down_proj")


def update_scale(name: str, dimensions: int, shape: ModelShape, tuned: TunedAt | None, *, muon: bool = False) -> float:
    """Learning rate of a parameter over that of the settings, which were found at the size `tuned`."""
    if tuned is None or name.endswith("embed_tokens.weight"):
        return 1.0
    width, depth = shape.hidden / tuned.hidden, shape.layers / tuned.depth
    if dimensions == 1:
        return 1 / width if _before_tied_head(name, shape) else 1.0
    scale = width**-0.5 if muon else 1 / width
    return scale / depth if name.endswith(ENDS_OF_BRANCHES) else scale


def initial_scale(name: str, shape: ModelShape, tuned: TunedAt | None) -> float:
    """A parameter's start over that of a model without dials; matrices have 1 / sqrt(width) in that already.

    A branch's end has 1 / sqrt(2 layers) in it, which leaves 1 / sqrt(depth) to come to 1 / depth.
    """
    if tuned is None:
        return 1.0
    if name.endswith("lm_head.weight") or _before_tied_head(name, shape):
        return tuned.hidden / shape.hidden
    return math.sqrt(tuned.depth / shape.layers) if name.endswith(ENDS_OF_BRANCHES) else 1.0


def _before_tied_head(name: str, shape: ModelShape) -> bool:
    return shape.tie_embeddings and name == "model.norm.weight"
