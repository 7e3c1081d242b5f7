"""Memory of the fullest device of a layout, item by item, in bytes.

Activations, parameters in use and gradients are not all there at once, so three moments of a step are
compared and the fullest is shown. docs/plan.md derives every line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wingspan.plan.activations import kept_bytes, layers_held, mlp_values, whole_block
from wingspan.plan.chips import Chip
from wingspan.plan.grid import Array, Flags, Grid, Software, Workload, added
from wingspan.plan.network import Network
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

_CONTEXT_GPU = 0.8 * GIB  # CUDA context and library workspaces; 0.5 to 1 GiB is what nvidia-smi shows
_CONTEXT_CPU = 0.45 * GIB  # resident size of a Python process that has imported torch and transformers
_COMMUNICATOR = 0.35 * GIB  # NCCL buffers and channels per process group at its default settings
_FRAGMENTATION_GPU = 0.04  # of what comes and goes; 3 to 8% in allocator statistics
_FRAGMENTATION_CPU = 0.35  # the same of malloc, which gives little back to the system between sizes
_LOGIT_BYTES = 10  # per logit: bf16 logits, fp32 copy, fp32 gradient
_FP32 = 1  # index into grid.PRECISION

Items = dict[str, Array]


def memory(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software) -> Items:
    """Bytes per item on the fullest device of every layout.

    The fullest is on the first pipeline stage, which holds the most micro-batches, or on the last, which
    holds the logits; each layout shows the larger of the two.
    """
    first = stage_memory(network, grid, workload, chip, software, last=False)
    last = stage_memory(network, grid, workload, chip, software, last=True)
    fuller = total(last) > total(first)
    return {item: np.where(fuller, last[item], first[item]) for item in ITEMS}


def total(items: Items) -> Array:
    """All items together, bytes."""
    return added(items[item] for item in ITEMS)


def stage_memory(
    network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software, *, last: bool
) -> Items:
    """Bytes per item on a device of the first pipeline stage, or of the last."""
    stage = _Stage(network, grid, workload, chip, software, last)
    items = _states(stage)
    moments = _moments(stage, items["gradients"])
    fullest = np.argmax([added(moment.values()) for moment in moments], axis=0)
    items |= {name: np.choose(fullest, [moment[name] for moment in moments]) for name in moments[0]}
    items["communication"] = _communication(grid, chip)
    items["framework"] = np.full(len(grid), _CONTEXT_CPU if chip.kind == "cpu" else _CONTEXT_GPU)
    passing = items["gathered_blocks"] + items["activations"] + items["logits"]
    items["fragmentation"] = (_FRAGMENTATION_CPU if chip.kind == "cpu" else _FRAGMENTATION_GPU) * passing
    return items


@dataclass(frozen=True)
class _Stage:
    """One end of the pipeline on one tensor-parallel rank, of every layout."""

    network: Network
    grid: Grid
    workload: Workload
    chip: Chip
    software: Software
    last: bool

    @cached_property
    def word(self) -> Array:
        """Bytes of a value in the precision of the work."""
        return np.where(self.grid.precision == _FP32, 4.0, 2.0)

    @cached_property
    def tokens(self) -> Array:
        """Tokens of a micro-batch on one rank."""
        return self.grid.micro_batch * self.workload.sequence / self.grid.cp

    @cached_property
    def one_micro_batch(self) -> Flags:
        """Whether a step has one micro-batch."""
        one: Flags = self.grid.micro_batches(self.workload) == 1
        return one

    @cached_property
    def matrix(self) -> Array:
        """Parameters of one vocabulary matrix."""
        return self.network.embedding_parameters / self.grid.tp

    @cached_property
    def head(self) -> Array:
        """Parameters of the output matrix where the stage has it, else 0."""
        return np.where(np.logical_or(self.grid.pp == 1, self.last), self.matrix, 0.0)

    @cached_property
    def share(self) -> Array:
        """The stage's share of all blocks."""
        return np.ceil(self.network.layers / self.grid.pp) / self.network.layers / self.grid.tp

    @cached_property
    def dense(self) -> Array:
        """Parameters that expert parallelism does not divide; both ends of a pipeline hold a vocabulary matrix."""
        matrices = np.where((self.grid.pp == 1) & (not self.network.tied), 2.0, 1.0)
        return self.network.dense_parameters * self.share + matrices * self.matrix

    @cached_property
    def experts(self) -> Array:
        """Parameters of the routed experts."""
        return self.network.expert_parameters * self.share

    @cached_property
    def whole(self) -> Array:
        """Parameters before they are sharded."""
        return self.dense + self.experts / self.grid.ep


