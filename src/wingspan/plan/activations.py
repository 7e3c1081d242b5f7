"""What a layer keeps for its backward pass, and how many micro-batches of it.

Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer Models"), written per
matrix so that grouped-query attention, gated MLPs and experts are counted too.
"""

from __future__ import annotations

import numpy as np

from wingspan.plan.chips import Chip
from wingspan.plan.grid import Array, Grid, Software, Workload
from wingspan.plan.network import Network

_CPU_NORM_WORDS = 6  # values of width h that the CPU's norms keep beside their input: fp32 copies
_CPU_SCORES_UP_TO = 512  # tokens of a sequence up to which the CPU multiplies with a score matrix
_FULL, _SELECTIVE = 2, 1  # indices into grid.RECOMPUTE


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


def layers_held(network: Network, grid: Grid, workload: Workload, *, last: bool) -> Array:
    """Layers of the fullest stage at one end of the pipeline, times their micro-batches in flight.

    A remainder of layers lies in the middle of a pipeline: then the second stage, with one layer more and
    one micro-batch less than the first, can be the fullest.
    """
    in_flight = in_flight_micro_batches(grid, workload, last=last)
    middle = np.ceil(network.layers / grid.pp) * np.minimum(in_flight, np.maximum(grid.pp - 1, 1))
    fullest: Array = np.maximum(np.floor(network.layers / grid.pp) * in_flight, middle)
    return fullest


def kept_bytes(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software, word: Array) -> Array:
    """Bytes that one layer keeps per token, by recompute policy; tensor and sequence parallelism divide them.

    'full' keeps the block's input; 'selective' also what matrix multiplications and attention made;
    'none' keeps everything.
    """
    h, f = network.hidden, mlp_values(network)
    heads = 2 * (network.heads + network.kv_heads) * network.head_dim
    whole = whole_block(network, grid, workload, chip, software, word)
    products = word * (3 * h + heads + (2 if network.gated else 1) * f) / grid.tp
    if not software.flash:
        products = whole - _score_bytes(network, workload) / grid.tp
    policies = [grid.recompute == _FULL, grid.recompute == _SELECTIVE]
    return np.select(policies, [word * h / grid.tp, products], whole)


def whole_block(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software, word: Array) -> Array:
    """Bytes per token of one layer that recomputes nothing.

    Four inputs of width h (two norms, two groups of matrices), q, k, v and attention's output, the MLP's
    inner values; queries and keys before their norms. GPT blocks of 2022 also keep dropout masks and score
    matrices; eager kernels also the activation function's value; a CPU its fp32 norms and small score
    matrices.
    """
    h, f = network.hidden, mlp_values(network)
    heads = 2 * (network.heads + network.kv_heads) * network.head_dim
    norms = (network.heads + network.kv_heads) * network.head_dim if network.qk_norm else 0
    routed = 2 * h * network.experts_per_token if network.experts else 0
    inner = (2 + network.gated + (software.eager and network.gated)) * f
    words = 4 * h + heads + norms + inner + routed
    if chip.kind == "cpu":
        scores = network.heads * workload.sequence if workload.sequence <= _CPU_SCORES_UP_TO else 0
        words += _CPU_NORM_WORDS * h + scores
    extra = 0.0 if software.flash else 2 * h + _score_bytes(network, workload)
    return (word * words + extra) / grid.tp


def mlp_values(network: Network) -> float:
    """Inner values of the MLP that one token makes, averaged over dense and expert layers."""
    moe = (network.experts_per_token + network.shared_experts) * network.expert_ffn
    return (network.moe_layers * moe + (network.layers - network.moe_layers) * network.ffn) / network.layers


def _score_bytes(network: Network, workload: Workload) -> float:
    """Softmax input and output and the dropout mask: 5 a s bytes per token (Korthikanti et al. 2022)."""
    return 5.0 * network.heads * workload.sequence
