"""Tensor and sequence parallel: heads, MLP columns and the vocabulary over the ranks, tokens between blocks."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from wingspan.model.network import Decoder
from wingspan.project import Layout

_DENSE: dict[str, ParallelStyle] = {
    "mlp.gate_proj": ColwiseParallel(),
    "mlp.up_proj": ColwiseParallel(),
    "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
}


def split_tensors(model: Decoder, layout: Layout, mesh: DeviceMesh) -> None:
    """Split everything but experts, which split themselves: see `experts`."""
    if layout.tp == 1:
        return
    tp, shape = mesh["tp"], model.shape
    whole = shape.tie_embeddings or shape.hidden % tp.size()  # tied, it lies as the head does
    embedding = RowwiseParallel if whole else ColwiseParallel
    ends: dict[str, ParallelStyle] = {
        "model.embed_tokens": embedding(input_layouts=Replicate(), output_layouts=Shard(1)),
        "model.norm": SequenceParallel(),
        "lm_head": ColwiseParallel(),
    }
    parallelize_module(model, tp, {name: style for name, style in ends.items() if _has(model, name)})
    if model.model.embed_tokens is not None:  # gloo exchanges by gathering: let go of what other ranks read
        model.model.embed_tokens.register_forward_hook(lambda module, tokens, hidden: hidden.clone())
    plan: dict[str, ParallelStyle] = {
        "input_layernorm": SequenceParallel(use_local_output=True),
        "self_attn": _gather_tokens(others=3),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)),
        "post_attention_layernorm": SequenceParallel(use_local_output=True),
    }
    if not shape.experts:
        plan |= {"mlp": _gather_tokens(others=0), **_DENSE}
    if shape.qk_norm:  # per head, and heads are the third dimension
        norm = SequenceParallel(sequence_dim=2, use_local_output=True)
        plan |= {"self_attn.q_norm": norm, "self_attn.k_norm": norm}
    for block in model.model.layers.values():
        parallelize_module(block, tp, plan)
    model.loss_group = tp.get_group()


def _has(model: nn.Module, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute) is not None


def _gather_tokens(others: int) -> ParallelStyle:
    """All tokens for a module whose first argument holds this rank's; `others` arguments pass untouched."""
    return PrepareModuleInput(
        input_layouts=(Shard(1), *[None] * others), desired_input_layouts=(Replicate(), *[None] * others)
    )
