"""Memory of the fullest device of a layout, item by item, in bytes.

Activations, parameters in use and gradients are not all there at once, so three moments of a step are
compared and the fullest is shown. docs/plan.md derives every line.
"""

from __future__ import annotations

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
    only = grid.pp == 1
    layers = np.ceil(network.layers / grid.pp)
    dense, experts = _stage_parameters(network, grid, layers, only)
    word = np.where(grid.precision == _FP32, 4.0, 2.0)
    items = _states(grid, workload, dense, experts, word)
    head = np.logical_or(only, last)
    moments = _moments(network, grid, workload, chip, software, items["gradients"], dense, experts, word, head, last)
    fullest = np.argmax([added(moment.values()) for moment in moments], axis=0)
    items |= {name: np.choose(fullest, [moment[name] for moment in moments]) for name in moments[0]}
    items["communication"] = _communication(grid, chip)
    items["framework"] = np.full(len(grid), _CONTEXT_CPU if chip.kind == "cpu" else _CONTEXT_GPU)
    passing = items["gathered_blocks"] + items["activations"] + items["logits"]
    items["fragmentation"] = (_FRAGMENTATION_CPU if chip.kind == "cpu" else _FRAGMENTATION_GPU) * passing
    return items


def _stage_parameters(network: Network, grid: Grid, layers: Array, only: Flags) -> tuple[Array, Array]:
    """Parameters of a stage on one tensor-parallel rank: those all ranks share, and routed experts.

    Both ends of a pipeline hold a vocabulary matrix.
    """
    matrices = np.where(only & (not network.tied), 2.0, 1.0)
    share = layers / network.layers / grid.tp
    dense = network.dense_parameters * share + matrices * network.embedding_parameters / grid.tp
    return dense, network.expert_parameters * share


def _states(grid: Grid, workload: Workload, dense: Array, experts: Array, word: Array) -> Items:
    """Parameters, gradients and optimizer state by ZeRO stage (Rajbhandari et al. 2020).

    Fully sharded (FSDP2): fp32 parameters, fp32 gradients and the optimizer's state, all over the shard
    ranks, except that whole gradients gather over several micro-batches before they are scattered. Below
    stage 3 the working copy is bf16 and whole, and the fp32 master belongs to the optimizer. Expert
    parallelism lies inside the shard ranks, so it changes what is whole, not what is sharded.
    """
    ranks = grid.shard * grid.cp
    whole = dense + experts / grid.ep
    sharded = (dense + experts) / ranks
    full = grid.zero == 3
    kept_whole = full & (grid.micro_batches(workload) > 1)
    return {
        "parameters": np.where(full, 4.0 * sharded, word * whole),
        "gradients": 4.0 * np.where((grid.zero >= 2) & ~kept_whole, sharded, whole),
        "optimizer": np.where(
            full,
            workload.optimizer_bytes * sharded,
            (4.0 + workload.optimizer_bytes) * np.where(grid.zero >= 1, sharded, whole),
        ),
    }


def _moments(
    network: Network,
    grid: Grid,
    workload: Workload,
    chip: Chip,
    software: Software,
    gradients: Array,
    dense: Array,
    experts: Array,
    word: Array,
    head: Flags,
    last: bool,
) -> list[Items]:
    """What comes and goes at three moments: in the loss, in the last block's backward pass, at the end.

    With one micro-batch gradients appear as activations go, so they are there at the end only.
    """
    tokens = grid.micro_batch * workload.sequence / grid.cp
    held = layers_held(network, grid, workload, last=last)
    kept = tokens * kept_bytes(network, grid, workload, chip, software, word) * held
    again = np.where(grid.recompute > 0, tokens * whole_block(network, grid, workload, chip, software, word), 0.0)
    flowing = tokens * word * 3.0 * mlp_values(network) / grid.tp  # gradients of a block's widest values
    before = np.where((grid.zero == 3) & (grid.micro_batches(workload) == 1), 0.0, gradients)

    logits = tokens * network.vocab / grid.tp
    matrix = np.where(head, network.embedding_parameters / grid.tp, 0.0)
    in_chunks = np.isfinite(software.loss_chunk)
    in_loss = (
        _LOGIT_BYTES * np.where(head, np.minimum(logits, software.loss_chunk), 0.0) + (4.0 + word) * matrix * in_chunks
    )
    after_loss = word * matrix if in_chunks else in_loss

    early, running, late = _whole_parameters(network, grid, dense + experts / grid.ep, word)
    none = np.zeros(len(grid))
    return [
        {"gradients": before, "gathered_blocks": early, "activations": kept, "logits": in_loss},
        {"gradients": before, "gathered_blocks": running, "activations": kept + again + flowing, "logits": after_loss},
        {"gradients": gradients, "gathered_blocks": late, "activations": none, "logits": none},
    ]


def _whole_parameters(network: Network, grid: Grid, stage: Array, word: Array) -> tuple[Array, Array, Array]:
    """Whole parameters in the precision of the work, and gradients on their way, at the three moments.

    Sharded ranks hold the vocabulary's matrices through the step, a block ahead, and the gradient of one
    block twice (as it was made, and in fp32 as it is scattered). A pipeline stage stays whole through the
    step rather than gather for every micro-batch, and one device alone keeps the copies that its backward
    pass reads.
    """
    block = (network.dense_parameters + network.expert_parameters / grid.ep) / network.layers / grid.tp
    ends = network.embedding_parameters * (1.0 if network.tied else 2.0) / grid.tp
    alone, pipeline, sharded = grid.devices == 1, grid.pp > 1, grid.zero == 3
    whole, scattered = word * stage, word * stage + 4.0 * block
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
