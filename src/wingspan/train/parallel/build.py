"""The network over the ranks: the parallelisms, applied in one visible order by `parallelise`.

Everything works on the meta device with a fake process group too, which is how a rehearsal builds one
rank of ten thousand on a laptop.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from wingspan.model.lora import add_adapters
from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.parallel.context import split_sequences
from wingspan.train.parallel.experts import shard_dimension, sparse_mlp, spread_experts
from wingspan.train.parallel.layouts import layers_of_rank
from wingspan.train.parallel.mesh import shard_mesh, with_replicas
from wingspan.train.parallel.part import Part
from wingspan.train.parallel.pipeline import chunks_of, make_schedule
from wingspan.train.parallel.recompute import recompute
from wingspan.train.parallel.tensor import split_tensors


def build(
    shape: ModelShape,
    layout: Layout,
    *,
    sequence: int,
    rows: int,
    compute: torch.dtype,
    device: torch.device,
    mesh: DeviceMesh | None = None,
    compiled: bool = False,
    lora_rank: int = 0,
    z_loss: float = 0.0,
) -> Part:
    """This rank's part of the network, parallelised, its parameters on the meta device and not yet there.

    `rows` are the sequences of `sequence` tokens that a rank reads per step. Follow with `materialise`, or
    with `to_empty` in a rehearsal. Without a mesh it is a plain module for one process.
    """
    rank = 0 if mesh is None else int(mesh.get_local_rank("pp"))
    with torch.device("meta"):
        model = Decoder(shape, layers_of_rank(shape.layers, layout, rank), compute)
        if lora_rank:
            add_adapters(model, lora_rank)
    model.z_loss = z_loss
    chunks = parallelise(model, layout, mesh, compiled=compiled)
    schedule = None
    if mesh is not None and layout.pp > 1:
        schedule = make_schedule(chunks, layout, mesh, sequence, rows, device)
    return Part(model, shape, layout, device, mesh, schedule)


def parallelise(
    model: Decoder, layout: Layout, mesh: DeviceMesh | None, *, compiled: bool = False
) -> tuple[Decoder, ...]:
    """Apply the layout to what a rank holds of the network, in the order that the parts demand; its pipeline stages."""
    shards = None
    if mesh is not None:
        split_sequences(model, layout, mesh)
        shards = spread_experts(model, layout, mesh)
        split_tensors(model, layout, mesh)
    for block in model.model.layers.values():
        if layout.recompute != "none":
            recompute(block, selective=layout.recompute == "selective")
        if compiled and mesh is not None:  # what shards and sends lies between the blocks
            block.compile()
    if mesh is None:
        if compiled:  # all of it, the loss too: nothing is left between the products that could be fused and is not
            model.skip_ignored = False
            model.compile(dynamic=False)
        return (model,)
    chunks = chunks_of(model, layout, int(mesh.get_local_rank("pp")))
    for chunk in chunks:
        _shard(chunk, layout, mesh, shards)
    return chunks


def _shard(chunk: Decoder, layout: Layout, mesh: DeviceMesh, expert_shards: DeviceMesh | None) -> None:
    """FSDP or HSDP, block by block; the root holds embedding, last norm and head. Also where nothing is to share out,
    as it keeps the weights in float32 and their copies in the precision of the activations."""
    whole = with_replicas(shard_mesh(mesh, layout), mesh, layout)
    shard: Any = partial(
        fully_shard,
        mp_policy=MixedPrecisionPolicy(param_dtype=chunk.compute, reduce_dtype=torch.float32),
        reshard_after_forward=layout.pp == 1,
    )
    for block in chunk.model.layers.values():
        if expert_shards is not None:
            experts = sparse_mlp(block).experts
            own = with_replicas(expert_shards, mesh, layout)
            shard(experts, mesh=own, shard_placement_fn=shard_dimension(experts, expert_shards))
        shard(block, mesh=whole)
    shard(chunk, mesh=whole)
    for module in chunk.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # losses are divided by the tokens of all ranks already
            module.set_force_sum_reduction_for_comms(True)
    chunk.skip_ignored = False  # shapes stay fixed, and ranks in step
