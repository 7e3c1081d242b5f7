"""What a layer keeps for its backward pass, and how many micro-batches of it.

Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer Models"), written per
matrix so that grouped-query and latent attention, gated MLPs and experts are counted too.
"""

from __future__ import annotations

import numpy as np

from wingspan.plan.devices.chips import Chip
from wingspan.plan.step.grid import SCHEDULES, Array, Grid, Software, Workload
from wingspan.plan.step.network import Network

_CPU_SCORES_UP_TO = 512  # tokens of a sequence up to which the CPU multiplies with a score matrix
_FULL, _SELECTIVE = 2, 1  # indices into grid.RECOMPUTE
_FP32 = 1  # index into grid.PRECISION; 8 bits and fewer come after it
_ZERO_BUBBLE, ZBV, _V_HALF, _V_MIN = range(1, len(SCHEDULES))  # from ZBV on, a rank has two chunks in a V


def in_flight_micro_batches(grid: Grid, workload: Workload, stage: Array) -> Array:
    """Micro-batches whose activations pipeline stage `stage` (from 0) holds at once.

    1F1B: min(m, p - stage) (Narayanan et al. 2021). Interleaved, ((v - 1) p + 2 (p - stage) - 1) / v: the
    chunks of Megatron's warm-up and the one at work, which on the first stage is p (1 + (p - 1)/(p v)). Zero
    bubble: p on every stage for H1 and V (Qi et al. 2023), p/2 + 1 for V-Half and (p + 4)/3 for V-Min (Qi et
    al. 2024).
    """
    p, v = grid.pp, grid.interleave
    interleaved = ((v - 1) * p + 2 * (p - stage) - 1) / v
    held = np.where(v > 1, interleaved, p - stage)
    schedules = [grid.schedule == one for one in (_ZERO_BUBBLE, ZBV, _V_HALF, _V_MIN)]
    held = np.where(p > 1, np.select(schedules, [p, p, p / 2 + 1, (p + 4) / 3], held), 1.0)
    return np.minimum(grid.micro_batches(workload), held)


def layers_of_stage(network: Network, grid: Grid, software: Software, stage: Array) -> Array:
    """Layers of a pipeline stage: as even as can be, the remainder on the first stages or in the middle."""
    even = np.floor(network.layers / grid.pp)
    left = network.layers - even * grid.pp
    first = first_fuller_stage(network, grid, software)
    return even + ((stage >= first) & (stage < first + left))


def first_fuller_stage(network: Network, grid: Grid, software: Software) -> Array:
    """The first stage with a layer more, where the layers do not divide: 0, or so that the remainder is central."""
    central = np.floor((grid.pp - network.layers % grid.pp) / 2)
    return central * software.accounting.remainder_central


def kept_bytes(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software, word: Array) -> Array:
    """Bytes that one layer keeps per token, by recompute policy.

    'full' keeps the block's input. 'selective' forgets what attention made inside, which fused kernels never
    keep (Korthikanti et al. 2022), or all but the products of matrices and attention.
    """
    books, h, tp = software.accounting, network.hidden, grid.tp
    whole = whole_block(network, grid, workload, chip, software, word)
    full = word * h / _over_tokens(software, tp)
    if books.selective in ("inputs", "offload"):
        selective = full * (books.selective == "inputs")
    elif books.selective == "attention":
        selective = whole if software.flash else whole - _score_bytes(network, workload) / tp
    else:
        inner = (2 if network.gated else 1) * mlp_values(network)
        outputs = word * (1 + max(1.0, _experts_per_layer(network))) * h
        outputs = outputs / (1.0 if books.gathered else tp)  # the ranks' sums come after
        share = 0.5 if books.selective == "half of products" else 1.0
        attended = network.heads * network.value_dim
        products = outputs + word * (network.attention_values - attended + inner) / tp
        selective = word * (h + attended) / tp + share * products
    policies = [grid.recompute == _FULL, grid.recompute == _SELECTIVE]
    return np.select(policies, [full, selective], whole)


def whole_block(network: Network, grid: Grid, workload: Workload, chip: Chip, software: Software, word: Array) -> Array:
    """Bytes per token of one layer that recomputes nothing.

    Four values of width h (into and out of two norms), q, k, v and attention's output, the MLP's inner
    values. GPT blocks before flash attention also keep dropout masks and score matrices, a CPU small score
    matrices; the rest is the software's habit (Accounting): Transformer Engine keeps the inputs of 8-bit
    products in 8 bits.
    """
    books, h, f, tp = software.accounting, network.hidden, mlp_values(network), grid.tp
    norms = books.norm_bytes * h
    if network.qk_norm:
        norms += books.head_norm_bytes * (network.heads + network.kv_heads) * network.head_dim
    routed = 2 * h * _experts_per_layer(network)
    inner = (2 + network.gated + (books.activation_value and network.gated)) * f
    scores = network.heads * workload.sequence if chip.kind == "cpu" and workload.sequence <= _CPU_SCORES_UP_TO else 0
    split = word * (network.attention_values + inner + routed + scores) + norms
    gathered = books.gathered if books.sequence_parallel else 4
    streams = gathered + (4 - gathered) / tp
    narrow = (grid.precision > _FP32) * books.narrow_inputs * (2 * h + network.heads * network.value_dim + f)
    block = word * streams * h + (split - narrow) / tp
    if software.flash:
        return block
    return block + 2 * h / _over_tokens(software, tp) + _score_bytes(network, workload) / tp


def mlp_values(network: Network) -> float:
    """Inner values of the MLP that one token makes, averaged over dense and expert layers."""
    moe = (network.experts_per_token + network.shared_experts) * network.expert_ffn
    return (network.moe_layers * moe + (network.layers - network.moe_layers) * network.ffn) / network.layers


def _experts_per_layer(network: Network) -> float:
    """Routed experts that a token meets, averaged over dense and expert layers."""
    return network.experts_per_token * network.moe_layers / network.layers


def _over_tokens(software: Software, tp: Array) -> Array:
    """Ranks over which tokens between the blocks' matrices are spread."""
    return tp if software.accounting.sequence_parallel else np.ones_like(tp)


def _score_bytes(network: Network, workload: Workload) -> float:
    """Softmax input and output and the dropout mask: 5 a s bytes per token (Korthikanti et al. 2022)."""
    return 5.0 * network.heads * workload.sequence
