"""Pipeline parallel: which stages of the network a rank holds, and the schedule that runs them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)
from torch.distributed.tensor import DTensor

from wingspan.model.network import Decoder
from wingspan.project import Layout
from wingspan.train.parallel.layouts import layers_of_stage, stages_of_rank

Schedule = Schedule1F1B | ScheduleInterleaved1F1B | ScheduleZBVZeroBubble


def chunks_of(model: Decoder, layout: Layout, rank: int) -> tuple[Decoder, ...]:
    """This rank's pipeline stages as networks of their own, made of the modules of `model`, which names them all."""
    stages = stages_of_rank(layout, rank)
    if len(stages) == 1:
        return (model,)
    return tuple(_chunk(model, layers_of_stage(model.shape.layers, layout.pp * len(stages), stage)) for stage in stages)


def _chunk(whole: Decoder, layers: range) -> Decoder:
    with torch.device("meta"):
        chunk = Decoder(whole.shape, layers, whole.compute)
    chunk.model.layers = nn.ModuleDict({str(layer): whole.model.layers[str(layer)] for layer in layers})
    for mine, its in ((chunk.model, whole.model), (chunk, whole)):
        for name in ("embed_tokens", "norm", "lm_head"):
            if getattr(mine, name, None) is not None:
                setattr(mine, name, getattr(its, name))
    chunk.loss_group, chunk.context, chunk.z_loss = whole.loss_group, whole.context, whole.z_loss
    return chunk


def make_schedule(
    chunks: tuple[Decoder, ...], layout: Layout, mesh: DeviceMesh, sequence: int, rows: int, device: torch.device
) -> Schedule:
    """1F1B (Narayanan et al. 2019), interleaved (2021), or zero-bubble V (Qi et al. 2023).

    Every shape between stages is given, none is asked for.
    """
    rank = int(mesh.get_local_rank("pp"))
    total = layout.pp * len(chunks)
    size = (layout.micro_batch, sequence // (layout.cp * layout.tp), chunks[0].shape.hidden)
    hidden = torch.empty(size, dtype=chunks[0].compute, device="meta", requires_grad=True)
    tokens = torch.empty(layout.micro_batch, sequence, dtype=torch.int64, device="meta")
    loss = torch.empty((), device="meta")
    stages: list[Any] = [
        PipelineStage(
            chunk,
            index,
            total,
            device,
            input_args=tokens if index == 0 else hidden,
            output_args=loss if index == total - 1 else hidden,
            group=mesh.get_group("pp"),
        )
        for index, chunk in zip(stages_of_rank(layout, rank), chunks, strict=True)
    ]
    micro_batches = rows // layout.micro_batch
    options: dict[str, Any] = {"loss_fn": lambda total, weight: total * weight.sum(), "scale_grads": False}
    if layout.schedule == "zbv":
        return ScheduleZBVZeroBubble(stages, micro_batches, **options)
    if len(stages) > 1:
        return ScheduleInterleaved1F1B(stages, micro_batches, **options)
    return Schedule1F1B(stages[0], micro_batches, **options)


def ties_stages(model: Decoder, layout: Layout) -> bool:
    """Whether the embedding lies on the first stage and again, as the head, on the last."""
    return layout.pp > 1 and model.shape.tie_embeddings


def sum_tied_gradients(model: Decoder, layout: Layout, mesh: DeviceMesh) -> None:
    """Give both copies of tied embeddings the sum of their gradients, so that they stay equal to the bit."""
    if not ties_stages(model, layout) or model.model.embed_tokens is None:
        return
    gradient = model.model.embed_tokens.weight.grad
    assert isinstance(gradient, DTensor)
    mine, group = gradient.to_local(), mesh.get_group("pp")
    theirs, peer = torch.empty_like(mine), layout.pp - 1 - group.rank()
    both = (
        dist.P2POp(dist.isend, mine, group=group, group_peer=peer),
        dist.P2POp(dist.irecv, theirs, group=group, group_peer=peer),
    )
    for exchange in dist.batch_isend_irecv(list(both)):
        exchange.wait()
    mine += theirs
