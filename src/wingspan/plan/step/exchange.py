"""What the ranks of a layout exchange in one step, in seconds that computation does not hide."""

from __future__ import annotations

import numpy as np

from wingspan.plan.step.calibration import Constants
from wingspan.plan.step.grid import Array, Grid
from wingspan.plan.step.kernels import all_to_all_time, gather_time, group_of, larger, send_time
from wingspan.plan.step.sizes import Habits, Hardware, Number, Sizes

_FULL = 2  # index into grid.RECOMPUTE
_BACKWARD = 0.6  # of a step's computation lies behind the first gradients


def tensor_parallel(sizes: Sizes, grid: Grid, tokens: Array, hardware: Hardware, c: Constants) -> Array:
    """Per layer and micro-batch, with sequence parallelism: two gathers and two scatters each way.

    Without it two all-reduces each way, which move as much. Full recomputation repeats the forward half
    (Korthikanti et al. 2022).
    """
    group = group_of(hardware, c, grid.tp, 1.0)
    each = gather_time(group, 2.0 * tokens * sizes.hidden)
    return each * np.where(grid.recompute == _FULL, 12.0, 8.0) * c.exposed_tp


def context_parallel(
    sizes: Sizes, grid: Grid, tokens: Array, attention: Array, hardware: Hardware, c: Constants
) -> Array:
    """Gather of keys and values (forward, again backward) and scatter of their gradients, behind attention."""
    group = group_of(hardware, c, grid.cp, grid.tp)
    exchange = 3.0 * gather_time(group, 2.0 * tokens * grid.cp * sizes.kv / grid.tp)
    return _beside(exchange, attention, c.exposed_cp)


def expert_parallel(sizes: Sizes, grid: Grid, tokens: Array, hardware: Hardware, c: Constants) -> Array | float:
    """Two exchanges of tokens x top-k vectors each way, per layer and micro-batch."""
    if not np.any(sizes.moe):
        return 0.0
    group = group_of(hardware, c, grid.ep, grid.tp * grid.cp)
    sent = 2.0 * tokens * sizes.top * sizes.hidden / grid.tp
    return c.exposed_ep * 4.0 * all_to_all_time(group, sent) * sizes.moe


def pipeline_send(sizes: Sizes, grid: Grid, tokens: Array, hardware: Hardware, c: Constants) -> Array:
    """Activations forward and their gradients backward between stages, per chunk and micro-batch."""
    group = group_of(hardware, c, grid.pp, grid.replicate * grid.shard * grid.cp * grid.tp)
    return c.exposed_pp * 2.0 * send_time(group, 2.0 * tokens * sizes.hidden / grid.tp)


def data_parallel(
    sizes: Sizes,
    grid: Grid,
    m: Array,
    layers: Array,
    block: Array,
    hardware: Hardware,
    habits: Habits,
    c: Constants,
) -> tuple[Array, Array]:
    """Exchange of parameters and gradients within the shard ranks, and of gradients between replicas.

    Fully sharded ranks gather each block twice for every micro-batch, behind the computation of other
    blocks, and scatter its gradient after the last. A pipeline stage, and ranks that shard only the
    optimizer, scatter and gather once a step, a block at a time.
    """
    shards = group_of(hardware, c, grid.shard * grid.cp, grid.tp)
    replicas = group_of(hardware, c, grid.replicate, grid.tp * grid.cp * grid.shard)
    parameters = (sizes.dense_parameters + sizes.expert_parameters / grid.ep) / sizes.layers / grid.tp
    ends = sizes.embedding / grid.tp
    wide = habits.gradient_bytes
    last = np.maximum(m, 1.0)
    gather, scatter = gather_time(shards, 2.0 * parameters), gather_time(shards, wide * parameters)
    gather_ends, scatter_ends = gather_time(shards, 2.0 * ends), gather_time(shards, wide * ends)

    exposed = _beside(2.0 * gather + scatter / last, block, c.exposed_dp)
    every = m * (layers * exposed + c.exposed_dp * (2.0 * gather_ends + scatter_ends / last))
    once = _beside(layers * (gather + scatter) + gather_ends + scatter_ends, layers * block, c.exposed_dp)

    kept = np.where(grid.zero >= 1, grid.shard * grid.cp, 1.0)
    reduced = layers * gather_time(replicas, wide * parameters / kept) + gather_time(replicas, wide * ends / kept)
    sync = _beside(2.0 * reduced, _BACKWARD * layers * block, c.exposed_dp)
    return np.where((grid.zero == 3) & (grid.pp == 1), every, once), sync


def _beside(exchange: Array, work: Array, exposed: Number) -> Array:
    """Seconds that an exchange adds to the work it runs beside: what exceeds it, and a share of what does not."""
    return larger(exchange, work) - work + exposed * np.minimum(exchange, work)
