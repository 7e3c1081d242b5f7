"""Memory of a layout's devices, item by item, in bytes: of every pipeline stage, and of the fullest.

Activations, parameters in use and gradients are not all there at once, so three moments of a step are
compared and the fullest is shown. docs/plan.md derives every line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wingspan.plan.devices.chips import Chip
from wingspan.plan.step.accounting import Accounting
from wingspan.plan.step.activations import (
    ZBV,
    first_fuller_stage,
    in_flight_micro_batches,
    kept_bytes,
    layers_of_stage,
    mlp_values,
    whole_block,
)
from wingspan.plan.step.grid import Array, Flags, Grid, Software, Workload, added
from wingspan.plan.step.network import Network
from wingspan.units import GIB

ITEMS = (
    "parameters",
    "gradients",
    "optimizer",
    "gathered_blocks",
    "activations",
    "logits",
    "communication",
    "framework",
    "fragmentation",
)

_CONTEXT_CPU = 0.7 * GIB  # resident size of a process that has trained something tiny with torch and transformers
_FRAGMENTATION_CPU = 0.1  # of what comes and goes: malloc gives little back to the system between sizes
_LINKS_GB_S = 300.0  # of an A100, on which NCCL opens 24 channels; it opens more where there are more links
_FP32 = 1  # index into grid.PRECISION

Items = dict[str, Array]


def memory(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software) -> Items:
    """Bytes per item on the fullest device of every layout: its tensors, the process and its networks."""
    numbers = _fullest(network, grid, software)
    stages = [stage_memory(network, grid, workload, chip, software, number) for number in numbers]
    chosen = np.argmax(np.broadcast_arrays(*map(total, stages)), axis=0)
    return {item: _choose(chosen, [items[item] for items in stages]) for item in ITEMS}


def needed(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software) -> Array:
    """Bytes that the fullest device of every layout needs: the items of `memory` together, and quicker."""
    stages = (_Stage(network, grid, workload, chip, software, stage) for stage in _fullest(network, grid, software))
    return _largest(_whole_stage(stage) for stage in stages)


def stage_memory(
    network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software, number: Array | int
) -> Items:
    """Bytes per item on a device of pipeline stage `number`, counted from 0."""
    stage = _Stage(network, grid, workload, chip, software, np.asarray(number, dtype=np.float64))
    items = _states(stage)
    moments = _moments(stage, items["gradients"])
    fullest = np.argmax(np.broadcast_arrays(*(_held(stage, moment) for moment in moments)), axis=0)
    items |= {name: _choose(fullest, [moment[name] for moment in moments]) for name in moments[0]}
    passing = items["gathered_blocks"] + items["activations"] + items["logits"]
    return items | _process(stage) | {"fragmentation": _fragmentation(stage) * passing}


def by_stage(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software) -> Items:
    """Bytes per item on a device of every pipeline stage of one layout: arrays of the stages' length."""
    stages = np.arange(grid.pp[0])
    items = stage_memory(network, grid, workload, chip, software, stages)
    return {item: np.broadcast_to(items[item], stages.shape) for item in ITEMS}


def total(items: Items) -> Array:
    """All items together, bytes."""
    return added(items[item] for item in ITEMS)


def reported(items: Items, books: Accounting) -> Array:
    """What the software prints as its memory, bytes: the device's, or the allocator's part of it."""
    unseen = items["communication"] + items["framework"]
    return total(items) - (unseen if books.reports == "tensors" else 0.0)


def _fullest(network: Network, grid: Grid, software: Software) -> list[Array]:
    """The stages of which one is the fullest: the first, the first with a layer more, the last."""
    none = np.zeros_like(grid.pp)
    if np.all(grid.pp == 1):
        return [none]
    left = network.layers % grid.pp
    fuller = np.where(left > 0, first_fuller_stage(network, grid, software), 0.0)
    return [none, *([fuller] if np.any(fuller) else []), grid.pp - 1]


def _whole_stage(stage: _Stage) -> Array:
    states, process = _states(stage), _process(stage)
    passing = _largest(_held(stage, moment) for moment in _moments(stage, states["gradients"]))
    return added([states["parameters"], states["optimizer"], *process.values(), passing])


def _held(stage: _Stage, moment: Items) -> Array:
    """Bytes at a moment besides what is there all through the step."""
    passing = moment["gathered_blocks"] + moment["activations"] + moment["logits"]
    return moment["gradients"] + (1 + _fragmentation(stage)) * passing


def _largest(arrays: Iterable[Array]) -> Array:
    first, *others = arrays
    for one in others:
        first = np.maximum(first, one)
    return first


