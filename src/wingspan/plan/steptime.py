"""Time of one optimizer step, item by item, in seconds: what computes, what communicates, what waits.

The slowest pipeline stage sets the pace. Each item is the time it adds to the step on that stage, so the
items sum to the step. docs/plan.md derives every line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wingspan.plan.chips import Chip
from wingspan.plan.grid import Array, Grid, Software, Workload, added
from wingspan.plan.kernels import (
    Rates,
    all_reduce_time,
    all_to_all_time,
    gather_time,
    group_of,
    rates_of,
    send_time,
    training_matmul_time,
)
from wingspan.plan.network import Network

ITEMS = (
    "matmul",
    "attention",
    "elementwise",
    "recompute",
    "tensor_parallel",
    "context_parallel",
    "expert_parallel",
    "shard_exchange",
    "gradient_sync",
    "pipeline_send",
    "pipeline_bubble",
    "optimizer",
    "stragglers",
)

_FLASH_FORWARD, _FLASH_BACKWARD = 0.37, 0.34  # of peak; alone on a device FlashAttention 2 and 3 reach 0.33 to 0.7
_SMALL_HEAD = 0.85  # of that below a head dimension of 128
_UNFUSED_ATTENTION = 0.5  # of peak: batched multiplications with a score matrix
_SCORE_TRAFFIC = 30  # bytes per score, forward and backward, of fused softmax and dropout kernels
_NORM_WORDS, _ROTARY_WORDS, _GATE_WORDS = 13, 2, 3  # values of width h, of q and k, of f moved per token forward
_LOGIT_TRAFFIC = 26  # bytes per logit: written, read as fp32, softmax, gradient, read twice
_OPTIMIZER_TRAFFIC = 32  # bytes per parameter: read p, g, m, v; write p, m, v; read g for the norm
_MISHIDDEN = 0.10  # of a once-a-step exchange that no backward pass is left to hide
_SIGMA = 0.005  # spread of device speeds; the step waits for the slowest of all
_FULL, _SELECTIVE = 2, 1


@dataclass(frozen=True)
class Cost:
    """Seconds forward and backward."""

    forward: Array
    backward: Array

    @property
    def both(self) -> Array:
        """The two together."""
        return self.forward + self.backward

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: Array | float) -> Cost:
        return Cost(self.forward * times, self.backward * times)


def step_time(
    network: Network, grid: Grid, workload: Workload, chip: Chip, devices_per_node: int, software: Software
) -> dict[str, Array]:
    """Seconds per item for every layout."""
    rates = rates_of(chip, grid)
    m = grid.micro_batches(workload)
    tokens = grid.micro_batch * workload.sequence / grid.cp
    layers = np.ceil(network.layers / grid.pp)
    matmul = _block_matmuls(network, grid, tokens, rates)
    attention = _attention(network, grid, tokens, workload, rates, software)
    elementwise = _elementwise(network, grid, tokens, rates, software)
    again = _recomputed(grid, matmul, attention, elementwise)
    head_matmul, head_traffic = _head(network, grid, tokens, rates)
    head = np.where(layers * grid.pp > network.layers, 0.0, 1.0)  # a last stage with a layer to spare hides it

    tp = _tensor_parallel(network, grid, tokens, chip, devices_per_node) * (1 - software.tp_overlap)
    cp = _context_parallel(network, grid, tokens, attention, chip, devices_per_node)
    ep = _expert_parallel(network, grid, tokens, chip, devices_per_node)
    block = (matmul + attention + elementwise).both + again + tp + cp + ep
    shard, sync = _data_parallel(network, grid, m, layers, block, chip, devices_per_node, software)
    items = {
        "matmul": m * (layers * matmul.both + head * head_matmul),
        "attention": m * layers * attention.both,
        "elementwise": m * (layers * elementwise.both + head * head_traffic),
        "recompute": m * layers * again,
        "tensor_parallel": m * layers * tp,
        "context_parallel": m * layers * cp,
        "expert_parallel": m * layers * ep,
        "shard_exchange": shard,
        "gradient_sync": sync,
        "pipeline_send": _pipeline_send(network, grid, tokens, m, chip, devices_per_node),
        "pipeline_bubble": bubble_fraction(grid, m) * m * layers * block,
        "optimizer": _optimizer(network, grid, layers, rates),
    }
    so_far = added(items.values())
    items["stragglers"] = so_far * straggling(grid.devices)
    return items


def total(items: dict[str, Array]) -> Array:
    """Seconds of the whole step."""
    return added(items[item] for item in ITEMS)


def bubble_fraction(grid: Grid, micro_batches: Array) -> Array:
    """Idle time of interleaved 1F1B over its work: (p - 1) / (m v) (Narayanan et al. 2021)."""
    return (grid.pp - 1) / (micro_batches * grid.interleave)


def straggling(devices: Array) -> Array:
    """How much later the slowest of n devices is than the mean: sigma sqrt(2 ln n), the normal maximum."""
    slowest: Array = _SIGMA * np.sqrt(2 * np.log(np.maximum(devices, 1.0)))
    return slowest


def hardware_flops(network: Network, grid: Grid, workload: Workload) -> Array:
    """FLOPs of one step that the devices really do: the model's, and the recomputed forward pass."""
    step = network.training_flops_per_token(workload.sequence) * workload.tokens
    blocks = step - 6 * network.embedding_parameters * workload.tokens
    return step + np.where(grid.recompute == _FULL, blocks / 3, 0.0)


