"""How long one operation takes on a chip: a matrix multiplication, a pass over memory, a collective.

Constants belong to a kind of device or network; none belongs to a model or a run. They were set on the
measured curves that docs/plan.md names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wingspan.plan.chips import Chip
from wingspan.plan.grid import Array, Grid

_TILE = 128 * 256  # output elements of one matrix-multiplication tile (cuBLAS, CUTLASS)
_WAVE_HALF = 0.45  # waves at which quantisation costs half; A100 fp16 and H100 fp8 curves alone give 0.3
_BEST_MATMUL = {"gpu": 0.80, "tpu": 0.85, "asic": 0.75, "cpu": 1.0}  # of peak, where no best was measured
_SUSTAINED = {"gpu": 0.79, "tpu": 0.95, "asic": 0.45, "cpu": 0.84}  # of the best, by all devices for hours
_STREAM = 0.92  # of peak memory bandwidth that copies reach: A100 0.81 to 0.88, H100 0.87 to 0.95
_GAP_S = {"gpu": 8e-6, "tpu": 4e-6, "asic": 8e-6, "cpu": 3e-5}  # between kernels: launch, and ramp up and down
_LARGEST_NODE = 16  # devices; domains beyond it are racks and pods
_LINK = 0.85  # of a link's rate that collectives reach: A100 0.77, H100 above 1 with in-switch reduction
_NETWORK = 0.85  # of the network cards' rate that collectives between nodes reach
_HOP_S = 4e-6  # one step of a ring inside a domain
_NETWORK_HOP_S = 3e-6  # one more node in a ring between domains
_START_S = 12e-6  # a collective's launch and its synchronisation


@dataclass(frozen=True)
class Rates:
    """What a chip sustains: FLOP/s per layout (by precision), bytes/s, and the gap between kernels."""

    attention: Array  # dense peak of the precision attention runs in, FLOP/s: never below 16 bits
    matmul: Array  # best sustained, FLOP/s
    memory: float  # bytes/s
    units: float  # tiles worked on at once; 0 where the device has no fixed number
    gap: float  # seconds


def rates_of(chip: Chip, grid: Grid) -> Rates:
    """The rates of a chip at the precision of each layout; fp32 runs at half of bf16 (TF32, AVX-512)."""
    assert chip.bf16_tflops is not None
    assert chip.memory_gb_s is not None
    bf16 = chip.bf16_tflops * 1e12
    fp8 = (chip.fp8_tflops or chip.bf16_tflops) * 1e12
    fp32 = bf16 / 2
    peak = np.choose(grid.precision.astype(np.intp), [bf16, fp32, fp8])
    best = chip.matmul_bf16_tflops / chip.bf16_tflops if chip.matmul_bf16_tflops else _BEST_MATMUL[chip.kind]
    return Rates(
        attention=np.minimum(peak, bf16),
        matmul=peak * best * _SUSTAINED[chip.kind],
        memory=chip.memory_gb_s * 1e9 * (_STREAM if chip.kind != "cpu" else 1.0),
        units=float(chip.compute_units or 0),
        gap=_GAP_S[chip.kind],
    )


def matmul_time(rates: Rates, m: Array | float, n: Array | float, k: Array | float) -> Array:
    """Seconds of an (m, k) x (k, n) multiplication: compute with wave quantisation, or memory, whichever binds.

    Efficiency is w / (w + 0.45) of the sustained best with w = m n / (tile x compute units), the number of
    waves; a roofline (Williams et al. 2009) bounds thin ones.
    """
    waves = m * n / (_TILE * rates.units) if rates.units else np.inf
    rate = rates.matmul * (1.0 if rates.units == 0 else waves / (waves + _WAVE_HALF))
    compute = 2.0 * m * n * k / rate
    moved = 2.0 * (m * k + k * n + m * n) / rates.memory
    return np.maximum(compute, moved) + rates.gap


def training_matmul_time(rates: Rates, m: Array | float, n: Array | float, k: Array | float) -> tuple[Array, Array]:
    """Seconds forward and backward: the backward pass multiplies for the input and for the weight."""
    backward = matmul_time(rates, m, k, n) + matmul_time(rates, k, n, m)
    return matmul_time(rates, m, n, k), backward


@dataclass(frozen=True)
class Group:
    """One process group of every layout: its size and the bytes/s each of its ranks gets."""

    size: Array
    bandwidth: Array
    hops: Array  # seconds of latency of one ring


def group_of(chip: Chip, size: Array, stride: Array, devices_per_node: int) -> Group:
    """The group of `size` ranks that lie `stride` apart, on the networks it spans.

    Inside a domain the fast links bind. Beyond, a ring leaves each domain through the network cards of all
    members that the group has there (rail-optimised rings of NCCL).
    """
    domain = fast_domain(chip, devices_per_node)
    inside = np.clip(np.floor(domain / stride), 1.0, size)
    fast = _known(chip.domain_gb_s) * 1e9 * _LINK
    card = _known(chip.network_gb_s) * 1e9 * _NETWORK
    crosses = size > inside
    bandwidth = np.where(crosses, np.minimum(fast, inside * card), fast)
    hops = _HOP_S * (inside - 1) + np.where(crosses, _NETWORK_HOP_S * size / inside, 0.0)
    return Group(size, bandwidth, hops)


def _known(rate: float | None) -> float:
    """A link's rate; one that no source states makes whatever crosses the link last for ever."""
    return rate if rate is not None else 1e-9


def fast_domain(chip: Chip, devices_per_node: int) -> int:
    """Devices that the fast links connect: those of a node, or of a rack or pod where the links leave the node."""
    known = chip.domain_devices or devices_per_node
    return known if known > _LARGEST_NODE else min(known, devices_per_node)


def gather_time(group: Group, whole: Array | float) -> Array:
    """Seconds of an all-gather to, or a reduce-scatter from, `whole` bytes: (n - 1)/n of them per rank, in a ring."""
    busy = whole * (group.size - 1) / group.size / group.bandwidth + group.hops + _START_S
    return np.where(group.size > 1, busy, 0.0)


def all_reduce_time(group: Group, whole: Array | float) -> Array:
    """Seconds of an all-reduce: a reduce-scatter and an all-gather."""
    return 2.0 * gather_time(group, whole)


def all_to_all_time(group: Group, sent: Array | float) -> Array:
    """Seconds to exchange `sent` bytes per rank with all others of the group."""
    return gather_time(group, sent)


def send_time(group: Group, message: Array | float) -> Array:
    """Seconds to send `message` bytes to the next rank of a group."""
    return np.where(group.size > 1, message / group.bandwidth + _START_S, 0.0)
