"""What a layout is sought for, and which layouts there are: everything divides, every device is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wingspan.plan.devices.chips import Chip, share_of_machine
from wingspan.plan.step import memory as memory_of
from wingspan.plan.step import steptime
from wingspan.plan.step.activations import ZBV
from wingspan.plan.step.calibration import Band, Calibration, groups_of, read_calibration, shipped
from wingspan.plan.step.grid import PRECISION, RECOMPUTE, SCHEDULES, WINGSPAN, Array, Grid, Software, Workload
from wingspan.plan.step.network import Network
from wingspan.plan.step.sizes import fast_domain
from wingspan.project import Fleet

_CPU_SHARE = 0.5  # of a machine's memory for training; the system and the other stages keep the rest
_FILLED = 0.95  # of an accelerator's memory: rehearsals of the fullest rank differ by up to 5%
_LARGEST_MICRO_BATCH = 64
_FP8 = PRECISION.index("fp8")
_FEWEST_TOKENS = 256  # of a sequence on one context-parallel rank
_MOST_TP = 32  # tensor-parallel ranks beyond one fast network


@dataclass(frozen=True)
class Problem:
    """A network trained by a workload on so many devices of a chip."""

    network: Network
    workload: Workload
    chip: Chip
    devices: int
    devices_per_node: int = 8
    software: Software = WINGSPAN
    calibration: Calibration | None = None  # None: the one that comes with wingspan

    @property
    def band(self) -> Band:
        """Where nine of ten measured steps would lie around a predicted one."""
        groups = groups_of(self.chip, self.software)
        return (self.calibration or shipped()).band(groups, experts=self.network.experts > 0)

    @property
    def capacity(self) -> float:
        """Bytes that training may use of one device."""
        return self.chip.memory_bytes * (_CPU_SHARE if self.chip.kind == "cpu" else 1.0)

    @property
    def usable(self) -> float:
        """Bytes that a chosen layout may fill: memory is predicted to a few per cent."""
        return self.capacity * (1.0 if self.chip.kind == "cpu" else _FILLED)

    def memory(self, grid: Grid) -> dict[str, Array]:
        """Bytes per item on the fullest device."""
        return memory_of.memory(self.network, grid, self.workload, self.chip, self.software)

    def memory_by_stage(self, grid: Grid) -> dict[str, Array]:
        """Bytes per item on a device of every pipeline stage of one layout."""
        return memory_of.by_stage(self.network, grid, self.workload, self.chip, self.software)

    def memory_needed(self, grid: Grid) -> Array:
        """Bytes that the fullest device needs."""
        return memory_of.needed(self.network, grid, self.workload, self.chip, self.software)

    def step_time(self, grid: Grid) -> dict[str, Array]:
        """Seconds per item of one step."""
        whole = (self.network, grid, self.workload, self.chip, self.devices_per_node, self.software)
        return steptime.step_time(*whole, self.calibration)


def problem_of(network: Network, workload: Workload, chip: Chip, fleet: Fleet) -> Problem:
    """The problem that a project's fleet poses; the devices of this machine share it."""
    if chip.kind == "cpu":
        chip = share_of_machine(chip, fleet.devices)
    calibration = read_calibration(Path(fleet.calibration)) if fleet.calibration else None
    per_node = min(fleet.devices_per_node, fleet.devices)
    return Problem(network, workload, chip, fleet.devices, per_node, calibration=calibration)


@dataclass(frozen=True)
class Space:
    """Which dials the search turns; the defaults are the ones that training supports.

    `wide` adds what other software runs: experts split over tensor-parallel ranks, which may lie on several
    fast networks, and tied embeddings on both ends of a pipeline.
    """

    tp: bool = True
    pp: bool = True
    cp: bool = False
    ep: bool = False
    recompute: Sequence[int] = tuple(range(len(RECOMPUTE)))
    most_interleave: int = 1
    schedules: Sequence[int] = (0,)
    precision: Sequence[int] = (0,)
    zero: Sequence[int] = (3,)
    wide: bool = False


TRAINABLE = Space()
WIDE = Space(
    cp=True,
    ep=True,
    most_interleave=12,
    schedules=tuple(range(len(SCHEDULES))),
    precision=(PRECISION.index("bf16"), _FP8),
    zero=(0, 1, 2, 3),
    wide=True,
)


