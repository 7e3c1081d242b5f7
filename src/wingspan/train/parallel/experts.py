"""Expert parallel: each rank holds some experts whole, or a slice of each; tokens travel to their experts and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from wingspan.model.network import Block, Decoder, Experts, SparseMLP, own
from wingspan.project import Layout
from wingspan.train.parallel.mesh import expert_meshes
from wingspan.train.torch_compat import join_meshes

_SLICED = {"gate_proj": Shard(1), "up_proj": Shard(1), "down_proj": Shard(2)}  # (E, F, H), (E, F, H), (E, H, F)


def spread_experts(model: Decoder, layout: Layout, mesh: DeviceMesh) -> DeviceMesh | None:
    """Spread experts over ep and slice them over tp; the ranks that share each out, where they are not the block's."""
    if not model.shape.experts or layout.ep == layout.tp == 1:
        return None
    tp = mesh["tp"]
    shards, ep = expert_meshes(mesh, layout) if layout.ep > 1 else (None, None)
    for block in model.model.layers.values():
        mlp = sparse_mlp(block)
        experts = mlp.experts
        if layout.tp > 1:
            _distribute(mlp.gate, "weight", tp, [Replicate()])
            mlp.register_forward_pre_hook(partial(_gather_tokens, tp))
            mlp.register_forward_hook(partial(_scatter_tokens, tp))
        for name, slices in _SLICED.items():
            if ep is None:
                _distribute(experts, name, tp, [slices])
            elif layout.tp == 1:
                _distribute(experts, name, ep, [Shard(0)])
            else:
                _distribute(experts, name, join_meshes(ep, tp), [Shard(0), slices])
        if ep is not None:
            experts.exchange = partial(_exchange, ep.get_group())
    return shards


def sparse_mlp(block: nn.Module) -> SparseMLP:
    """The MLP of a block that has experts."""
    assert isinstance(block, Block)
    assert isinstance(block.mlp, SparseMLP)
    return block.mlp


def shard_dimension(experts: Experts, shards: DeviceMesh) -> Callable[[nn.Parameter], Shard]:
    """Along which dimension a rank's experts are shared out: whole ones, or else their width where that is even."""
    held, width = own(experts.gate_proj).shape[0], experts.gate_proj.shape[2]
    by_width = held % shards.size() and width % shards.size() == 0
    return lambda matrix: Shard((1 if matrix is experts.down_proj else 2) if by_width else 0)


def _distribute(module: nn.Module, name: str, mesh: DeviceMesh, placements: list[Placement]) -> None:
    spread = distribute_tensor(getattr(module, name), mesh, placements, src_data_rank=None)
    setattr(module, name, nn.Parameter(spread))


def _gather_tokens(tp: DeviceMesh, mlp: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """All tokens of the sequence, of which this rank has some; each rank makes a summand of their gradient."""
    whole = DTensor.from_local(args[0], tp, [Shard(1)]).redistribute(placements=[Replicate()])
    return (whole.to_local(grad_placements=[Partial()]),)


def _scatter_tokens(tp: DeviceMesh, mlp: nn.Module, args: tuple[Tensor], mixed: Tensor) -> Tensor:
    """This rank's tokens of the sum over ranks, each of which computed a slice of every expert."""
    return DTensor.from_local(mixed, tp, [Partial()]).redistribute(placements=[Shard(1)]).to_local()


def _exchange(group: ProcessGroup, experts: Experts, rows: Tensor, counts: Tensor) -> Tensor:
    """What all experts make of rows (R, H) sorted by expert, `counts` (E,) of each: sent to their ranks and back."""
    arriving = torch.empty_like(counts)  # for each rank in turn, how many rows it has for each expert here
    dist.all_to_all_single(arriving, counts, group=group)
    sent, received = counts.view(group.size(), -1), arriving.view(group.size(), -1)
    out, into = sent.sum(1).tolist(), received.sum(1).tolist()
    there = _AllToAll.apply(rows, out, into, group)  # type: ignore[no-untyped-call]
    here = torch.arange(received.shape[1], device=rows.device).repeat(group.size())
    order = here.repeat_interleave(arriving, output_size=len(there)).argsort(stable=True)
    made = experts.swiglu(there[order], received.sum(0))
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=rows.device))
    mixed: Tensor = _AllToAll.apply(made[back], into, out, group)  # type: ignore[no-untyped-call]
    return mixed


class _AllToAll(torch.autograd.Function):
    """Rows to the ranks: `out[r]` of them go to rank r, `into[r]` come from there."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, out: list[int], into: list[int], group: ProcessGroup) -> Tensor:
        ctx.way = out, into, group
        return _send(rows, out, into, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        out, into, group = ctx.way
        return _send(gradients[0], into, out, group), None, None, None


def _send(rows: Tensor, out: list[int], into: list[int], group: ProcessGroup) -> Tensor:
    arrived = rows.new_empty(sum(into), *rows.shape[1:])
    dist.all_to_all_single(arrived, rows.contiguous(), into, out, group=group)
    return arrived
