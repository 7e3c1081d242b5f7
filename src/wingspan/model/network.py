"""One decoder for Qwen3, Qwen3-MoE and Llama, its parameters named as Hugging Face names them.

Shapes in comments: B rows, S tokens of a row, H hidden, D width of a head, E experts, F inner width of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Partial, Replicate

from wingspan.model.attention import Documents, KeyValueCache, Visible, attend, visible
from wingspan.model.context import Context
from wingspan.model.loss import IGNORED, linear_cross_entropy, linear_log_probs
from wingspan.model.shape import ModelShape

Rotary = tuple[Tensor, Tensor]


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


def rotary_table(positions: Tensor, shape: ModelShape, dtype: torch.dtype) -> Rotary:
    """cos and sin (B, S, 1, D/2) of position * theta^(-2i/D) (Su et al. 2021), stretched as the shape says."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=positions.device) / shape.head_dim
    frequencies, size = _stretch(shape.rope_theta**-exponents, shape)
    angles = positions[:, :, None, None].float() * frequencies
    return (angles.cos() * size).to(dtype), (angles.sin() * size).to(dtype)


def _stretch(plain: Tensor, shape: ModelShape) -> tuple[Tensor, float]:
    """Frequencies (D/2,) for positions beyond those first trained on, and what cos and sin are multiplied by.

    `linear` (Chen et al. 2023) slows all down by a factor; `llama3` (Llama 3.1) and `yarn` (Peng et al. 2023) slow
    only those that turn few times within the first length, with a ramp between.
    """
    scaling = dict(shape.rope_scaling)
    if not scaling:
        return plain, 1.0
    kind, factor = scaling["rope_type"], scaling["factor"]
    length = scaling.get("original_max_position_embeddings") or shape.max_positions
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        kept = ((plain * length / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
        return plain * kept + plain / factor * (1 - kept), 1.0
    places = [  # of the frequencies that turn so many times
        shape.head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(shape.rope_theta))
        for turns in (scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1)
    ]
    first, last = max(math.floor(places[0]), 0), min(math.ceil(places[1]), shape.head_dim - 1)
    slowed = ((torch.arange(len(plain), device=plain.device) - first) / max(last - first, 0.001)).clamp(0, 1)
    size = scaling.get("attention_factor") or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return plain * (1 - slowed) + plain / factor * slowed, size


def _rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the pairs (i, i + D/2) of each head of (B, S, heads, D)."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


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
        self.context: Context | None = None

    def forward(self, x: Tensor, rotary: Rotary, seen: Visible, cache: KeyValueCache | None) -> Tensor:
        """(B, S, H) -> (B, S, H); `seen` as attention.visible makes it."""
        queries, keys, values = (  # under tensor parallelism each rank sees its own heads
            project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = _rotate(queries, rotary), _rotate(keys, rotary).transpose(1, 2)
        values = values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
        if self.context is not None:
            keys, values = self.context.gather(torch.stack((keys, values)))
        return cast(Tensor, self.o_proj(attend(queries, keys, values, seen)))


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
    """The stacked matrices of all experts of a layer: gate and up (E, F, H), down (E, H, F).

    `exchange`, where set, brings rows to the ranks that hold their experts, and back; train.parallel sets it.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(shape.experts, shape.expert_ffn, shape.hidden))
        self.up_proj = nn.Parameter(torch.empty(shape.experts, shape.expert_ffn, shape.hidden))
        self.down_proj = nn.Parameter(torch.empty(shape.experts, shape.hidden, shape.expert_ffn))
        self.exchange: Callable[[Experts, Tensor, Tensor], Tensor] | None = None

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """SwiGLU of (rows, H), sorted by expert; `counts` (E,) are the rows of each."""
        return self.swiglu(rows, counts) if self.exchange is None else self.exchange(self, rows, counts)

    def swiglu(self, rows: Tensor, counts: Tensor) -> Tensor:
        """The same by the experts that lie here."""
        ends = counts.cumsum(0).to(torch.int32)
        gate, up, down = (
            own(matrix).to(rows.dtype).transpose(1, 2) for matrix in (self.gate_proj, self.up_proj, self.down_proj)
        )
        inner = F.silu(F.grouped_mm(rows, gate, offs=ends)) * F.grouped_mm(rows, up, offs=ends)
        return F.grouped_mm(inner, down, offs=ends)


class Balance(nn.Module):
    """Bias on the choice of experts, without an auxiliary loss (Wang et al. 2024): see train.parallel.balance."""

    drift: Tensor
    bias: Tensor
    tokens: Tensor

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.register_buffer("drift", torch.zeros(experts))  # what has been added up
        self.register_buffer("bias", torch.zeros(experts))  # what of it counts now
        self.register_buffer("tokens", torch.zeros(experts, dtype=torch.int64), persistent=False)  # of this step


class SparseMLP(nn.Module):
    """Mixture of experts: each token goes to its k most probable experts, weights scaled to sum to 1."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.chosen, self.count = shape.experts_per_token, shape.experts
        self.gate = Linear(shape.hidden, shape.experts)
        self.experts = Experts(shape)
        self.balance: Balance | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) -> (B, S, H); without expert parallelism no shape depends on where the tokens go."""
        tokens = x.reshape(-1, x.shape[-1])
        odds = F.linear(tokens, own(self.gate.weight).to(x.dtype)).float().softmax(-1)
        balance = self.balance if torch.is_grad_enabled() else None  # for training alone
        chosen = (odds if balance is None else odds + balance.bias).topk(self.chosen).indices  # (B * S, k)
        weights = odds.gather(1, chosen)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.zeros(self.count, dtype=order.dtype, device=x.device)
        counts = counts.scatter_add(0, chosen.flatten(), torch.ones_like(order))
        if balance is not None:
            balance.tokens += counts
        mixed = self.experts(tokens[order // self.chosen], counts)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
        together = mixed[back].unflatten(0, chosen.shape) * weights[:, :, None]
        return cast(Tensor, together.sum(1).view(x.shape))


def own(weight: Tensor) -> Tensor:
    """This rank's share of a weight; of one that several ranks hold, each makes a summand of the gradient."""
    if not isinstance(weight, DTensor):
        return weight
    return weight.to_local(grad_placements=[Partial() if one.is_replicate() else one for one in weight.placements])


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mlp = SparseMLP(shape) if shape.experts else DenseMLP(shape)

    def forward(self, x: Tensor, rotary: Rotary, seen: Visible, cache: KeyValueCache | None = None) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, seen, cache)
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class Trunk(nn.Module):
    """Embedding, blocks and last norm; a pipeline stage holds some blocks, and the ends only where they are."""

    def __init__(self, shape: ModelShape, layers: Sequence[int]) -> None:
        super().__init__()
        first, last = 0 in layers, shape.layers - 1 in layers
        embeds = first or (last and shape.tie_embeddings)
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden) if embeds else None
        self.layers = nn.ModuleDict({str(layer): Block(shape, layer) for layer in layers})
        self.norm = RMSNorm(shape.hidden, shape.norm_eps) if last else None


