"""Bytes on each level of the network in a step: by plan's formulas, and as a rank was seen to send them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wingspan.model.shape import ModelShape
from wingspan.plan.step import exchange
from wingspan.plan.step.calibration import Constants
from wingspan.plan.step.grid import WINGSPAN, Grid, Workload
from wingspan.plan.step.network import network_of
from wingspan.plan.step.sizes import Hardware, habits_of, sizes_of
from wingspan.project import Layout, Train
from wingspan.rehearse.rank import RankRehearsal
from wingspan.rehearse.trackers import SENDS, passes_of

_LEVELS = {
    "dp_shard+cp": "dp_shard",
    "expert_shard": "dp_shard",
    "dp_shard": "dp_shard",
    "dp_replicate": "dp_replicate",
}
# One byte per second without delay, nothing hidden and nothing computed: plan's seconds are bytes then.
_UNIT = Hardware(bf16=1, fp8=1, fp4=1, sustained=1, memory=1, units=1, domain=1e12, link=1, card=1)
_BARE = replace(
    Constants(), link=1.0, network=1.0, comm=1.0, start=0.0, hop=0.0, network_hop=0.0, **dict.fromkeys(
        ("exposed_tp", "exposed_cp", "exposed_ep", "exposed_dp", "exposed_pp"), 1.0
    )
)  # fmt: skip


def compare_bytes(
    shape: ModelShape, layout: Layout, train: Train, kinds: Sequence[RankRehearsal]
) -> list[tuple[str, float, float]]:
    """Rows of (item, plan, rehearsed) : bytes that leave a rank in a step, of the kind that sends most."""
    sent = [_sent(kind) for kind in kinds]
    planned = _planned(shape, layout, train)
    most = {level: max(one.get(level, 0.0) for one in sent) for level in planned}
    return [(f"sent over {level}", planned[level], most[level]) for level in planned if planned[level]]


def _planned(shape: ModelShape, layout: Layout, train: Train) -> dict[str, float]:
    grid = Grid.of(layout)
    sizes, habits = sizes_of(network_of(shape), Workload(train.sequence, train.global_batch)), habits_of(WINGSPAN)
    m = grid.micro_batches(Workload(train.sequence, train.global_batch))
    tokens = grid.micro_batch * train.sequence / grid.cp
    layers, nothing = np.ceil(sizes.layers / grid.pp), np.zeros(1)
    shard, replicate = exchange.data_parallel(sizes, grid, m, layers, nothing, _UNIT, habits, _BARE)
    found = {
        "tp": m * layers * exchange.tensor_parallel(sizes, grid, tokens, _UNIT, _BARE),
        "cp": m * layers * exchange.context_parallel(sizes, grid, tokens, nothing, _UNIT, _BARE),
        "ep": m * layers * exchange.expert_parallel(sizes, grid, tokens, _UNIT, _BARE),
        "dp_shard": shard,
        "dp_replicate": replicate,
        "pp": m * exchange.pipeline_send(sizes, grid, tokens, _UNIT, _BARE),
    }
    return {level: float(np.squeeze(bytes_)) for level, bytes_ in found.items()}


def _sent(kind: RankRehearsal) -> dict[str, float]:
    """What leaves a rank: of a gathered or scattered message all but its own share, of a reduced one twice that."""
    found: dict[str, float] = {}
    for (op, group, ranks), (_, bytes_) in kind.collectives.items():
        leaves = 1.0 if op in SENDS else (ranks - 1) / ranks * passes_of(op)
        if "recv" not in op:
            level = _LEVELS.get(group, group)
            found[level] = found.get(level, 0.0) + leaves * bytes_
    return found
