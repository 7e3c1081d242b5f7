"""Time of one optimizer step, item by item, in seconds: what computes, what communicates, what waits.

The slowest pipeline stage sets the pace. Each item is the time it adds to the step on that stage, so the
items sum to the step. docs/plan.md derives every line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wingspan.plan.devices.chips import Chip
from wingspan.plan.step import exchange
from wingspan.plan.step.calibration import Calibration, Constants, groups_of, shipped
from wingspan.plan.step.grid import SCHEDULES, Array, Grid, Software, Workload, added
from wingspan.plan.step.kernels import Rates, larger, matmul_time, rates_of
from wingspan.plan.step.network import Network
from wingspan.plan.step.sizes import Habits, Hardware, Number, Sizes, habits_of, hardware_of, sizes_of

ITEMS = (
    "matmul",
    "attention",
    "elementwise",
    "recompute",
    "launch",
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

_FULL, _SELECTIVE = 2, 1
_ROTARY_WORDS = 2  # values of q and k moved per token forward
_ZERO_BUBBLE = 1 / 3  # of a 1F1B bubble that zero-bubble schedules leave (Qi et al. 2023)


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

    def __mul__(self, times: Number) -> Cost:
        return Cost(self.forward * times, self.backward * times)


def step_time(
    network: Network,
    grid: Grid,
    workload: Workload,
    chip: Chip,
    devices_per_node: int,
    software: Software,
    calibration: Calibration | None = None,
) -> dict[str, Array]:
    """Seconds per item for every layout."""
    constants = (calibration or shipped()).constants(groups_of(chip, software))
    hardware = hardware_of(chip, devices_per_node)
    return step_items(sizes_of(network, workload), grid, hardware, habits_of(software), constants)


def step_items(sizes: Sizes, grid: Grid, hardware: Hardware, habits: Habits, c: Constants) -> dict[str, Array]:
    """The same from plain numbers, any of which may be arrays."""
    rates = rates_of(hardware, grid, c)
    m = sizes.global_batch / (grid.data_parallel * grid.micro_batch)
    tokens = grid.micro_batch * sizes.sequence / grid.cp
    matmul = _block_matmuls(sizes, grid, tokens, rates, c)
    attention = _attention(sizes, grid, tokens, rates, habits, c)
    elementwise = _elementwise(sizes, grid, tokens, rates, habits, c)
    again = _recomputed(grid, matmul, attention, elementwise, habits, c)
    head = _head(sizes, grid, tokens, rates, c)
    work = (matmul + attention + elementwise).both + again

    tp = exchange.tensor_parallel(sizes, grid, tokens, hardware, c)
    cp = exchange.context_parallel(sizes, grid, tokens, attention.both, hardware, c)
    ep = exchange.expert_parallel(sizes, grid, tokens, hardware, c)
    send = exchange.pipeline_send(sizes, grid, tokens, hardware, c)
    busy = work + tp + cp + ep
    waits = _waits_for_launches(sizes, grid, busy, c)
    block = busy + waits
    layers, tail = _slowest_stage(sizes, grid, block, head.both)
    shard, sync = exchange.data_parallel(sizes, grid, m, layers, block, hardware, habits, c)
    items = {
        "matmul": m * layers * matmul.both,
        "attention": m * layers * attention.both,
        "elementwise": m * (layers * elementwise.both + tail),
        "recompute": m * layers * again,
        "launch": m * layers * waits + c.step,
        "tensor_parallel": m * layers * tp,
        "context_parallel": m * layers * cp,
        "expert_parallel": m * layers * ep,
        "shard_exchange": shard,
        "gradient_sync": sync,
        "pipeline_send": send * (m * grid.interleave + grid.pp - 1),
        "pipeline_bubble": c.bubble * bubble_fraction(grid, m) * m * layers * block,
        "optimizer": _optimizer(sizes, grid, layers, rates, c),
    }
    so_far = added(items.values())
    items["stragglers"] = so_far * straggling(grid.devices, c.straggle)
    return {name: seconds * c.scale for name, seconds in items.items()}


def total(items: dict[str, Array]) -> Array:
    """Seconds of the whole step."""
    return added(items[item] for item in ITEMS)


def bubble_fraction(grid: Grid, micro_batches: Array) -> Array:
    """Idle time over work: (p - 1) / (m v) of interleaved 1F1B (Narayanan et al. 2021), a third without bubbles."""
    fills = (grid.schedule == SCHEDULES.index("zero_bubble")) | (grid.schedule == SCHEDULES.index("zbv"))
    left = np.where(fills, _ZERO_BUBBLE, 1.0)
    return left * (grid.pp - 1) / (micro_batches * grid.interleave)


def straggling(devices: Array, sigma: Number = 0.006) -> Array:
    """How much later the slowest of n devices is than the mean: sigma sqrt(2 ln n), the normal maximum."""
    slowest: Array = sigma * np.sqrt(2 * np.log(np.maximum(devices, 1.0)))
    return slowest


def hardware_flops(network: Network, grid: Grid, workload: Workload) -> Array:
    """FLOPs of one step that the devices really do: the model's, and the recomputed forward pass."""
    step = network.training_flops_per_token(workload.sequence) * workload.tokens
    blocks = step - 6 * network.embedding_parameters * workload.tokens
    return step + np.where(grid.recompute == _FULL, blocks / 3, 0.0)