def _states(stage: _Stage) -> Items:
    """Parameters, gradients and optimizer state by ZeRO stage (Rajbhandari et al. 2020).

    Fully sharded (FSDP2): fp32 parameters, fp32 gradients and the optimizer's state, all over the shard
    ranks, except that whole gradients gather over several micro-batches before they are scattered. Below
    stage 3 the working copy is bf16 and whole, and the fp32 master belongs to the optimizer. Expert
    parallelism lies inside the shard ranks, so it changes what is whole, not what is sharded.
    """
    grid, state = stage.grid, stage.workload.optimizer_bytes
    sharded = (stage.dense + stage.experts) / (grid.shard * grid.cp)
    full = grid.zero == 3
    scattered = np.where(full, stage.one_micro_batch, grid.zero >= 2)
    optimizer = (4.0 + state) * np.where(grid.zero >= 1, sharded, stage.whole)
    return {
        "parameters": np.where(full, 4.0 * sharded, stage.word * stage.whole),
        "gradients": 4.0 * np.where(scattered, sharded, stage.whole),
        "optimizer": np.where(full, state * sharded, optimizer),
    }


def _moments(stage: _Stage, gradients: Array) -> list[Items]:
    """What comes and goes at three moments: in the loss, in a block's first backward pass, at the end.

    With one micro-batch gradients appear as activations go, so they are there at the end only.
    """
    grid, network = stage.grid, stage.network
    common = (network, grid, stage.workload, stage.chip, stage.software, stage.word)
    kept = stage.tokens * kept_bytes(*common) * layers_held(network, grid, stage.workload, last=stage.last)
    again = np.where(grid.recompute > 0, stage.tokens * whole_block(*common), 0.0)
    flowing = stage.tokens * stage.word * 3.0 * mlp_values(network) / grid.tp  # gradients of the widest values
    before = np.where((grid.zero == 3) & stage.one_micro_batch, 0.0, gradients)
    in_loss, after_loss = _loss(stage)
    early, running, late = _whole_parameters(stage)
    none = np.zeros(len(grid))
    return [
        {"gradients": before, "gathered_blocks": early, "activations": kept, "logits": in_loss},
        {"gradients": before, "gathered_blocks": running, "activations": kept + again + flowing, "logits": after_loss},
        {"gradients": gradients, "gathered_blocks": late, "activations": none, "logits": none},
    ]


def _loss(stage: _Stage) -> tuple[Array, Array]:
    """Logits, and the output matrix's gradient where the loss makes it in chunks: in the loss and after it."""
    logits = np.where(stage.head > 0, stage.tokens * stage.network.vocab / stage.grid.tp, 0.0)
    if not np.isfinite(stage.software.loss_chunk):
        return _LOGIT_BYTES * logits, _LOGIT_BYTES * logits
    chunk = _LOGIT_BYTES * np.minimum(logits, stage.software.loss_chunk)
    return chunk + (4.0 + stage.word) * stage.head, stage.word * stage.head


def _whole_parameters(stage: _Stage) -> tuple[Array, Array, Array]:
    """Whole parameters in the precision of the work, and gradients on their way, at the three moments.

    Sharded ranks hold the vocabulary's matrices through the step, a block ahead, and the gradient of one
    block twice (as it was made, and in fp32 as it is scattered). A pipeline stage stays whole through the
    step rather than gather for every micro-batch, and one device alone keeps the copies that its backward
    pass reads.
    """
    network, grid, word = stage.network, stage.grid, stage.word
    block = (network.dense_parameters + network.expert_parameters / grid.ep) / network.layers / grid.tp
    ends = stage.matrix * (1.0 if network.tied else 2.0)
    alone, pipeline, sharded = grid.devices == 1, grid.pp > 1, grid.zero == 3
    whole, scattered = word * stage.whole, word * stage.whole + 4.0 * block
    early = np.where(alone | pipeline, whole, word * (ends + block))
    running = np.select([alone, pipeline], [whole, scattered], word * ends + (2 * word + 4.0) * block)
    late = np.select([alone, pipeline], [0.0 * whole, scattered], (2 * word + 4.0) * ends)
    return np.where(sharded, early, 0.0), np.where(sharded, running, 0.0), np.where(sharded, late, 0.0)


def _communication(grid: Grid, chip: Chip) -> Array:
    """Buffers of the process groups that a layout opens; gloo on a CPU needs next to nothing."""
    if chip.kind == "cpu":
        return np.zeros(len(grid))
    sizes = (grid.replicate, grid.shard, grid.tp, grid.cp, grid.pp, grid.ep)
    return _COMMUNICATOR * added((size > 1).astype(np.float64) for size in sizes)