class Decoder(nn.Module):
    """The network, or the part of it that holds the blocks `layers`.

    `compute` is the precision of activations (default: that of the weights). Weights are cast to it where
    they are used. `loss_group` are the ranks over which tensor parallelism splits the vocabulary, and
    `skip_ignored` leaves tokens without a target out of the loss's matrix products, at the price of shapes
    that depend on the data. `z_loss` keeps the logits small. `context` are the ranks that share each sequence.
    train.parallel sets them.
    """

    def __init__(
        self, shape: ModelShape, layers: Sequence[int] | None = None, compute: torch.dtype | None = None
    ) -> None:
        super().__init__()
        layers = range(shape.layers) if layers is None else layers
        self.shape, self.compute = shape, compute
        self.model = Trunk(shape, layers)
        self.first, last = 0 in layers, shape.layers - 1 in layers
        self.lm_head = Linear(shape.hidden, shape.vocab) if last and not shape.tie_embeddings else None
        self.context: Context | None = None
        self.loss_group: ProcessGroup | None = None
        self.skip_ignored = True
        self.z_loss = 0.0

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
        owners = self._documents(positions, documents, cache)
        if self.context is not None:
            x = self.context.own(x) if self.first else x
            positions = self.context.own(positions)
            targets = None if targets is None else self.context.own(targets)
        hidden = self.model.embed_tokens(x) if self.first and self.model.embed_tokens is not None else x
        hidden = hidden.to(self.compute or hidden.dtype)
        rotary = rotary_table(positions, self.shape, hidden.dtype)
        seen = visible(owners, positions, hidden.dtype)
        for block in self.model.layers.values():
            hidden = block(hidden, rotary, seen, cache)
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

    def _documents(self, positions: Tensor, documents: Tensor | None, cache: KeyValueCache | None) -> Documents | None:
        """Whose the tokens of this pass are; None for one document per row, whole in this pass."""
        if cache is None and self.context is None:
            return None if documents is None else Documents(documents, documents)
        documents = torch.zeros_like(positions) if documents is None else documents
        if self.context is not None:
            return Documents(self.context.own(documents), documents, self.context.starts(documents.shape[1]))
        assert cache is not None
        end = cache.used + positions.shape[1]
        cache.documents[:, cache.used : end] = documents
        return Documents(documents, cache.documents[:, :end], (cache.used,))

    def _loss(self, hidden: Tensor, targets: Tensor, each: bool) -> Tensor:
        weight = self.head_weight
        if isinstance(hidden, DTensor):  # sequence parallel: gather the tokens, scatter their gradients
            hidden = hidden.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
        if isinstance(weight, DTensor):
            weight = weight.to_local()
        found = linear_log_probs if each else partial(linear_cross_entropy, z_loss=self.z_loss)
        size = targets.shape
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if not self.skip_ignored:
            return found(hidden, weight, targets, self.loss_group).view(size if each else ())
        kept = targets != IGNORED
        one = found(hidden[kept], weight, targets[kept], self.loss_group)
        return one.new_zeros(kept.shape).masked_scatter(kept, one).view(size) if each else one