def _cost(rates: Rates, c: Constants, m: Number, n: Number, k: Number, groups: Number = 1.0) -> Cost:
    """A multiplication forward, and backward the two for its input and its weight."""
    backward = matmul_time(rates, c, m, k, n, groups) + matmul_time(rates, c, k, n, m, groups)
    return Cost(matmul_time(rates, c, m, n, k, groups), backward)


def _block_matmuls(sizes: Sizes, grid: Grid, tokens: Array, rates: Rates, c: Constants) -> Cost:
    """The multiplications of an average layer for one micro-batch."""
    h, tp = sizes.hidden, grid.tp
    out = _cost(rates, c, tokens, h, sizes.attended / tp)
    read = _cost(rates, c, tokens, np.maximum(sizes.qkv / tp, 1.0), h) * np.where(sizes.qkv > 0, 1.0, 0.0)
    if np.any(sizes.kv_rank):
        read = read + _latent(sizes, grid, tokens, rates, c) * np.where(sizes.kv_rank > 0, 1.0, 0.0)
    dense = _cost(rates, c, tokens, sizes.width * sizes.ffn / tp, h) + _cost(rates, c, tokens, h, sizes.ffn / tp)
    if np.any(sizes.moe):
        return read + out + dense * (1 - sizes.moe) + _experts(sizes, grid, tokens, rates, c) * sizes.moe
    return read + out + dense


def _latent(sizes: Sizes, grid: Grid, tokens: Array, rates: Rates, c: Constants) -> Cost:
    """Latent attention: down to the latents, and up to queries, keys and values (DeepSeek-V2)."""
    down = _cost(rates, c, tokens, np.maximum(sizes.latents, 1.0), sizes.hidden)
    queries = _cost(rates, c, tokens, np.maximum(sizes.from_q / grid.tp, 1.0), np.maximum(sizes.q_rank, 1.0))
    return (
        down
        + queries
        + _cost(rates, c, tokens, np.maximum(sizes.from_kv / grid.tp, 1.0), np.maximum(sizes.kv_rank, 1.0))
    )


def _experts(sizes: Sizes, grid: Grid, tokens: Array, rates: Rates, c: Constants) -> Cost:
    """The experts of one rank: tokens x top-k x ep / experts go through each.

    With expert parallelism an expert is whole and a tensor-parallel rank brings its share of the tokens.
    """
    h = sizes.hidden
    whole = grid.ep > 1
    local = np.maximum(sizes.experts / grid.ep, 1.0)
    inner = np.maximum(sizes.expert_ffn, 1.0) / np.where(whole, 1.0, grid.tp)
    each = np.maximum(tokens * sizes.top / local / np.where(whole, grid.tp, 1.0), 1.0)
    up, down = _cost(rates, c, each, sizes.width * inner, h, local), _cost(rates, c, each, h, inner, local)
    router = _cost(rates, c, tokens / grid.tp, sizes.experts, h)
    shared = np.maximum(sizes.shared, 1.0) / grid.tp
    always = _cost(rates, c, tokens, sizes.width * shared, h) + _cost(rates, c, tokens, h, shared)
    return (up + down) * c.grouped + router + always * np.where(sizes.shared > 0, 1.0, 0.0)


