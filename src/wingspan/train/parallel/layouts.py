"""Whether a layout fits the model, the batch and the ranks that are there; what to change where it does not."""

from __future__ import annotations

import math

import torch

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.torch_compat import cpu_multiplies_bf16


def fit_layout(layout: Layout, shape: ModelShape, *, sequence: int, global_batch: int, ranks: int) -> Layout:
    """The layout with the largest micro-batch, up to the given one, that divides the batch.

    Raises InputError naming the setting to change for a layout that cannot be.
    """
    _check_ranks(layout, ranks)
    _check_shape(layout, shape, sequence)
    if global_batch % layout.data_parallel:
        nearest = -(-global_batch // layout.data_parallel) * layout.data_parallel
        raise InputError(
            f"{global_batch} sequences cannot be shared evenly by {layout.data_parallel} data-parallel ranks",
            where="train.global_batch",
            remedy=f"Set it to a multiple of {layout.data_parallel}, e.g. {nearest}",
        )
    rows = global_batch // layout.data_parallel
    if rows < layout.pp:
        raise InputError(
            f"{rows} sequences per data-parallel rank cannot fill {layout.pp} pipeline stages",
            where="train.global_batch",
            remedy=f"Set it to {layout.pp * layout.data_parallel} or more, or lower layout.pp",
        )
    largest = rows // layout.pp
    micro_batch = max(size for size in range(1, largest + 1) if rows % size == 0 and size <= layout.micro_batch)
    return layout.model_copy(update={"micro_batch": micro_batch})


def _check_ranks(layout: Layout, ranks: int) -> None:
    if layout.world_size != ranks:
        raise InputError(
            f"the layout needs {layout.world_size} ranks, {ranks} {'is' if ranks == 1 else 'are'} running",
            where="layout",
            remedy=f"Start it with torchrun --nproc-per-node={layout.world_size} -m wingspan train ..., "
            f"or make dp_replicate x dp_shard x tp x cp x pp equal {ranks}",
        )


def _check_shape(layout: Layout, shape: ModelShape, sequence: int) -> None:
    for name, value in (("cp", layout.cp), ("ep", layout.ep)):
        if value > 1:
            raise InputError(
                f"{name} = {value} is not supported by train", where=f"layout.{name}", remedy="Set it to 1"
            )
    if layout.precision == "fp8":
        raise InputError("fp8 is not supported by train", where="layout.precision", remedy="Set it to 'bf16'")
    if layout.tp > 1 and shape.experts:
        raise InputError("experts cannot be split over tp", where="layout.tp", remedy="Set it to 1; use dp_shard or pp")
    if math.gcd(shape.heads, shape.kv_heads, sequence, layout.tp) != layout.tp:
        raise InputError(
            f"tp = {layout.tp} does not divide {shape.heads} heads, {shape.kv_heads} key heads and "
            f"sequences of {sequence} tokens",
            where="layout.tp",
            remedy=f"Set it to a divisor of {math.gcd(shape.heads, shape.kv_heads, sequence)}",
        )
    if layout.pp > shape.layers:
        raise InputError(
            f"{shape.layers} layers cannot fill {layout.pp} pipeline stages",
            where="layout.pp",
            remedy=f"Set it to {shape.layers} or less",
        )
    if layout.pp > 1 and shape.tie_embeddings:
        raise InputError(
            "tied embeddings would lie on the first and the last pipeline stage",
            where="model.tie_embeddings",
            remedy="Set it to false, or layout.pp to 1",
        )


def compute_precision(layout: Layout, device: torch.device) -> torch.dtype:
    """Precision of activations: bf16 where asked for and where the device multiplies in it, else float32."""
    if layout.precision == "fp32" or (device.type == "cpu" and not cpu_multiplies_bf16()):
        return torch.float32
    return torch.bfloat16


def layers_of_stage(layers: int, stages: int, stage: int) -> range:
    """The blocks of a pipeline stage: as even as can be, the remainder in the middle.

    The first stage also holds the embedding and the last one the head, so the stages between them take
    the blocks left over.
    """
    base, left = divmod(layers, stages)
    first_extra = (stages - left) // 2
    sizes = [base + (first_extra <= number < first_extra + left) for number in range(stages)]
    begin = sum(sizes[:stage])
    return range(begin, begin + sizes[stage])
