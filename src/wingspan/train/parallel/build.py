"""The network over the ranks: one mesh, and the parallelisms applied in one visible order.

The first function to read is `parallelise`. Everything works on the meta device with a fake process
group too, which is how a rehearsal builds one rank of ten thousand on a laptop.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.data.batches import Batch
from wingspan.train.parallel.layouts import layers_of_stage

MESH_AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")

_KEPT_OPERATIONS = frozenset(  # what selective recomputation keeps: matrix products and attention
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten._grouped_mm.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    }
)


@dataclass(frozen=True)
class Part:
    """This rank's part of the network and its place in the fleet; without a mesh, all of it."""

    model: Decoder
    shape: ModelShape
    layout: Layout
    device: torch.device
    mesh: DeviceMesh | None = None
    pipeline: Schedule1F1B | None = None

    @property
    def data_rank(self) -> int:
        """Which of the layout.data_parallel slices of a batch this rank reads."""
        if self.mesh is None:
            return 0
        replica, shard = self.mesh.get_local_rank("dp_replicate"), self.mesh.get_local_rank("dp_shard")
        return int(replica * self.layout.dp_shard + shard)

    @property
    def holds_loss(self) -> bool:
        """Whether this rank's part ends in the loss."""
        return self.model.model.norm is not None

    def sum_over_data(self, value: Tensor) -> Tensor:
        """Sum over the data-parallel ranks of a value that only the ranks with the loss have (others: 0)."""
        if self.mesh is None:
            return value
        dist.all_reduce(value)
        return value / (self.layout.tp * self.layout.cp)

    def summed_loss(self, batch: Batch) -> Tensor:
        """Sum of the losses of a micro-batch; what another objective than the next token replaces."""
        loss: Tensor = self.model(batch.tokens, batch.positions, batch.documents, batch.targets)
        return loss

    def backward(self, batch: Batch, weight: int) -> Tensor:
        """Accumulate the gradients of (sum of losses) / weight; returns that loss, 0 off the last stage."""
        micro = batch.split(self.layout.micro_batch)
        if self.pipeline is not None:
            return self._through_pipeline(self.pipeline.step, batch, 1 / weight)
        total = torch.zeros((), device=self.device)
        for number, one in enumerate(micro, start=1):
            if isinstance(self.model, FSDPModule):
                self.model.set_requires_gradient_sync(number == len(micro))
            loss = self.summed_loss(one) / weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    @torch.no_grad()
    def loss(self, batch: Batch) -> Tensor:
        """Sum of the losses without gradients, 0 off the last stage; as many rows as a rank's share of a step."""
        if self.pipeline is not None:
            return self._through_pipeline(self.pipeline.eval, batch, 1.0)
        total = torch.zeros((), device=self.device)
        for one in batch.split(self.layout.micro_batch):
            total += self.summed_loss(one)
        return total

    def _through_pipeline(self, run: Callable[..., Any], batch: Batch, weight: float) -> Tensor:
        tokens = (batch.tokens,) if self.model.model.embed_tokens is not None else ()
        weights = torch.full((len(batch.tokens) // self.layout.micro_batch,), weight, device=self.device)
        losses: list[Tensor] = []
        last: dict[str, Any] = {"target": weights, "losses": losses} if self.holds_loss else {}
        whole = {"positions": batch.positions, "documents": batch.documents, "targets": batch.targets}
        run(*tokens, return_outputs=False, **whole, **last)
        return torch.stack(losses).sum().detach() if losses else torch.zeros((), device=self.device)


def make_mesh(layout: Layout, device_type: str) -> DeviceMesh:
    """The mesh of a layout over all ranks of the process group; its last axis lies closest together."""
    return init_device_mesh(
        device_type,
        (layout.pp, layout.dp_replicate, layout.dp_shard, layout.cp, layout.tp),
        mesh_dim_names=MESH_AXES,
    )


def build(
    shape: ModelShape,
    layout: Layout,
    *,
    sequence: int,
    rows: int,
    compute: torch.dtype,
    device: torch.device,
    mesh: DeviceMesh | None = None,
    compile_blocks: bool = False,
) -> Part:
    """This rank's part of the network, parallelised, its parameters on the meta device and not yet there.

    `rows` are the sequences of `sequence` tokens that a rank reads per step. Follow with `materialise`, or
    with `to_empty` in a rehearsal. Without a mesh it is a plain module for one process.
    """
    stage = 0 if mesh is None else int(mesh.get_local_rank("pp"))
    with torch.device("meta"):
        model = Decoder(shape, layers_of_stage(shape.layers, layout.pp, stage), compute)
    parallelise(model, layout, mesh, compile_blocks=compile_blocks)
    schedule = None if mesh is None or layout.pp == 1 else _pipeline(model, layout, mesh, sequence, rows, device)
    return Part(model, shape, layout, device, mesh, schedule)


def parallelise(model: Decoder, layout: Layout, mesh: DeviceMesh | None, *, compile_blocks: bool = False) -> None:
    """Apply the layout to a pipeline stage's part of the network, in the order that the parts demand."""
    blocks = list(model.model.layers.values())
    if mesh is not None and layout.tp > 1:
        _split_tensors(model, mesh["tp"])
    for block in blocks:
        if layout.recompute != "none":
            _recompute(block, selective=layout.recompute == "selective")
        if compile_blocks:
            block.compile()
    if mesh is None:
        return
    replicas = mesh["dp_shard"] if layout.dp_replicate == 1 else mesh["dp_replicate", "dp_shard"]
    precision = MixedPrecisionPolicy(param_dtype=model.compute, reduce_dtype=torch.float32)
    for module in (*blocks, model):  # the root holds embedding, last norm and head
        fully_shard(module, mesh=replicas, mp_policy=precision, reshard_after_forward=layout.pp == 1)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # losses are divided by the tokens of all ranks already
        module.set_force_sum_reduction_for_comms(True)
    model.skip_ignored = False  # shapes stay fixed, and ranks in step


def _split_tensors(model: Decoder, tp: DeviceMesh) -> None:
    """Tensor and sequence parallel: heads, MLP columns and the vocabulary over the ranks, tokens between blocks."""
    tied = model.shape.tie_embeddings  # then the embedding lies as the head does, and its gradient is made whole
    embedding = RowwiseParallel if tied or model.shape.hidden % tp.size() else ColwiseParallel
    ends: dict[str, ParallelStyle] = {
        "model.embed_tokens": embedding(input_layouts=Replicate(), output_layouts=Shard(1)),
        "model.norm": SequenceParallel(),
        "lm_head": ColwiseParallel(),
    }
    present = {name: style for name, style in ends.items() if _has(model, name)}
    parallelize_module(model, tp, present)
    if model.model.embed_tokens is not None:  # gloo exchanges by gathering: let go of what other ranks read
        model.model.embed_tokens.register_forward_hook(lambda module, tokens, hidden: hidden.clone())
    block_plan: dict[str, ParallelStyle] = {
        "input_layernorm": SequenceParallel(use_local_output=True),
        "self_attn": _gather_tokens(others=3),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)),
        "post_attention_layernorm": SequenceParallel(use_local_output=True),
        "mlp": _gather_tokens(others=0),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
    }
    if model.shape.qk_norm:  # per head, and heads are the third dimension
        norm = SequenceParallel(sequence_dim=2, use_local_output=True)
        block_plan |= {"self_attn.q_norm": norm, "self_attn.k_norm": norm}
    for block in model.model.layers.values():
        parallelize_module(block, tp, block_plan)
    model.loss_group = tp.get_group()


