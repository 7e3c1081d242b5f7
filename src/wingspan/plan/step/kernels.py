"""How long one operation takes on a chip: a matrix multiplication, a collective.

Everything broadcasts: fields may be numbers, or arrays of one value per layout or per measured run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wingspan.plan.step.calibration import Constants
from wingspan.plan.step.grid import Array, Grid
from wingspan.plan.step.sizes import Hardware, Number

_ROWS = _COLUMNS = 128  # of a matrix-multiplication tile (cuBLAS, CUTLASS); two of them share a compute unit
_ALIGNED = 64  # elements: 128 bytes of 16-bit values, a line of memory
_FP32, _FP8, _FP4 = 1, 2, 3  # indices into grid.PRECISION


@dataclass(frozen=True)
class Rates:
    """What a chip sustains with some software: FLOP/s per layout (by precision), bytes/s, units of tiles."""

    attention: Array  # peak of the precision attention runs in, FLOP/s: never below 16 bits
    matmul: Array
    memory: Number
    units: Number


def rates_of(hardware: Hardware, grid: Grid, c: Constants) -> Rates:
    """The rates at the precision of each layout; fp32 runs at half of bf16 (TF32, AVX-512)."""
    precision = grid.precision
    half = np.where(precision == _FP32, hardware.bf16 / 2, hardware.bf16)
    low = np.where(precision == _FP8, hardware.fp8 * c.fp8, half)
    peak = np.where(precision == _FP4, hardware.fp4 * c.fp4, low)
    return Rates(
        attention=half * c.speed,
        matmul=peak * hardware.sustained * c.matmul * c.speed,
        memory=hardware.memory * c.memory * c.speed,
        units=hardware.units,
    )


def larger(a: Array, b: Number) -> Array:
    """The larger of two times that overlap, rounded where they are close: (a^4 + b^4)^(1/4)."""
    return np.sqrt(np.sqrt((a * a) ** 2 + (b * b) ** 2))


def matmul_time(rates: Rates, c: Constants, m: Number, n: Number, k: Number, groups: Number = 1.0) -> Array:
    """Seconds of `groups` multiplications (m, k) x (k, n) launched as one: compute or memory, whichever binds.

    Tiles are worked on in waves of as many as the chip has units, whole tiles only; a wave and an inner width
    are lost at the ends. A roofline (Williams et al. 2009) bounds thin ones.
    """
    waves = groups * np.ceil(m / _ROWS) * np.ceil(n / _COLUMNS) / (2.0 * rates.units)
    wave = 4.0 * _ROWS * _COLUMNS * rates.units * (k + c.depth) / rates.matmul
    crooked = (n % _ALIGNED != 0) | (k % _ALIGNED != 0)
    compute = (waves + c.wave) * wave * np.where(crooked, c.misaligned, 1.0)
    moved = 2.0 * groups * (m * k + k * n + m * n) / rates.memory
    return larger(compute, moved) + c.gap


@dataclass(frozen=True)
class Group:
    """One process group of every layout: its size, the ranks of one domain, and what each rank gets."""

    size: Array
    inside: Array
    bandwidth: Array  # bytes/s of a ring
    link: Number  # bytes/s inside a domain
    card: Number  # bytes/s between domains
    latency: Array  # seconds of one ring
    start: Number  # seconds to start any exchange


def group_of(hardware: Hardware, c: Constants, size: Array, stride: Array | float) -> Group:
    """The group of `size` ranks that lie `stride` apart, on the networks it spans.

    Inside a domain the fast links bind. Beyond, a ring leaves each domain through the network cards of all
    members that the group has there (rail-optimised rings of NCCL).
    """
    inside = np.clip(np.floor(hardware.domain / stride), 1.0, size)
    link, card = hardware.link * c.link / c.comm, hardware.card * c.network / c.comm
    crosses = size > inside
    hops = c.hop * (inside - 1) + np.where(crosses, c.network_hop * size / inside, 0.0)
    return Group(
        size=size,
        inside=inside,
        bandwidth=np.where(crosses, np.minimum(link, inside * card), link),
        link=link,
        card=card,
        latency=(hops + c.start) * c.comm,
        start=c.start * c.comm,
    )


def gather_time(group: Group, whole: Number) -> Array:
    """Seconds of an all-gather to, or a reduce-scatter from, `whole` bytes: (n - 1)/n of them per rank, in a ring."""
    busy = whole * (group.size - 1) / group.size / group.bandwidth + group.latency
    return np.where(group.size > 1, busy, 0.0)


def all_to_all_time(group: Group, sent: Number) -> Array:
    """Seconds to exchange `sent` bytes per rank with all others: links inside and the rank's own card beyond."""
    near = sent * (group.inside - 1) / group.size / group.link
    far = sent * (group.size - group.inside) / group.size / group.card
    return np.where(group.size > 1, np.maximum(near, far) + group.start, 0.0)


def send_time(group: Group, message: Number) -> Array:
    """Seconds to send `message` bytes to the next rank of a group."""
    busy = message / np.where(group.inside > 1, group.link, group.card) + group.start
    return np.where(group.size > 1, busy, 0.0)
