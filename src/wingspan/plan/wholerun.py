"""The whole run: days, failures, goodput, energy, heat, carbon, money, storage.

Published rates and measured powers are constants with their sources; docs/plan.md derives the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wingspan.plan.chips import Chip
from wingspan.project import Fleet

FAILURES_PER_NODE_DAY = 3.8e-3  # 419 unexpected interruptions, 54 days, 2,048 nodes (Llama 3, arXiv 2407.21783)
FAILURE_SOURCE = "419 unexpected interruptions in 54 days on 2,048 nodes (Llama 3, arXiv 2407.21783)"
CHECKPOINT_BYTES_PER_PARAMETER = 12.0  # fp32 weights and two moments; 13 measured (Nemotron, BLOOM)
DATA_BYTES_PER_TOKEN = 4.0  # uint32 token ids

_CHECKPOINT_STALL_S = 5.0  # asynchronous checkpoint: copy to host memory, then training goes on
_DETECT_S = 120.0  # until a dead rank is noticed and the job is stopped
# A cold start took 859 s at 11,616 devices with data set-up and warm-up (MLPerf training logs); Llama 3's effective
# time above 90% leaves about 14 minutes per restart on 16,384.
_START_S, _START_PER_DEVICE_S = 60.0, 0.04
_READ_GB_S_PER_NODE = 2.0  # from shared storage when a checkpoint is loaded; Llama 3 reports 2 to 7 TB/s in all
_WALL_PER_TDP = 856 / 700  # node power per device over its TDP, measured on 8 x H100 (MLPerf power logs)
_WAITING_PER_BUSY = 5075 / 6849  # node power while waiting for the network, same source
_NETWORK_SHARE = 0.05  # switches and optics on top of the nodes; 3 to 8%
_ALWAYS_BUSY = 0.90  # share of node power that a perfectly computing step draws of the measured busy power


@dataclass(frozen=True)
class WholeRun:
    """Seconds, kWh, watts, dollars, bytes; money is None where no price is known."""

    steps: int
    days_of_steps: float
    days: float
    device_hours: float
    failures: float
    mean_hours_between_failures: float
    restart_s: float
    checkpoint_interval_s: float
    goodput: float
    watts_per_device: float | None
    site_kw: float | None
    heat_kw_per_node: float | None
    energy_mwh: float | None
    carbon_t: float | None
    device_cost: float | None
    energy_cost: float | None
    checkpoint_bytes: float
    data_bytes: float


def whole_run(
    *, tokens: float, tokens_per_step: int, step_s: float, busy: float, parameters: float, chip: Chip, fleet: Fleet
) -> WholeRun:
    """The run of `tokens` at `step_s` per step, of which the share `busy` computes rather than waits."""
    steps = max(1, round(tokens / tokens_per_step))
    nodes = max(1, math.ceil(fleet.devices / fleet.devices_per_node))
    checkpoint = parameters * CHECKPOINT_BYTES_PER_PARAMETER
    between_s = 86400 / (FAILURES_PER_NODE_DAY * nodes)
    restart_s = (
        _DETECT_S + _START_S + _START_PER_DEVICE_S * fleet.devices + checkpoint / (_READ_GB_S_PER_NODE * 1e9 * nodes)
    )
    interval_s = daly_interval(_CHECKPOINT_STALL_S, between_s)
    useful = goodput(_CHECKPOINT_STALL_S, interval_s, between_s, restart_s)
    days_of_steps = steps * step_s / 86400
    days = days_of_steps / useful
    device_hours = days * 24 * fleet.devices
    watts = device_watts(chip, busy)
    site = None if watts is None else watts * (1 + _NETWORK_SHARE) * fleet.devices * fleet.pue
    energy = None if site is None else site * days * 24 / 1e6
    price = fleet.price_per_device_hour or chip.usd_per_hour
    return WholeRun(
        steps=steps,
        days_of_steps=days_of_steps,
        days=days,
        device_hours=device_hours,
        failures=days * 86400 / between_s,
        mean_hours_between_failures=between_s / 3600,
        restart_s=restart_s,
        checkpoint_interval_s=interval_s,
        goodput=useful,
        watts_per_device=watts,
        site_kw=None if site is None else site / 1e3,
        heat_kw_per_node=None if watts is None else watts * min(fleet.devices, fleet.devices_per_node) / 1e3,
        energy_mwh=energy,
        carbon_t=None if energy is None else energy * 1e3 * fleet.grid_gco2_per_kwh / 1e6,
        device_cost=None if price is None else price * device_hours,
        energy_cost=None if energy is None else energy * 1e3 * fleet.price_per_kwh,
        checkpoint_bytes=checkpoint,
        data_bytes=tokens * DATA_BYTES_PER_TOKEN,
    )


def daly_interval(stall_s: float, between_failures_s: float) -> float:
    """Seconds between checkpoints that lose least: Daly 2006, equation 37.

    tau = sqrt(2 d M) [1 + sqrt(d / 2M) / 3 + (d / 2M) / 9] - d for d < 2M, else M.
    """
    d, M = stall_s, between_failures_s
    if d >= 2 * M:
        return M
    x = math.sqrt(d / (2 * M))
    return math.sqrt(2 * d * M) * (1 + x / 3 + x * x / 9) - d


def goodput(stall_s: float, interval_s: float, between_failures_s: float, restart_s: float) -> float:
    """Share of the time that makes steps which are kept.

    Each interval pays one stall; each failure pays the restart and half an interval of lost work.
    """
    working = interval_s / (interval_s + stall_s)
    lost = (restart_s + (interval_s + stall_s) / 2) / between_failures_s
    return working / (1 + lost)


def device_watts(chip: Chip, busy: float) -> float | None:
    """Watts at the wall per device, host included, when `busy` of the time computes; None where unknown.

    Measured busy power where the catalogue has it, else the TDP times what eight H100 in a node add to it.
    """
    full = chip.wall_w or (chip.tdp_w * _WALL_PER_TDP if chip.tdp_w else None)
    if full is None:
        return None
    return full * (_WAITING_PER_BUSY + (1 - _WAITING_PER_BUSY) * min(1.0, busy / _ALWAYS_BUSY))