def _choose(index: NDArray[np.intp], values: list[Array]) -> Array:
    return np.choose(index, np.broadcast_arrays(index, *values)[1:]) if len(values) > 1 else values[0]


@dataclass(frozen=True)
class _Stage:
    """One pipeline stage on one tensor-parallel rank, of every layout."""

    network: Network
    grid: Grid
    workload: Workload
    chip: Chip
    software: Software
    number: Array

    @property
    def books(self) -> Accounting:
        return self.software.accounting

    @cached_property
    def word(self) -> Array:
        """Bytes of a value in the precision of the work."""
        return np.where(self.grid.precision == _FP32, 4.0, 2.0)

    @cached_property
    def tokens(self) -> Array:
        """Tokens of a micro-batch on one rank."""
        return self.grid.micro_batch * self.workload.sequence / self.grid.cp

    @cached_property
    def accumulates(self) -> Flags:
        """Whether gradients lie whole on fully sharded ranks while micro-batches come."""
        several: Flags = self.grid.micro_batches(self.workload) > 1
        return several & self.books.accumulates_whole

    @cached_property
    def matrix(self) -> Array:
        """Parameters of one vocabulary matrix."""
        return self.network.embedding_parameters / self.grid.tp

    @cached_property
    def has_embedding(self) -> Flags:
        first: Flags = self.number == 0
        return first

    @cached_property
    def has_head(self) -> Flags:
        last: Flags = np.where(self.grid.schedule >= ZBV, self.number == 0, self.number == self.grid.pp - 1)
        return last

    @cached_property
    def ends(self) -> Array:
        """Parameters of the vocabulary's matrices on the stage."""
        both = 1.0 if self.network.tied else 2.0
        return self.matrix * np.where(self.has_embedding & self.has_head, both, self.has_embedding | self.has_head)

    @cached_property
    def head(self) -> Array:
        """Parameters of the output matrix where the stage has it, else 0."""
        return self.matrix * self.has_head

    @cached_property
    def layers(self) -> Array:
        return layers_of_stage(self.network, self.grid, self.software, self.number)

    @cached_property
    def dense(self) -> Array:
        """Parameters that expert parallelism does not divide."""
        share = self.layers / self.network.layers / self.grid.tp
        return self.network.dense_parameters * share + self.ends

    @cached_property
    def experts(self) -> Array:
        """Parameters of the routed experts."""
        return self.network.expert_parameters * self.layers / self.network.layers / self.grid.tp

    @cached_property
    def whole(self) -> Array:
        """Parameters before they are sharded."""
        return self.dense + self.experts / self.grid.ep

    @cached_property
    def block(self) -> Array:
        """Parameters of one block before they are sharded."""
        network = self.network
        return (network.dense_parameters + network.expert_parameters / self.grid.ep) / network.layers / self.grid.tp


def _states(stage: _Stage) -> Items:
    """Parameters, gradients and optimizer state by ZeRO stage (Rajbhandari et al. 2020).

    Fully sharded (FSDP2): fp32 parameters, fp32 gradients and the optimizer's state, all over the shard
    ranks; while gradients accumulate they may be whole. Below stage 3 the working copy is 16 bits and whole,
    and the fp32 master belongs to the optimizer. Expert parallelism lies inside the shard ranks, so it
    changes what is whole, not what is sharded.
    """
    grid, books, moments = stage.grid, stage.books, stage.workload.optimizer_bytes
    sharded = (stage.dense + stage.experts) / (grid.shard * grid.cp)
    full = grid.zero == 3
    below = books.gradient * np.where(grid.zero >= 2, sharded, stage.whole)
    optimizer = (4.0 + books.copies + moments) * np.where(grid.zero >= 1, sharded, stage.whole)
    accumulated = np.where(stage.accumulates, stage.whole, sharded)
    return {
        "parameters": np.where(full, 4.0 * sharded, stage.word * stage.whole),
        "gradients": np.where(full, 4.0 * accumulated, below),
        "optimizer": np.where(full, moments * sharded, optimizer),
    }