def _has(model: nn.Module, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute) is not None


def _gather_tokens(others: int) -> ParallelStyle:
    """All tokens for a module whose first argument holds this rank's; `others` arguments pass untouched."""
    return PrepareModuleInput(
        input_layouts=(Shard(1), *[None] * others), desired_input_layouts=(Replicate(), *[None] * others)
    )


def _recompute(block: nn.Module, *, selective: bool) -> None:
    """Forget a block's activations after forward and compute them again in backward."""
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if selective:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    block.forward = partial(checkpoint, block.forward, **options)


def _keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT_OPERATIONS else CheckpointPolicy.PREFER_RECOMPUTE


def _pipeline(
    model: Decoder, layout: Layout, mesh: DeviceMesh, sequence: int, rows: int, device: torch.device
) -> Schedule1F1B:
    """1F1B (Narayanan et al. 2019) over this stage; every shape between stages is given, none is asked for."""
    index = int(mesh.get_local_rank("pp"))
    size = (layout.micro_batch, sequence // layout.tp, model.shape.hidden)
    hidden = torch.empty(size, dtype=model.compute, device="meta", requires_grad=True)
    tokens = torch.empty(layout.micro_batch, sequence, dtype=torch.int64, device="meta")
    loss = torch.empty((), device="meta")
    stage = PipelineStage(
        model,
        index,
        layout.pp,
        device,
        input_args=tokens if index == 0 else hidden,
        output_args=loss if index == layout.pp - 1 else hidden,
        group=mesh.get_group("pp"),
    )
    return Schedule1F1B(
        stage,
        rows // layout.micro_batch,
        loss_fn=lambda total, weight: total * weight.sum(),
        scale_grads=False,
    )


def materialise(part: Part, value: Callable[[str, torch.Size], Tensor]) -> None:
    """Give every parameter its memory and its value; `value(name, shape)` is the whole parameter.

    Each rank asks for whole parameters, one at a time, and keeps its shard.
    """
    part.model.to_empty(device=part.device)
    with torch.no_grad():
        for name, parameter in part.model.named_parameters():
            whole = value(name, parameter.shape).to(part.device, parameter.dtype)
            if whole.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(whole.shape)}, expected {tuple(parameter.shape)}")
            if isinstance(parameter, DTensor):
                whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.copy_(whole)


