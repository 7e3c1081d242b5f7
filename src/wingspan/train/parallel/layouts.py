"""Whether a layout fits the model, the batch and the ranks that are there; what to change where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator

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
    if rows % layout.pp if layout.interleave > 1 else rows < layout.pp:
        raise InputError(
            f"{rows} sequences per data-parallel rank cannot fill {layout.pp} pipeline stages",
            where="train.global_batch",
            remedy=f"Set it to a multiple of {layout.pp * layout.data_parallel}, or lower layout.pp",
        )
    step = layout.pp if layout.interleave > 1 else 1  # stages in turns take micro-batches in rounds of pp
    largest = rows // layout.pp
    micro_batch = max(
        size for size in range(1, largest + 1) if rows % (size * step) == 0 and size <= layout.micro_batch
    )
    return layout.model_copy(update={"micro_batch": micro_batch})


def _check_ranks(layout: Layout, ranks: int) -> None:
    if layout.world_size != ranks:
        raise InputError(
            f"the layout needs {layout.world_size} ranks, {ranks} {'is' if ranks == 1 else 'are'} running",
            where="layout",
            remedy="Start it with wingspan launch local, slurm or kubernetes, "
            f"or make dp_replicate x dp_shard x tp x cp x pp equal {ranks}",
        )


def _check_shape(layout: Layout, shape: ModelShape, sequence: int) -> None:
    """Raise InputError for the first rule that a layout breaks."""
    for broken, problem, setting, remedy in _rules(layout, shape, sequence):
        if broken:
            raise InputError(problem, where=setting, remedy=remedy)


def _rules(layout: Layout, shape: ModelShape, sequence: int) -> Iterator[tuple[bool, str, str, str]]:
    """Whether a rule is broken, how, and the setting that would mend it."""
    tp, cp, ep, pp, stages = layout.tp, layout.cp, layout.ep, layout.pp, len(stages_of_rank(layout, 0)) * layout.pp
    heads = math.gcd(shape.heads, shape.kv_heads)
    yield (
        heads % tp > 0,
        f"tp = {tp} does not divide {shape.heads} heads and {shape.kv_heads} key heads",
        "layout.tp",
        f"Set it to a divisor of {heads}",
    )
    yield (
        sequence % (2 * cp if cp > 1 else 1) > 0 or sequence // cp % tp > 0,
        f"sequences of {sequence} tokens cannot be shared by cp = {cp} times tp = {tp} ranks",
        "layout.cp" if cp > 1 else "layout.tp",
        f"Lower it, or make the sequence a multiple of {2 * cp * tp}",
    )
    yield (
        bool(shape.experts) and shape.expert_ffn % tp > 0,
        f"tp = {tp} does not divide the width {shape.expert_ffn} of an expert",
        "layout.tp",
        f"Set it to a divisor of {shape.expert_ffn}",
    )
    yield (
        ep > 1 and (not shape.experts or shape.experts % ep > 0),
        f"{shape.experts} experts cannot be spread over ep = {ep} ranks",
        "layout.ep",
        f"Set it to a divisor of {shape.experts}" if shape.experts else "Set it to 1",
    )
    yield (
        layout.dp_shard * cp % ep > 0,
        f"ep = {ep} does not lie inside dp_shard x cp = {layout.dp_shard * cp}",
        "layout.ep",
        f"Set it to a divisor of {layout.dp_shard * cp}",
    )
    yield (
        pp == 1 and stages > 1,
        "one pipeline rank has nothing to take turns with",
        "layout.schedule" if layout.schedule == "zbv" else "layout.interleave",
        "Set it to '1f1b'" if layout.schedule == "zbv" else "Set it to 1",
    )
    yield (
        layout.schedule == "zbv" and layout.interleave > 1,
        "zbv has two stages per rank, not turns",
        "layout.interleave",
        "Set it to 1",
    )
    yield (
        stages > shape.layers,
        f"{shape.layers} layers cannot fill {stages} pipeline stages",
        "layout.pp",
        f"Set it to {max(1, shape.layers * pp // stages)} or less",
    )
    yield (
        layout.schedule == "zbv" and shape.tie_embeddings,
        "tied embeddings would lie twice on the first rank of a V",
        "layout.schedule",
        "Set it to '1f1b', or model.tie_embeddings to false",
    )
    yield (
        layout.precision == "fp8",
        "fp8 is not supported by train",
        "layout.precision",
        "Set it to 'bf16'",
    )


def compute_precision(layout: Layout, device: torch.device) -> torch.dtype:
    """Precision of activations: bf16 where asked for and where the device multiplies in it, else float32."""
    if layout.precision == "fp32" or (device.type == "cpu" and not cpu_multiplies_bf16()):
        return torch.float32
    return torch.bfloat16


def stages_of_rank(layout: Layout, rank: int) -> tuple[int, ...]:
    """The pipeline stages of a rank of pp: every pp-th, or one on the way down and one on the way back of a V."""
    if layout.schedule == "zbv":
        return rank, 2 * layout.pp - 1 - rank
    return tuple(rank + turn * layout.pp for turn in range(layout.interleave))


def layers_of_rank(layers: int, layout: Layout, rank: int) -> tuple[int, ...]:
    """The blocks of all stages of a rank of pp."""
    stages = stages_of_rank(layout, rank)
    return tuple(layer for stage in stages for layer in layers_of_stage(layers, layout.pp * len(stages), stage))


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