def _moments(stage: _Stage, gradients: Array) -> list[Items]:
    """What comes and goes at three moments: in the loss, in a block's first backward pass, at the end.

    Of fully sharded ranks with one micro-batch, gradients appear as activations go: they are there at the end.
    """
    grid, network, words = stage.grid, stage.network, stage.tokens * stage.word
    common = (network, grid, stage.workload, stage.chip, stage.software, stage.word)
    in_flight = in_flight_micro_batches(grid, stage.workload, stage.number)
    masks = words * stage.workload.sequence * stage.books.mask * in_flight
    passed_on = words * network.hidden * stage.books.passed_on * (grid.pp > 1)
    kept = (stage.tokens * kept_bytes(*common) * stage.layers + passed_on) * in_flight + masks
    again = np.where(grid.recompute > 0, stage.tokens * whole_block(*common), 0.0)
    before = np.where((grid.zero == 3) & ~stage.accumulates, 0.0, gradients)
    in_loss, after_loss = _loss(stage)
    early, running, late = _whole_parameters(stage)
    return [
        {"gradients": before, "gathered_blocks": early, "activations": kept, "logits": in_loss},
        {
            "gradients": before,
            "gathered_blocks": running,
            "activations": kept + again + words * _flowing(stage),
            "logits": after_loss,
        },
        {"gradients": gradients, "gathered_blocks": late, "activations": 0.0 * kept, "logits": 0.0 * in_loss},
    ]


def _flowing(stage: _Stage) -> Array:
    """Values per token on their way back through a block: three of width h, two of the MLP's width, scores."""
    network, tp = stage.network, stage.grid.tp
    h = 3 * network.hidden / (1.0 if stage.books.gathered or not stage.books.sequence_parallel else tp)
    scores = 0.0 if stage.software.flash else network.heads * stage.workload.sequence
    return h + (2 * mlp_values(network) + scores) / tp


def _loss(stage: _Stage) -> tuple[Array, Array]:
    """Logits in the loss and after it, with the last norm's value, whole, and its gradient.

    A loss in chunks makes the output matrix's gradient as it goes, in fp32, each chunk's beside it in both
    precisions.
    """
    network, books = stage.network, stage.books
    logits = stage.tokens * network.vocab / stage.grid.tp * stage.has_head
    hidden = (2 * stage.word + (stage.word + books.norm_bytes / 2) / stage.grid.tp) * network.hidden * stage.tokens
    hidden = hidden * stage.has_head
    if not np.isfinite(books.loss_chunk):
        return (books.logit + books.split_logit * (stage.grid.tp > 1)) * logits + hidden, 0.0 * logits
    whole = stage.tokens * network.vocab * stage.has_head
    chunk = books.logit * np.minimum(logits, books.loss_chunk)
    gradient = np.where(whole > books.loss_chunk, 8.0 + stage.word, 4.0 + stage.word) * stage.head
    return chunk + gradient + hidden, stage.word * stage.head


def _whole_parameters(stage: _Stage) -> tuple[Array, Array, Array]:
    """Whole parameters in the precision of the work, and gradients on their way, at the three moments.

    Sharded ranks hold the vocabulary's matrices through the step, a block ahead, and the gradient of one
    block as it was made and as it is scattered, beside the one before. A pipeline stage stays whole through the
    step rather than gather for every micro-batch, and one device alone keeps the copies that its backward
    pass reads.
    """
    grid, word, block, ends = stage.grid, stage.word, stage.block, stage.ends
    alone, pipeline, sharded = grid.devices == 1, grid.pp > 1, grid.zero == 3
    copies = np.where(grid.recompute > 0, word * (ends + block), word * stage.whole)
    whole = word * stage.whole
    early = np.select([alone, pipeline], [copies, whole], word * ends)
    running = np.select(
        [alone, pipeline], [copies, whole + word * block], word * ends + stage.books.block_bytes * block
    )
    late = np.select([alone, pipeline], [0.0 * whole, whole], (2 * word + 4.0) * ends)
    return np.where(sharded, early, 0.0), np.where(sharded, running, 0.0), np.where(sharded, late, 0.0)


def _process(stage: _Stage) -> Items:
    """The process itself and the buffers of its process groups; gloo on a CPU needs next to nothing."""
    grid, books = stage.grid, stage.books
    if stage.chip.kind == "cpu":
        return {"communication": np.zeros_like(grid.tp), "framework": np.full_like(grid.tp, _CONTEXT_CPU)}
    sizes = (grid.replicate, grid.shard, grid.tp, grid.cp, grid.pp, grid.ep)
    groups = added((size > 1).astype(np.float64) for size in sizes)
    groups = groups + books.communicators * (groups > 0)
    bucket = books.bucket_bytes * np.minimum(books.bucket, stage.whole) * (grid.shard > 1)
    links = (stage.chip.domain_gb_s or _LINKS_GB_S) / _LINKS_GB_S
    return {
        "communication": books.communicator * links * groups + bucket,
        "framework": np.full_like(grid.tp, books.context),
    }


def _fragmentation(stage: _Stage) -> float:
    return _FRAGMENTATION_CPU if stage.chip.kind == "cpu" else stage.books.fragmentation
