"""The whole run: days, failures, goodput, storage, power, energy, heat, carbon, water, money.

Published rates and measured powers are constants with their sources; docs/plan.md derives the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from wingspan.plan.devices.chips import Chip
from wingspan.project import Fleet

FAILURES = {  # interruptions per million device-hours, of published runs and clusters
    "Llama 3, 16,384 H100 (arXiv 2407.21783)": 419 / (54 * 24 * 16_384) * 1e6,
    "Meta RSC-1, A100 (arXiv 2410.21680)": 6.50 / (1000 * 24 * 8) * 1e6,
    "Meta RSC-2, A100 (arXiv 2410.21680)": 2.34 / (1000 * 24 * 8) * 1e6,
    "BLOOM, 384 A100 (bigscience chronicles)": 1.5 / (7 * 24 * 384) * 1e6,
    "OPT-175B, 992 A100 (metaseq chronicles)": 2 / (24 * 992) * 1e6,
    "MPT-7B, 440 A100 (MosaicML)": 4 / (9.5 * 24 * 440) * 1e6,
}
FAILURE_SOURCE = next(iter(FAILURES))  # the largest and newest of them is the default
CHECKPOINT_BYTES_PER_PARAMETER = 12.0  # fp32 weights and two moments; 13 measured (Nemotron, BLOOM)
DATA_BYTES_PER_TOKEN = 4.0  # uint32 token ids

_CHECKPOINT_STALL_S = 5.0  # asynchronous checkpoint: copy to host memory, then training goes on
_DETECT_S = 120.0  # until a dead rank is noticed and the job is stopped
# A cold start took 859 s at 11,616 devices with data set-up and warm-up (MLPerf training logs); Llama 3's effective
# time above 90% leaves about 14 minutes per restart on 16,384.
_START_S, _START_PER_DEVICE_S = 60.0, 0.04
_READ_GB_S_PER_NODE = 2.0  # from shared storage when a checkpoint is loaded; Llama 3 reports 2 to 7 TB/s in all

# What a run takes over the steps of its best layout, failures and restarts, fitted to 29 published runs (wholeruns.py):
# evaluation, loss spikes, slow nodes, layouts chosen by hand.
_PRACTICE = 1.2
WHOLE_RUN_BAND = (0.66, 1.70)  # shares of the prediction between which 26 of the 29 lie

# MLPerf power logs of liquid-cooled nodes: eight H100 draw 1,550 W and eight B200 1,577 W beyond the rated power of
# their devices at full load; while a device waits for the network it draws 30% of its rated power.
_HOST_W = 195.0
_WAITING = 0.30
_AIR_FANS = 0.20  # of a node's power on top, where air cools it: fans take 15 to 20% of the whole
_NETWORK = 0.05  # of node power on top: switches and optics; 3 to 8%
_NODES_PER_RACK, _PODS_RACK, _LARGEST_RACK = 4, 64, 144  # of air-cooled nodes; TPUs of a rack; devices of a rack

_DEPRECIATION_YEARS = 4.0  # of machines, straight line
_NETWORK_PRICE = 0.27  # of the servers': InfiniBand of 2,048 H100 nodes (the H100's purchase source)
_SPACE_USD_PER_KW_MONTH = 184.06  # asking rate of primary markets without energy (CBRE, second half of 2024)
_MONTH_H, _YEAR_H = 730.5, 8766.0


def _figure(unit: str, error: float | None = None, source: str = "") -> Any:
    """A field that is shown: its unit, half-width of its 90% band (None: the band of whole runs), its source."""
    band = WHOLE_RUN_BAND if error is None else (1 - error, 1 + error)
    return field(metadata={"unit": unit, "band": band, "source": source})


@dataclass(frozen=True)
class WholeRun:
    """Seconds, kWh, watts, dollars, bytes; None where a price or a power is not known."""

    steps: int
    days_of_steps: float
    failures: float
    energy_items_mwh: dict[str, float]
    owned_items_usd: dict[str, float]
    days: float = _figure("days")
    calendar_days: float = _figure("days")
    device_hours: float = _figure("device-hours")
    mean_hours_between_failures: float = _figure("hours", 0.5, FAILURE_SOURCE)
    restart_s: float = _figure("s", 0.5, "MLPerf training logs; Llama 3 (arXiv 2407.21783)")
    checkpoint_interval_s: float = _figure("s", 0.25, "Daly 2006, equation 37")
    goodput: float = _figure("share", 0.03, "Daly 2006, equation 20")
    checkpoint_bytes: float = _figure("B", 0.1, "13 bytes per parameter measured (Nemotron-4, BLOOM)")
    checkpoint_write_gb_s: float = _figure("GB/s", 0.3, "one checkpoint within the interval")
    checkpoint_read_gb_s: float = _figure("GB/s", 0.5, "2 GB/s per node (Llama 3 reports 2 to 7 TB/s in all)")
    data_bytes: float = _figure("B", 0.05)
    storage_bytes: float = _figure("B", 0.1, "data and the checkpoints that are kept")
    watts_per_device: float | None = _figure("W", 0.1, "MLPerf power logs")
    site_kw: float | None = _figure("kW", 0.15)
    heat_kw_per_node: float | None = _figure("kW", 0.1)
    heat_kw_per_rack: float | None = _figure("kW", 0.1)
    energy_mwh: float | None = _figure("MWh")
    carbon_t: float | None = _figure("t", source="grid intensity of the project file")
    water_m3: float | None = _figure("m3", source="litres per kWh of the project file")
    energy_cost: float | None = _figure("USD", source="price per kWh of the project file")
    cost: float | None = _figure("USD")  # at the project's price, or on demand
    cost_on_demand: float | None = _figure("USD")
    cost_reserved: float | None = _figure("USD")
    cost_owned: float | None = _figure("USD")


def whole_run(
    *,
    tokens: float,
    tokens_per_step: int,
    step_s: float,
    busy: float,
    parameters: float,
    chip: Chip,
    fleet: Fleet,
    kept_checkpoints: int = 2,
) -> WholeRun:
    """The run of `tokens` at `step_s` per step, of which the share `busy` computes rather than waits."""
    steps = max(1, round(tokens / tokens_per_step))
    nodes = max(1, math.ceil(fleet.devices / fleet.devices_per_node))
    checkpoint_bytes = parameters * CHECKPOINT_BYTES_PER_PARAMETER
    data_bytes = tokens * DATA_BYTES_PER_TOKEN
    rate = fleet.failures_per_million_device_hours or FAILURES[FAILURE_SOURCE]
    between_s = 3600e6 / (rate * fleet.devices)
    read_gb_s = _READ_GB_S_PER_NODE * nodes
    restart_s = _DETECT_S + _START_S + _START_PER_DEVICE_S * fleet.devices + checkpoint_bytes / (read_gb_s * 1e9)
    interval_s = daly_interval(_CHECKPOINT_STALL_S, between_s)
    useful = goodput(_CHECKPOINT_STALL_S, interval_s, between_s, restart_s)
    days_of_steps = steps * step_s / 86400
    practice = 1.0 if chip.kind == "cpu" else _PRACTICE
    days = days_of_steps * practice / useful
    device_hours = days * 24 * fleet.devices
    watts = node_watts(chip, busy, fleet.cooling)
    energy = energy_items(chip, busy, device_hours, fleet)
    energy_mwh = sum(energy.values()) if energy else None
    energy_cost = None if energy_mwh is None else energy_mwh * 1e3 * fleet.price_per_kwh
    owned = owned_items(chip, watts, device_hours, energy_cost)
    price = fleet.price_per_device_hour or chip.usd_per_hour
    return WholeRun(
        steps=steps,
        days_of_steps=days_of_steps,
        days=days,
        calendar_days=calendar_days(days, fleet),
        device_hours=device_hours,
        failures=days * 86400 / between_s,
        mean_hours_between_failures=between_s / 3600,
        restart_s=restart_s,
        checkpoint_interval_s=interval_s,
        goodput=useful,
        checkpoint_bytes=checkpoint_bytes,
        checkpoint_write_gb_s=checkpoint_bytes / interval_s / 1e9,
        checkpoint_read_gb_s=read_gb_s,
        data_bytes=data_bytes,
        storage_bytes=data_bytes + kept_checkpoints * checkpoint_bytes,
        watts_per_device=watts,
        site_kw=None if watts is None else watts * (1 + _NETWORK) * fleet.devices * fleet.pue / 1e3,
        heat_kw_per_node=None if watts is None else watts * min(fleet.devices, fleet.devices_per_node) / 1e3,
        heat_kw_per_rack=None if watts is None else watts * devices_per_rack(chip, fleet) / 1e3,
        energy_mwh=energy_mwh,
        carbon_t=None if energy_mwh is None else energy_mwh * fleet.grid_gco2_per_kwh / 1e3,
        water_m3=None if energy_mwh is None else energy_mwh * fleet.water_l_per_kwh,
        energy_cost=energy_cost,
        cost=None if price is None else price * device_hours,
        cost_on_demand=None if chip.usd_per_hour is None else chip.usd_per_hour * device_hours,
        cost_reserved=None if chip.reserved_usd_per_hour is None else chip.reserved_usd_per_hour * device_hours,
        cost_owned=sum(owned.values()) if owned else None,
        energy_items_mwh=energy,
        owned_items_usd=owned,
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
    """Share of the time that makes steps which are kept: Daly 2006, equation 20.

    T / T_s = M exp(R / M) (exp((tau + d) / M) - 1) / tau, with failures during restarts and re-done work counted;
    0 where failures come so fast that nothing is ever kept.
    """
    d, tau, M, R = stall_s, interval_s, between_failures_s, restart_s
    exponent = (R + tau + d) / M
    return 0.0 if exponent > 600 else tau / (M * math.exp(R / M) * math.expm1((tau + d) / M))


def calendar_days(days: float, fleet: Fleet) -> float:
    """Days from the first delivery to the last step, for `days` of the whole fleet's work.

    Machines come evenly, burn in, and join at once: until all are there half of the fleet works on average.
    """
    ramp = 7 * fleet.devices / fleet.delivered_per_week if fleet.delivered_per_week else 0.0
    if days < ramp / 2:
        return fleet.burn_in_days + math.sqrt(2 * ramp * days)
    return fleet.burn_in_days + ramp / 2 + days


def device_watts(chip: Chip, busy: float) -> float | None:
    """Watts of the device alone when `busy` of the time computes; None where its rated power is unknown."""
    return None if chip.tdp_w is None else chip.tdp_w * (_WAITING + (1 - _WAITING) * min(1.0, busy))


def node_watts(chip: Chip, busy: float, cooling: str = "liquid") -> float | None:
    """Watts at the wall per device, its share of the host included; None where unknown.

    The host's share is the measured wall power at full load less the device's rated power, where the catalogue
    has it.
    """
    device = device_watts(chip, busy)
    if device is None or chip.tdp_w is None:
        return None
    host = chip.wall_w - chip.tdp_w if chip.wall_w else _HOST_W
    return (device + host) * (1 + _AIR_FANS if cooling == "air" else 1.0)


def energy_items(chip: Chip, busy: float, device_hours: float, fleet: Fleet) -> dict[str, float]:
    """MWh by what draws it; empty where the chip's power is unknown."""
    device, node = device_watts(chip, busy), node_watts(chip, busy, fleet.cooling)
    if device is None or node is None:
        return {}
    watts = {"devices": device, "hosts": node - device, "network": node * _NETWORK}
    watts["site"] = sum(watts.values()) * (fleet.pue - 1)
    return {name: value * device_hours / 1e6 for name, value in watts.items()}


def owned_items(chip: Chip, watts: float | None, device_hours: float, energy_cost: float | None) -> dict[str, float]:
    """Dollars of a run on machines of one's own: depreciation, space and energy; staff is not counted."""
    if chip.purchase_usd is None or watts is None or energy_cost is None:
        return {}
    servers = chip.purchase_usd * device_hours / (_DEPRECIATION_YEARS * _YEAR_H)
    space = _SPACE_USD_PER_KW_MONTH / _MONTH_H * watts * (1 + _NETWORK) / 1e3 * device_hours
    return {"servers": servers, "network": _NETWORK_PRICE * servers, "space": space, "energy": energy_cost}


def devices_per_rack(chip: Chip, fleet: Fleet) -> int:
    """Devices whose heat leaves through one rack: the fast domain where it is a rack, else four nodes."""
    domain = chip.domain_devices or 1
    rack = _NODES_PER_RACK * fleet.devices_per_node
    if chip.kind == "tpu":
        rack = _PODS_RACK
    elif domain > rack and domain <= _LARGEST_RACK:
        rack = domain
    return min(rack, fleet.devices)
