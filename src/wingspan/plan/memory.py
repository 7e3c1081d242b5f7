"""Memory of the fullest device of a layout, item by item, in bytes.

Activations follow Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer
Models"), written per matrix so that grouped-query attention, gated MLPs and experts are counted too.
docs/plan.md derives every line.
"""

from __future__ import annotations

import numpy as np

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
_FRAGMENTATION = 0.04  # of everything that comes and goes; 3 to 8% in allocator statistics
_GATHERED = 2  # blocks whose parameters are whole at a time: the running one and the prefetched one
_LOGIT_BYTES = 10  # per logit: bf16 logits, fp32 copy, fp32 gradient
_FULL, _SELECTIVE, _FP32 = 2, 1, 1  # indices into grid.RECOMPUTE and grid.PRECISION


def memory(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software) -> dict[str, Array]:
    """Bytes per item on the fullest device of every layout.

    The fullest is on the first pipeline stage, which holds the most micro-batches, or on the last, which
    holds the logits; each layout shows the larger of the two.
    """
    first = stage_memory(network, grid, workload, chip, software, last=False)
    last = stage_memory(network, grid, workload, chip, software, last=True)
    fuller = total(last) > total(first)
    return {item: np.where(fuller, last[item], first[item]) for item in ITEMS}


def total(items: dict[str, Array]) -> Array:
    """All items together, bytes."""
    return added(items[item] for item in ITEMS)


def stage_memory(
    network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software, *, last: bool
) -> dict[str, Array]:
    """Bytes per item on a device of the first pipeline stage, or of the last."""
    only = grid.pp == 1
    layers = np.ceil(network.layers / grid.pp)
    dense, experts = _stage_parameters(network, grid, layers, only)
    word = np.where(grid.precision == _FP32, 4.0, 2.0)
    items = _states(grid, workload, dense, experts, word)
    items["gathered_blocks"] = _gathered(network, grid, workload, dense + experts / grid.ep, word)
    items["activations"] = _activations(network, grid, workload, software, layers, word, last=last)
    items["logits"] = np.where(np.logical_or(only, last), _logits(network, grid, workload, software), 0.0)
    items["communication"] = _communication(grid, chip)
    items["framework"] = np.full(len(grid), _CONTEXT_CPU if chip.kind == "cpu" else _CONTEXT_GPU)
    dynamic = items["gathered_blocks"] + items["activations"] + items["logits"]
    items["fragmentation"] = _FRAGMENTATION * dynamic
    return items


def _stage_parameters(network: Network, grid: Grid, layers: Array, only: Flags) -> tuple[Array, Array]:
    """Parameters of a stage on one tensor-parallel rank: those all ranks share, and routed experts.

    Both ends of a pipeline hold a vocabulary matrix, also when the two are tied.
    """
    matrices = np.where(only & (not network.tied), 2.0, 1.0)
    share = layers / network.layers / grid.tp
    dense = network.dense_parameters * share + matrices * network.embedding_parameters / grid.tp
    return dense, network.expert_parameters * share


def _states(grid: Grid, workload: Workload, dense: Array, experts: Array, word: Array) -> dict[str, Array]:
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


def _gathered(network: Network, grid: Grid, workload: Workload, stage: Array, word: Array) -> Array:
    """Whole parameters in the precision of the work, beside the sharded fp32 ones.

    Sharded ranks hold the blocks in flight and the vocabulary's matrices, and one block's gradient before
    it is scattered. A pipeline stage stays whole through the step rather than gather for every micro-batch,
    and one device alone keeps the copies that its backward pass reads.
    """
    block = (network.dense_parameters + network.expert_parameters / grid.ep) / network.layers
    ends = network.embedding_parameters * (1.0 if network.tied else 2.0)
    gradient = np.where(grid.micro_batches(workload) > 1, 0.0, 4.0 * np.maximum(block, ends) / grid.tp)
    flight = word * (_GATHERED * block + ends) / grid.tp + gradient
    held = np.where((grid.pp > 1) | (grid.devices == 1), word * stage, flight)
    return np.where(grid.zero == 3, held, 0.0)