def _block_matmuls(network: Network, grid: Grid, tokens: Array, rates: Rates) -> Cost:
    """The multiplications of an average layer for one micro-batch."""
    h, d, tp = network.hidden, network.head_dim, grid.tp
    width = 2 if network.gated else 1
    attention = _cost(rates, tokens, d * (network.heads + 2 * network.kv_heads) / tp, h) + _cost(
        rates, tokens, h, d * network.heads / tp
    )
    moe = network.moe_layers / network.layers
    mlp = Cost(np.zeros(len(grid)), np.zeros(len(grid)))
    if moe < 1:
        dense = _cost(rates, tokens, width * network.ffn / tp, h) + _cost(rates, tokens, h, network.ffn / tp)
        mlp = mlp + dense * (1 - moe)
    if moe > 0:
        mlp = mlp + _experts(network, grid, tokens, rates) * moe
    return attention + mlp


def _cost(rates: Rates, m: Array, n: Array | float, k: Array | float) -> Cost:
    return Cost(*training_matmul_time(rates, m, n, k))


def _experts(network: Network, grid: Grid, tokens: Array, rates: Rates) -> Cost:
    """The experts of one rank, evenly loaded: tokens x top-k x ep / experts go through each."""
    width = 2 if network.gated else 1
    inner = network.expert_ffn / grid.tp
    local = network.experts / grid.ep
    each = tokens * network.experts_per_token / local
    routed = (_cost(rates, each, width * inner, network.hidden) + _cost(rates, each, network.hidden, inner)) * local
    router = _cost(rates, tokens, float(network.experts), network.hidden)
    if not network.shared_experts:
        return routed + router
    shared = network.shared_experts * inner
    both = _cost(rates, tokens, width * shared, network.hidden) + _cost(rates, tokens, network.hidden, shared)
    return routed + router + both


def _attention(
    network: Network, grid: Grid, tokens: Array, workload: Workload, rates: Rates, software: Software
) -> Cost:
    """Scores and their use, of one layer and micro-batch: 4 s a d FLOPs per token forward, half where causal.

    The backward pass of flash attention makes 2.5 times the forward FLOPs, as it computes the scores again
    (Dao 2023).
    """
    flops = tokens * 4.0 * workload.sequence * network.heads * network.head_dim / grid.tp
    if software.flash:
        small = 1.0 if network.head_dim >= 128 else _SMALL_HEAD
        forward = flops / 2 / (rates.attention * _FLASH_FORWARD * small)
        backward = 2.5 * flops / 2 / (rates.attention * _FLASH_BACKWARD * small)
        return Cost(forward + rates.gap, backward + rates.gap)
    scores = tokens * workload.sequence * network.heads / grid.tp
    traffic = _SCORE_TRAFFIC * scores / rates.memory
    work = flops / (rates.attention * _UNFUSED_ATTENTION)
    return Cost(work + traffic / 3, 2 * work + 2 * traffic / 3)


def _elementwise(network: Network, grid: Grid, tokens: Array, rates: Rates, software: Software) -> Cost:
    """Norms, residuals, rotary embedding and gates: bytes over bandwidth; twice as many backward."""
    moe = (network.experts_per_token + network.shared_experts) * network.expert_ffn
    inner = (network.moe_layers * moe + (network.layers - network.moe_layers) * network.ffn) / network.layers
    words = (
        _NORM_WORDS * network.hidden
        + _ROTARY_WORDS * (network.heads + network.kv_heads) * network.head_dim
        + _GATE_WORDS * inner
    )
    word = np.where(grid.precision == 1, 4.0, 2.0)
    forward = software.traffic * word * words * tokens / grid.tp / rates.memory
    return Cost(forward, 2 * forward)


def _recomputed(grid: Grid, matmul: Cost, attention: Cost, elementwise: Cost) -> Array:
    """Forward work done again in the backward pass, per layer and micro-batch."""
    everything = matmul.forward + attention.forward + elementwise.forward
    return np.select([grid.recompute == _FULL, grid.recompute == _SELECTIVE], [everything, elementwise.forward], 0.0)