def meshes(problem: Problem, space: Space) -> Iterator[Grid]:
    """Every valid layout once, as broadcast grids: one for every number of data-parallel ranks and of stages."""
    arranged = arrangements(problem, space)
    keys = np.stack([arranged.data_parallel, arranged.pp])
    kinds, member = np.unique(keys, axis=1, return_inverse=True)
    for number, (ranks, stages) in enumerate(kinds.T):
        dials = _dials(problem, space, int(ranks), int(stages))
        if all(len(values) for dial in dials for values in dial.values()):
            yield arranged.take(np.flatnonzero(member.ravel() == number)).crossed(dials)


def candidates(problem: Problem, space: Space = TRAINABLE) -> Grid:
    """Every valid layout of the fleet: all devices used, everything divides, every stage has a layer."""
    flat = [mesh.flattened() for mesh in meshes(problem, space)]
    return Grid.joined(flat) if flat else arrangements(problem, space).take(np.array([], dtype=np.intp))


def arrangements(problem: Problem, space: Space) -> Grid:
    """How the devices divide into replicas, shards, tensor, context, expert ranks and stages."""
    network, sequence = problem.network, problem.workload.sequence
    ways = divisors(problem.devices)
    most = max(fast_domain(problem.chip, problem.devices_per_node), _MOST_TP if space.wide else 1)
    tp = [one for one in ways if one <= most and splits_width(network, sequence, one, space)] if space.tp else [1]
    pp = [one for one in ways if one <= network.layers] if space.pp and (space.wide or not network.tied) else [1]
    cp = [one for one in ways if sequence % (2 * one) == 0 and one <= sequence // _FEWEST_TOKENS] if space.cp else [1]
    ep = divisors(network.experts) if space.ep and network.experts else [1]
    grid = Grid.product({"tp": tp or [1], "pp": pp, "cp": cp or [1], "shard": ways})
    rest = problem.devices / (grid.tp * grid.pp * grid.cp * grid.shard)
    grid = replace(grid, replicate=rest).take(rest == np.floor(rest))
    grid = grid.crossed([{"ep": ep}]).flattened()
    return grid.take((grid.shard * grid.cp) % grid.ep == 0)


def _dials(problem: Problem, space: Space, ranks: int, stages: int) -> list[Mapping[str, Sequence[int]]]:
    """The values of every dial that does not arrange ranks, for so many data-parallel ranks and stages."""
    layers, batch = problem.network.layers, problem.workload.global_batch
    rows, left = divmod(batch, ranks)
    sizes = [one for one in divisors(rows) if one <= _LARGEST_MICRO_BATCH and rows // one >= stages] if not left else []
    pipelines = [(schedule, 1) for schedule in space.schedules]
    if stages == 1:
        pipelines = [(0, 1)]
    elif layers % stages == 0:
        each = layers // stages
        pipelines = [(one, 1) for one in space.schedules if one < ZBV or each % 2 == 0]
        pipelines += [(0, v) for v in divisors(each) if 1 < v <= space.most_interleave and 0 in space.schedules]
    else:
        pipelines = [(one, 1) for one in space.schedules if one < ZBV]
    return [
        {"zero": space.zero},
        {"precision": [one for one in space.precision if one != _FP8 or problem.chip.fp8_tflops]},
        {"schedule": [one for one, _ in pipelines], "interleave": [v for _, v in pipelines]},
        {"recompute": space.recompute},
        {"micro_batch": sizes},
    ]


def divisors(number: int) -> list[int]:
    """All divisors, smallest first."""
    small = [one for one in range(1, int(number**0.5) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})


def splits_width(network: Network, sequence: int, tp: int, space: Space = TRAINABLE) -> bool:
    """Whether tensor parallelism divides every width; wingspan does not split experts over it."""
    if network.experts and tp > 1 and not space.wide:
        return False
    kv_heads = network.heads if network.kv_rank else network.kv_heads
    widths = [network.heads, kv_heads, network.ffn, network.expert_ffn, sequence]
    return all(width % tp == 0 for width in widths)