def initial_value(shape: ModelShape, seed: int, name: str, size: torch.Size) -> Tensor:
    """A parameter's random start, keyed by (seed, name): the same on any layout.

    Norms are 1. Embeddings and head have deviation 0.02 (Radford et al. 2019), matrices 1 / sqrt(inputs) (LeCun et
    al. 1998); those that write into the residual stream are divided by sqrt(2 layers) besides (Radford).
    """
    if len(size) == 1:
        return torch.ones(size)
    key = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    deviation = 0.02 if name.endswith(("embed_tokens.weight", "lm_head.weight")) else size[-1] ** -0.5
    if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
        deviation /= math.sqrt(2 * shape.layers)
    return torch.randn(size, generator=generator) * deviation


def gradient_norms(part: Part) -> Tensor:
    """Each rank's share of the squared norm of the whole network's gradient, (ranks,), the same on every rank."""
    square = torch.zeros(1, device=part.device)
    for copies, gradients in _gradients_by_copies(part.model).items():
        square += nn.utils.get_total_norm(gradients) ** 2 / copies
    if part.mesh is None:
        return square
    squares = torch.empty(dist.get_world_size(), device=part.device)
    dist.all_gather_single(squares, square)
    return squares


def total_norm(norms: Tensor) -> float:
    """The Euclidean norm of the gradient of the whole network."""
    return math.sqrt(norms.sum().item())


def most_changed(first: Tensor, second: Tensor) -> int:
    """The rank whose share of a gradient differs most between two computations of it."""
    return int((first - second).abs().nan_to_num(nan=torch.inf).argmax().item())


def _gradients_by_copies(model: nn.Module) -> dict[int, list[Tensor]]:
    """This rank's shards of the gradients, by the number of ranks that hold the same shard."""
    found: dict[int, list[Tensor]] = {}
    for parameter in model.parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            sizes = zip(gradient.placements, gradient.device_mesh.shape, strict=True)
            copies = math.prod(size for placement, size in sizes if placement.is_replicate())
            found.setdefault(copies, []).append(gradient.to_local())
        elif gradient is not None:
            found.setdefault(1, []).append(gradient)
    return found


def scale_gradients(model: nn.Module, factor: float) -> None:
    """Multiply all gradients by a number."""
    for gradients in _gradients_by_copies(model).values():
        for gradient in gradients:
            gradient.mul_(factor)
