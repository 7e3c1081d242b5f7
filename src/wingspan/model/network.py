"""One decoder for Qwen3, Qwen3-MoE and Llama, its parameters named as Hugging Face names them.

Shapes in comments: B rows, S tokens of a row, T tokens attended to, H hidden, N query heads,
K key heads, G = N / K, D width of a head, E experts.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Partial, Replicate

from wingspan.model.loss import IGNORED, linear_cross_entropy, linear_log_probs
from wingspan.model.shape import ModelShape

_EXPLICIT_ATTENTION = 512 * 512  # scores of one head up to which plain matrix products beat the fused CPU kernel

Rotary = tuple[Tensor, Tensor]


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


class Linear(nn.Linear):
    """A matrix without bias that works in the precision of its input; the weights stay as they are stored."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotary_table(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """cos and sin (B, S, 1, D/2) of position * theta^(-2i/D) (Su et al. 2021)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions[:, :, None, None].float() * theta**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the pairs (i, i + D/2) of each head of (B, S, heads, D)."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention_mask(queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, T), 0 where a token may look and -inf elsewhere: its own document, not later than itself.

    `queries` (B, S) and `keys` (B, T) are document numbers; the queries are the last S of the T tokens.
    """
    S, T = queries.shape[1], keys.shape[1]
    own = queries[:, :, None] == keys[:, None, :]
    earlier = torch.ones(S, T, dtype=torch.bool, device=queries.device).tril(T - S)
    blocked = torch.zeros((), dtype=dtype, device=queries.device).masked_fill(~(own & earlier), float("-inf"))
    return blocked[:, None]


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(D) + mask) v: (B, S, N, D) with keys and values (B, K, T, D) -> (B, S, N * D).

    Without a mask attention is causal. Heads that share a key head are folded into its rows, so keys
    and values are never repeated.
    """
    B, S, N, D = queries.shape
    K, T = keys.shape[1:3]
    G = N // K
    if mask is None or queries.device.type != "cpu" or S * T > _EXPLICIT_ATTENTION:
        heads = F.scaled_dot_product_attention(
            queries.transpose(1, 2), keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=G > 1
        )
        return heads.transpose(1, 2).reshape(B, S, N * D)
    folded = (queries * D**-0.5).view(B, S, K, G, D).permute(0, 2, 3, 1, 4).reshape(B, K, G * S, D)
    scores = (folded @ keys.transpose(-1, -2)).view(B, K, G, S, T) + mask[:, :, None]
    mixed = scores.softmax(-1).view(B, K, G * S, T) @ values
    return cast(Tensor, mixed.view(B, K, G, S, D).permute(0, 3, 1, 2, 4).reshape(B, S, N * D))


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; Qwen3 normalises queries and keys per head."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, shape.head_dim
        self.q_proj = Linear(shape.hidden, shape.heads * shape.head_dim)
        self.k_proj = Linear(shape.hidden, shape.kv_heads * shape.head_dim)
        self.v_proj = Linear(shape.hidden, shape.kv_heads * shape.head_dim)
        self.o_proj = Linear(shape.heads * shape.head_dim, shape.hidden)
        self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None
        self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """(B, S, H) -> (B, S, H); `mask` as attention_mask makes it, None for plain causal attention."""
        queries, keys, values = (  # under tensor parallelism each rank sees its own heads
            project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = _rotate(queries, rotary), _rotate(keys, rotary).transpose(1, 2)
        values = values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
        return cast(Tensor, self.o_proj(attend(queries, keys, values, mask)))


class DenseMLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden, shape.ffn)
        self.up_proj = Linear(shape.hidden, shape.ffn)
        self.down_proj = Linear(shape.ffn, shape.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return cast(Tensor, self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class Experts(nn.Module):
    """The stacked matrices of all experts of a layer: gate and up as one (E, 2F, H), down (E, H, F)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(shape.experts, 2 * shape.expert_ffn, shape.hidden))
        self.down_proj = nn.Parameter(torch.empty(shape.experts, shape.hidden, shape.expert_ffn))

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        """SwiGLU of (rows, H), sorted by expert; `ends` (E,) is where each expert's rows end."""
        gate_up = self.gate_up_proj.to(rows.dtype).transpose(1, 2)
        gate, up = F.grouped_mm(rows, gate_up, offs=ends).chunk(2, dim=-1)
        return F.grouped_mm(F.silu(gate) * up, self.down_proj.to(rows.dtype).transpose(1, 2), offs=ends)


class SparseMLP(nn.Module):
    """Mixture of experts: each token goes to its k most probable experts, weights scaled to sum to 1."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.chosen, self.count = shape.experts_per_token, shape.experts
        self.gate = Linear(shape.hidden, shape.experts)
        self.experts = Experts(shape)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) -> (B, S, H); no shape depends on where the tokens go."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(tokens).float().softmax(-1).topk(self.chosen)  # (B * S, k)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.zeros(self.count, dtype=order.dtype, device=x.device)
        ends = counts.scatter_add(0, chosen.flatten(), torch.ones_like(order)).cumsum(0)
        mixed = self.experts(tokens[order // self.chosen], ends.to(torch.int32))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
        together = mixed[back].unflatten(0, chosen.shape) * weights[:, :, None]
        return cast(Tensor, together.sum(1).view(x.shape))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mlp = SparseMLP(shape) if shape.experts else DenseMLP(shape)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None, cache: KeyValueCache | None = None) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, cache)
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class Trunk(nn.Module):
    """Embedding, blocks and last norm; a pipeline stage holds some blocks, and the ends only where they are."""

    def __init__(self, shape: ModelShape, layers: range) -> None:
        super().__init__()
        first, last = layers.start == 0, layers.stop == shape.layers
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden) if first else None
        self.layers = nn.ModuleDict({str(layer): Block(shape, layer) for layer in layers})
        self.norm = RMSNorm(shape.hidden, shape.norm_eps) if last else None


class Decoder(nn.Module):
    """The network, or the part of it that holds the blocks `layers`.

    `compute` is the precision of activations (default: that of the weights). Weights are cast to it where
    they are used. `loss_group` are the ranks over which tensor parallelism splits the vocabulary, and
    `skip_ignored` leaves tokens without a target out of the loss's matrix products, at the price of shapes
    that depend on the data; train.parallel sets both.
    """

    def __init__(self, shape: ModelShape, layers: range | None = None, compute: torch.dtype | None = None) -> None:
        super().__init__()
        layers = range(shape.layers) if layers is None else layers
        self.shape, self.compute = shape, compute
        self.model = Trunk(shape, layers)
        last = layers.stop == shape.layers
        self.lm_head = Linear(shape.hidden, shape.vocab) if last and not shape.tie_embeddings else None
        self.loss_group: ProcessGroup | None = None
        self.skip_ignored = True

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        each: bool = False,
    ) -> Tensor:
        """Token ids (B, S), or hidden states of the part before -> hidden states (B, S, H), or the loss.

        `positions` (B, S) count within each document. `documents` (B, S) number the documents of a row:
        attention does not cross them, and -1 is padding; None is one document per row. With `targets`
        (B, S), -100 where there is none, a part with a head returns the sum of the cross-entropies in
        float32, or with `each` the targets' log-probabilities (B, S), 0 where there is none. With a
        `cache` the tokens continue what it holds: prompts padded on the left with document -1 first, then
        one token per row at a time, each with its own position.
        """
        hidden = x if self.model.embed_tokens is None else self.model.embed_tokens(x)
        hidden = hidden.to(self.compute or hidden.dtype)
        rotary = rotary_table(positions, self.shape.head_dim, self.shape.rope_theta, hidden.dtype)
        mask = self._mask(positions, documents, hidden.dtype, cache)
        for block in self.model.layers.values():
            hidden = block(hidden, rotary, mask, cache)
        if cache is not None:
            cache.used += positions.shape[1]
        if self.model.norm is not None:
            hidden = self.model.norm(hidden)
        if targets is None or self.model.norm is None:
            return hidden
        return self._loss(hidden, targets, each)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., V) of hidden states (..., H), in the precision of the hidden states."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype))

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, H): the embedding's own where they are tied."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        assert head is not None, "this part of the network has no head"
        return head.weight

    def _mask(
        self, positions: Tensor, documents: Tensor | None, dtype: torch.dtype, cache: KeyValueCache | None
    ) -> Tensor | None:
        if documents is None:
            if cache is None and (positions.device.type != "cpu" or positions.shape[1] ** 2 > _EXPLICIT_ATTENTION):
                return None  # plain causal attention, which fused kernels know without a mask
            documents = torch.zeros_like(positions)
        if cache is None:
            return attention_mask(documents, documents, dtype)
        end = cache.used + positions.shape[1]
        cache.documents[:, cache.used : end] = documents
        return attention_mask(documents, cache.documents[:, :end], dtype)

    def _loss(self, hidden: Tensor, targets: Tensor, each: bool) -> Tensor:
        weight = self.head_weight
        if isinstance(hidden, DTensor):  # sequence parallel: gather the tokens, scatter their gradients
            hidden = hidden.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
        if isinstance(weight, DTensor):
            weight = weight.to_local()
        found, size = linear_log_probs if each else linear_cross_entropy, targets.shape
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if not self.skip_ignored:
            return found(hidden, weight, targets, self.loss_group).view(size if each else ())
        kept = targets != IGNORED
        one = found(hidden[kept], weight, targets[kept], self.loss_group)
        return one.new_zeros(kept.shape).masked_scatter(kept, one).view(size) if each else one
