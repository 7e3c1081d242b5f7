"""Attention over packed documents: what a token may look at, and the weighted sum of what it finds there.

Shapes in comments: B rows, S tokens of a row, T tokens attended to, N query heads, K key heads, G = N / K,
D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wingspan.model.shape import ModelShape

_EXPLICIT = 512 * 512  # scores of one head up to which plain matrix products beat the fused CPU kernel
_BLOCK = 1024  # queries that larger attention takes at a time, so that no mask is larger than (block, T)


class KeyValueCache:
    """Keys and values of up to `slots` tokens per row, in the order they came, for every layer.

    Rows share one clock: slot t holds the t-th token fed to each row. Shorter prompts are padded on the
    left with document -1, which no real token attends to; positions are the caller's, per row.
    """

    def __init__(
        self, shape: ModelShape, rows: int, slots: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        size = (shape.layers, rows, shape.kv_heads, slots, shape.head_dim)
        self.keys = torch.empty(size, dtype=dtype, device=device)
        self.values = torch.empty(size, dtype=dtype, device=device)
        self.documents = torch.full((rows, slots), -1, device=device)
        self.used = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, S, D) after the used slots of a layer; returns all (B, K, T, D) so far."""
        end = self.used + keys.shape[2]
        self.keys[layer, :, :, self.used : end] = keys
        self.values[layer, :, :, self.used : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows only (indices): finished answers leave the batch."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.documents = self.documents[rows]


def attention_mask(queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, T), 0 where a token may look and -inf elsewhere: its own document, not later than itself.

    `queries` (B, S) and `keys` (B, T) are document numbers; the queries are the last S of the T tokens.
    """
    S, T = queries.shape[1], keys.shape[1]
    own = queries[:, :, None] == keys[:, None, :]
    earlier = torch.ones(S, T, dtype=torch.bool, device=queries.device).tril(T - S)
    blocked = torch.zeros((), dtype=dtype, device=queries.device).masked_fill(~(own & earlier), float("-inf"))
    return blocked[:, None]


@dataclass(frozen=True)
class Documents:
    """Whose the tokens are: document numbers of queries (B, S) and keys (B, T).

    The queries are equal pieces of the keys' sequence, which begin there at `starts`.
    """

    queries: Tensor
    keys: Tensor
    starts: tuple[int, ...] = (0,)

    def blocks(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Queries, at most `size` together, and the keys that none of them is later than."""
        piece = self.queries.shape[1] // len(self.starts)
        for number, start in enumerate(self.starts):
            for begin in range(0, piece, size):
                end = min(begin + size, piece)
                yield slice(number * piece + begin, number * piece + end), slice(0, start + end)

    def mask(self, queries: slice, keys: slice, dtype: torch.dtype) -> Tensor:
        """The mask of a block."""
        return attention_mask(self.queries[:, queries], self.keys[:, keys], dtype)

    def masks(self, dtype: torch.dtype) -> Tensor:
        """The mask of all queries and keys, (B, 1, S, T)."""
        pieces = [
            (self.mask(rows, columns, dtype), columns.stop) for rows, columns in self.blocks(len(self.queries[0]))
        ]
        T = self.keys.shape[1]
        return torch.cat([F.pad(mask, (0, T - end), value=float("-inf")) for mask, end in pieces], dim=2)


Visible = Tensor | Documents | None  # a mask, or what to make masks of, or nothing: plain causal attention


def visible(documents: Documents | None, positions: Tensor, dtype: torch.dtype) -> Visible:
    """What a pass looks at, in the form that suits its size: one mask for all layers only where it is small."""
    if documents is None:
        if positions.device.type != "cpu" or positions.shape[1] ** 2 > _EXPLICIT:
            return None  # plain causal attention, which fused kernels know without a mask
        documents = Documents(torch.zeros_like(positions), torch.zeros_like(positions))
    return documents.masks(dtype) if documents.queries.shape[1] * documents.keys.shape[1] <= _EXPLICIT else documents


def attend(queries: Tensor, keys: Tensor, values: Tensor, seen: Visible) -> Tensor:
    """softmax(q k' / sqrt(D) + mask) v: (B, S, N, D) with keys and values (B, K, T, D) -> (B, S, N * D)."""
    B, S, N, D = queries.shape
    T = keys.shape[2]
    if isinstance(seen, Documents):
        heads = _in_blocks(queries.transpose(1, 2), keys, values, seen)
    elif seen is None or queries.device.type != "cpu" or S * T > _EXPLICIT:
        heads = _fused(queries.transpose(1, 2), keys, values, seen)
    else:
        return _explicit(queries, keys, values, seen)
    merged: Tensor = heads.transpose(1, 2).reshape(B, S, N * D)
    return merged


def _fused(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=queries.shape[1] > keys.shape[1]
    )


def _explicit(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """By plain products; heads that share a key head are folded into its rows, so keys are never repeated."""
    B, S, N, D = queries.shape
    K, T = keys.shape[1:3]
    G = N // K
    folded = (queries * D**-0.5).view(B, S, K, G, D).permute(0, 2, 3, 1, 4).reshape(B, K, G * S, D)
    scores = (folded @ keys.transpose(-1, -2)).view(B, K, G, S, T) + mask[:, :, None]
    mixed: Tensor = scores.softmax(-1).view(B, K, G * S, T) @ values
    return mixed.view(B, K, G, S, D).permute(0, 3, 1, 2, 4).reshape(B, S, N * D)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _in_blocks(queries: Tensor, keys: Tensor, values: Tensor, documents: Documents) -> Tensor:
    heads: Tensor = _InBlocks.apply(queries, keys, values, documents)  # type: ignore[no-untyped-call]
    return heads


class _InBlocks(torch.autograd.Function):
    """Attention of a block of queries at a time to the keys up to it, never holding more than a block's mask.

    Skipping later keys saves the half that a masked kernel would compute in vain, and more than pays for computing
    each block again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, documents: Documents) -> Tensor:
        ctx.save_for_backward(queries, keys, values)
        ctx.documents = documents
        heads = torch.empty_like(queries)
        for rows, columns in documents.blocks(_BLOCK):
            mask = documents.mask(rows, columns, queries.dtype)
            heads[:, :, rows] = _fused(queries[:, :, rows], keys[:, :, columns], values[:, :, columns], mask)
        return heads

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values = ctx.saved_tensors
        found = [torch.zeros_like(one, dtype=torch.float32) for one in (queries, keys, values)]
        for rows, columns in ctx.documents.blocks(_BLOCK):
            mask = ctx.documents.mask(rows, columns, queries.dtype)
            places = (rows, columns, columns)
            with torch.enable_grad():
                some = zip((queries, keys, values), places, strict=True)
                inputs = [one[:, :, place].detach().requires_grad_() for one, place in some]
                heads = _fused(inputs[0], inputs[1], inputs[2], mask)
            made = torch.autograd.grad(heads, inputs, gradients[0][:, :, rows])
            for total, place, one in zip(found, places, made, strict=True):
                total[:, :, place] += one
        return (*(one.to(queries.dtype) for one in found), None)  # type: ignore[return-value]