def _activations(
    network: Network, grid: Grid, workload: Workload, software: Software, layers: Array, word: Array, *, last: bool
) -> Array:
    """Saved activations of all micro-batches in flight on a stage.

    A remainder of layers lies in the middle of a pipeline: then the second stage, with one layer more and
    one micro-batch less than the first, can be the fullest.
    """
    tokens = grid.micro_batch * workload.sequence / grid.cp
    saved = tokens * activation_bytes_per_token(network, grid, workload, software, word)
    working = tokens * _whole_block(network, grid, workload, software, word)
    in_flight = in_flight_micro_batches(grid, workload, last=last)
    held = np.floor(network.layers / grid.pp) * in_flight
    held = np.maximum(held, layers * np.minimum(in_flight, np.maximum(grid.pp - 1, 1)))
    recomputing = np.where(grid.recompute == _FULL, working, 0.0)
    return saved * held + recomputing


def in_flight_micro_batches(grid: Grid, workload: Workload, *, last: bool) -> Array:
    """Micro-batches whose activations a stage holds at once under 1F1B (Narayanan et al. 2021).

    The first stage holds min(m, p), interleaving multiplies it by 1 + (p - 1)/(p v); the last holds one,
    with interleaving one per chunk's share.
    """
    m = grid.micro_batches(workload)
    if last:
        return np.minimum(m, np.where(grid.interleave > 1, 1 + (grid.pp - 1) / grid.interleave, 1.0))
    extra = np.where(grid.interleave > 1, 1 + (grid.pp - 1) / (grid.pp * grid.interleave), 1.0)
    return np.minimum(m, grid.pp * extra)


def activation_bytes_per_token(
    network: Network, grid: Grid, workload: Workload, software: Software, word: Array
) -> Array:
    """Bytes that one layer keeps per token for its backward pass, by recompute policy.

    'full' keeps the block's input; 'selective' keeps what matrix multiplications and attention made and
    recomputes norms, activation functions and score matrices; 'none' keeps everything.
    """
    whole = _whole_block(network, grid, workload, software, word)
    h, f = network.hidden, _inner(network)
    cheap = word * (2 * h + f) if software.flash else word * 0.0
    scores = 0.0 if software.flash else _score_bytes(network, workload)
    selective = whole - (cheap + scores) / grid.tp
    full = word * h / grid.tp
    return np.select([grid.recompute == _FULL, grid.recompute == _SELECTIVE], [full, selective], whole)


def _whole_block(network: Network, grid: Grid, workload: Workload, software: Software, word: Array) -> Array:
    """Bytes per token of one layer without recomputation; tensor and sequence parallelism divide all of it.

    Four inputs of width h (two norms, two blocks of matrices), q, k, v and attention's output, the MLP's
    inner values. GPT blocks of 2022 also keep dropout masks and score matrices, and no fused norm.
    """
    heads = 2 * network.heads + 2 * network.kv_heads
    attention = heads * network.head_dim + (
        (network.heads + network.kv_heads) * network.head_dim if network.qk_norm else 0
    )
    inner = _inner(network) * (3 if network.gated else 2)
    routed = 2 * network.hidden * network.experts_per_token if network.experts else 0
    bytes_ = word * (4 * network.hidden + attention + inner + routed)
    if not software.flash:
        bytes_ = bytes_ + 2 * network.hidden + _score_bytes(network, workload)
    return bytes_ / grid.tp


def _inner(network: Network) -> float:
    """Inner values of the MLP that one token makes, averaged over dense and expert layers."""
    moe = (network.experts_per_token + network.shared_experts) * network.expert_ffn
    return (network.moe_layers * moe + (network.layers - network.moe_layers) * network.ffn) / network.layers


def _score_bytes(network: Network, workload: Workload) -> float:
    """Softmax input and output and the dropout mask: 5 a s bytes per token (Korthikanti et al. 2022)."""
    return 5.0 * network.heads * workload.sequence


def _logits(network: Network, grid: Grid, workload: Workload, software: Software) -> Array:
    """Logits of one micro-batch, the vocabulary split over tensor-parallel ranks.

    A loss in chunks holds few logits at a time but the fp32 gradient of the whole output matrix with them.
    """
    logits = grid.micro_batch * workload.sequence / grid.cp * network.vocab / grid.tp
    if not np.isfinite(software.loss_chunk):
        return _LOGIT_BYTES * logits
    return _LOGIT_BYTES * np.minimum(logits, software.loss_chunk) + 4.0 * network.embedding_parameters / grid.tp


def _communication(grid: Grid, chip: Chip) -> Array:
    """Buffers of the process groups that a layout opens; gloo on a CPU needs next to nothing."""
    if chip.kind == "cpu":
        return np.zeros(len(grid))
    sizes = (grid.replicate, grid.shard, grid.tp, grid.cp, grid.pp, grid.ep)
    return _COMMUNICATOR * added((size > 1).astype(np.float64) for size in sizes)