def _attention(sizes: Sizes, grid: Grid, tokens: Array, rates: Rates, habits: Habits, c: Constants) -> Cost:
    """Scores and their use, of one layer and micro-batch: 4 s a d FLOPs per token forward, half where causal.

    The backward pass of flash attention makes 2.5 times the forward FLOPs, as it computes the scores again
    (Dao 2023). Without flash attention a score matrix is written and read, and nothing is skipped.
    """
    flops = tokens * 4.0 * sizes.sequence * sizes.scores / grid.tp
    small = np.where(sizes.head_dim >= 128, 1.0, c.small_head)
    half = flops / 2 / (rates.attention * c.attention) * small
    flash = Cost(half + c.gap, 2.5 * half * c.backward + c.gap)
    if np.all(habits.flash):
        return flash
    traffic = c.scores * tokens * sizes.sequence * sizes.heads / grid.tp / rates.memory
    crooked = np.where(sizes.head_dim % 8 != 0, 2 * c.misaligned - 1, 1.0)
    work = flops / (rates.attention * c.unfused) * crooked
    plain = Cost(work + traffic / 3, 2 * work + 2 * traffic / 3)
    return Cost(
        np.where(habits.flash, flash.forward, plain.forward), np.where(habits.flash, flash.backward, plain.backward)
    )


def _elementwise(sizes: Sizes, grid: Grid, tokens: Array, rates: Rates, habits: Habits, c: Constants) -> Cost:
    """Norms, residuals, rotary embedding, gates, routing and casts: bytes over bandwidth; twice as many backward."""
    h, tp = sizes.hidden, grid.tp
    words = c.norm * h / np.where(habits.sequence_parallel, tp, 1.0)
    words = words + (_ROTARY_WORDS * sizes.rotated + c.gate * sizes.mlp + c.permute * sizes.moe * sizes.top * h) / tp
    moved = c.traffic * np.where(grid.precision == 1, 4.0, 2.0) * words
    cast = np.where(grid.precision >= 2, c.cast * (2 * h + sizes.mlp / tp), 0.0)
    forward = (moved + cast) * tokens / rates.memory
    return Cost(forward, 2 * forward)


def _recomputed(grid: Grid, matmul: Cost, attention: Cost, elementwise: Cost, habits: Habits, c: Constants) -> Array:
    """Forward work done again in the backward pass, per layer and micro-batch."""
    everything = matmul.forward + attention.forward + elementwise.forward
    some = np.where(habits.flash, elementwise.forward + c.selective * everything, attention.forward)
    return np.where(grid.recompute == _FULL, everything, np.where(grid.recompute == _SELECTIVE, some, 0.0))


def _waits_for_launches(sizes: Sizes, grid: Grid, busy: Array, c: Constants) -> Array:
    """Seconds by which launching a layer's kernels lasts longer than they do: what small models wait for."""
    experts = 1.0 + sizes.moe * (c.host_moe + c.host_expert * np.maximum(sizes.experts / grid.ep, 1.0))
    host = c.host * experts * np.where(grid.recompute == _FULL, 4 / 3, 1.0)
    return np.sqrt(larger(busy * busy, host * host)) - busy


def _slowest_stage(sizes: Sizes, grid: Grid, block: Array, head: Array) -> tuple[Array, Array]:
    """Layers of a full pipeline stage, and how much longer the last one takes with the head and what is left."""
    chunks = grid.pp * grid.interleave
    layers = np.ceil(sizes.layers / chunks) * grid.interleave
    layers = np.where(layers * (grid.pp - 1) >= sizes.layers, sizes.layers / grid.pp, layers)
    last = sizes.layers - layers * (grid.pp - 1)
    return layers, np.where(grid.pp > 1, np.maximum((last - layers) * block + head, 0.0), head)


def _head(sizes: Sizes, grid: Grid, tokens: Array, rates: Rates, c: Constants) -> Cost:
    """Output matrix and loss of one micro-batch: multiplication, and passes over the logits."""
    vocabulary = sizes.vocab / grid.tp
    traffic = c.logit * tokens * vocabulary / rates.memory
    return _cost(rates, c, tokens, vocabulary, sizes.hidden) + Cost(traffic / 3, 2 * traffic / 3)


def _optimizer(sizes: Sizes, grid: Grid, layers: Array, rates: Rates, c: Constants) -> Array:
    """The update of the parameters a device holds: passes over memory."""
    whole = sizes.dense_parameters + sizes.expert_parameters / grid.ep
    stage = (whole * layers / sizes.layers + sizes.embedding) / grid.tp
    return c.optimizer * stage / np.where(grid.zero >= 1, grid.shard * grid.cp, 1.0) / rates.memory