def _head(network: Network, grid: Grid, tokens: Array, rates: Rates) -> tuple[Array, Array]:
    """Output matrix and loss of one micro-batch: multiplication, and passes over the logits."""
    vocabulary = network.vocab / grid.tp
    matmul = _cost(rates, tokens, vocabulary, network.hidden).both
    return matmul, _LOGIT_TRAFFIC * tokens * vocabulary / rates.memory


def _tensor_parallel(network: Network, grid: Grid, tokens: Array, chip: Chip, devices_per_node: int) -> Array:
    """Per layer and micro-batch, with sequence parallelism: two gathers and two scatters each way.

    Full recomputation repeats the forward half (Korthikanti et al. 2022).
    """
    group = group_of(chip, grid.tp, np.ones(len(grid)), devices_per_node)
    each = gather_time(group, 2.0 * tokens * network.hidden)
    return each * np.where(grid.recompute == _FULL, 12.0, 8.0)


def _context_parallel(
    network: Network, grid: Grid, tokens: Array, attention: Cost, chip: Chip, devices_per_node: int
) -> Array:
    """Gather of keys and values (forward, again backward) and scatter of their gradients, behind attention."""
    group = group_of(chip, grid.cp, grid.tp, devices_per_node)
    whole = 2.0 * 2.0 * tokens * grid.cp * network.kv_heads * network.head_dim / grid.tp
    return np.maximum(3.0 * gather_time(group, whole) - 0.5 * attention.both, 0.0)


def _expert_parallel(network: Network, grid: Grid, tokens: Array, chip: Chip, devices_per_node: int) -> Array:
    """Two exchanges of tokens x top-k vectors each way, not hidden."""
    if not network.experts:
        return np.zeros(len(grid))
    group = group_of(chip, grid.ep, grid.tp * grid.cp, devices_per_node)
    sent = 2.0 * tokens * network.experts_per_token * network.hidden / grid.tp
    return 4.0 * all_to_all_time(group, sent) * network.moe_layers / network.layers


def _data_parallel(
    network: Network,
    grid: Grid,
    m: Array,
    layers: Array,
    block: Array,
    chip: Chip,
    devices_per_node: int,
    software: Software,
) -> tuple[Array, Array]:
    """Exposed exchange of parameters within the shard ranks, and of gradients once a step.

    Fully sharded ranks gather each block twice for every micro-batch, behind the computation of other
    blocks, and scatter its gradient after the last. A pipeline stage, and ranks that shard only the
    optimizer, gather once a step.
    """
    shards = group_of(chip, grid.shard * grid.cp, grid.tp, devices_per_node)
    replicas = group_of(chip, grid.replicate, grid.tp * grid.cp * grid.shard, devices_per_node)
    parameters = (network.dense_parameters + network.expert_parameters / grid.ep) / network.layers / grid.tp
    ends = network.embedding_parameters / grid.tp
    scatter = gather_time(shards, software.gradient_bytes * parameters) / m
    exchange = 2 * gather_time(shards, 2.0 * parameters) + scatter
    hidden = np.minimum(exchange, block) * software.dp_overlap
    first = gather_time(shards, 2.0 * ends) + gather_time(shards, software.gradient_bytes * ends) / m
    every_micro_batch = m * (layers * (exchange - hidden) + (1 - software.dp_overlap) * first)

    stage = layers * parameters + ends
    once = gather_time(shards, 2.0 * stage) + gather_time(shards, software.gradient_bytes * stage)
    exposed_once = once - np.minimum(once, layers * block / 3) * software.dp_overlap
    full = grid.zero == 3
    reduced = all_reduce_time(replicas, software.gradient_bytes * stage / np.where(full, grid.shard * grid.cp, 1.0))
    sync = np.maximum(reduced - layers * block / 2, _MISHIDDEN * reduced)
    return np.where(full & (grid.pp == 1), every_micro_batch, exposed_once), sync


def _pipeline_send(network: Network, grid: Grid, tokens: Array, m: Array, chip: Chip, devices_per_node: int) -> Array:
    """Activations forward and their gradients backward between stages, every chunk of every micro-batch."""
    group = group_of(chip, grid.pp, grid.replicate * grid.shard * grid.cp * grid.tp, devices_per_node)
    message = 2.0 * tokens * network.hidden / grid.tp
    return 2.0 * send_time(group, message) * (m * grid.interleave + grid.pp - 1)


def _optimizer(network: Network, grid: Grid, layers: Array, rates: Rates) -> Array:
    """The update of the parameters a device holds: passes over memory."""
    whole = network.dense_parameters + network.expert_parameters
    stage = (whole * layers / network.layers + network.embedding_parameters) / grid.tp
    ranks = np.where(grid.zero >= 1, grid.shard * grid.cp, 1.0)
    return _OPTIMIZER_TRAFFIC * stage / ranks / rates.memory
