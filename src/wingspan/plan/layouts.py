"""The fastest layout of a fleet that fits: every valid one is priced, in arrays, none in a Python loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from wingspan.errors import InputError
from wingspan.plan import memory as memory_of
from wingspan.plan import steptime
from wingspan.plan.chips import Chip, share_of_machine
from wingspan.plan.grid import WINGSPAN, Array, Grid, Software, Workload
from wingspan.plan.kernels import fast_domain
from wingspan.plan.network import Network
from wingspan.project import Fleet, Layout
from wingspan.units import GIB, size

_CHUNK = 4096  # layouts priced at a time: their arrays stay in the processor's cache
_CPU_SHARE = 0.5  # of a machine's memory for training; the system and the other stages keep the rest
_LARGEST_MICRO_BATCH = 64
_FACTORS = tuple(2**power for power in range(1, 11))  # by which a fleet grows or a sequence shrinks
_SHORTEST = 128  # tokens: a shorter sequence is no way out


@dataclass(frozen=True)
class Problem:
    """What a layout is sought for."""

    network: Network
    workload: Workload
    chip: Chip
    devices: int
    devices_per_node: int = 8
    software: Software = WINGSPAN

    @property
    def capacity(self) -> float:
        """Bytes that training may use of one device."""
        return self.chip.memory_bytes * (_CPU_SHARE if self.chip.kind == "cpu" else 1.0)

    def memory(self, grid: Grid) -> dict[str, Array]:
        """Bytes per item on the fullest device."""
        return memory_of.memory(self.network, grid, self.workload, self.chip, self.software)

    def step_time(self, grid: Grid) -> dict[str, Array]:
        """Seconds per item of one step."""
        return steptime.step_time(self.network, grid, self.workload, self.chip, self.devices_per_node, self.software)


@dataclass(frozen=True)
class Space:
    """Which dials the search turns; the defaults are the ones that training supports."""

    tp: bool = True
    pp: bool = True
    cp: bool = False
    ep: bool = False
    recompute: Sequence[int] = (0, 1, 2)
    interleave: Sequence[int] = (1,)
    precision: Sequence[int] = (0,)


@dataclass(frozen=True)
class Choice:
    """The fastest layout that fits, the best of another arrangement, and how many were weighed."""

    layout: Layout
    runner_up: Layout | None
    reason: str
    weighed: int
    fitting: int


def problem_of(network: Network, workload: Workload, chip: Chip, fleet: Fleet) -> Problem:
    """The problem that a project's fleet poses; the devices of this machine share it."""
    if chip.kind == "cpu":
        chip = share_of_machine(chip, fleet.devices)
    return Problem(network, workload, chip, fleet.devices, min(fleet.devices_per_node, fleet.devices))


def choose(problem: Problem, space: Space = Space()) -> Choice:
    """The fastest layout that fits. Raises InputError naming the binding limit and the smallest way out."""
    _require_known(problem)
    grid = candidates(problem, space)
    if not len(grid):
        raise _nothing_divides(problem, space)
    seconds = price(problem, grid)
    best = int(np.argmin(seconds))
    if not np.isfinite(seconds[best]):
        raise _nothing_fits(problem, grid, space)
    runner_up = _runner_up(grid, seconds, best)
    return Choice(
        layout=grid.layout(best),
        runner_up=None if runner_up is None else grid.layout(runner_up),
        reason="" if runner_up is None else _why(problem, grid, best, runner_up),
        weighed=len(grid),
        fitting=int(np.isfinite(seconds).sum()),
    )


def price(problem: Problem, grid: Grid) -> Array:
    """Seconds of a step for every layout, infinite where it does not fit."""
    seconds = np.full(len(grid), np.inf)
    for start in range(0, len(grid), _CHUNK):
        chunk = grid.take(np.arange(start, min(start + _CHUNK, len(grid))))
        fits = np.flatnonzero(memory_of.total(problem.memory(chunk)) <= problem.capacity)
        if len(fits):
            seconds[start + fits] = steptime.total(problem.step_time(chunk.take(fits)))
    return seconds


def candidates(problem: Problem, space: Space = Space()) -> Grid:
    """Every valid layout of the fleet: all devices used, everything divides, every stage has a layer."""
    arranged = _arrangements(problem, space)
    per_rank = problem.workload.global_batch
    sizes = [one for one in _divisors(per_rank) if one <= _LARGEST_MICRO_BATCH]
    grid = _cross(
        arranged,
        {
            "micro_batch": sizes,
            "recompute": space.recompute,
            "precision": space.precision,
            "interleave": space.interleave,
        },
    )
    m = grid.micro_batches(problem.workload)
    whole = m == np.floor(m)
    filled = m >= grid.pp
    chunks = (grid.interleave == 1) | ((grid.pp > 1) & (problem.network.layers % (grid.pp * grid.interleave) == 0))
    return grid.take(whole & filled & chunks)


def _arrangements(problem: Problem, space: Space) -> Grid:
    """How the devices divide into replicas, shards, tensor, context, expert ranks and stages."""
    network, sequence = problem.network, problem.workload.sequence
    ways = _divisors(problem.devices)
    domain = fast_domain(problem.chip, problem.devices_per_node)
    tp = [one for one in ways if one <= domain and _splits_width(network, sequence, one)] if space.tp else [1]
    pp = [one for one in ways if one <= network.layers] if space.pp and not network.tied else [1]
    cp = [one for one in ways if sequence % (2 * one) == 0 and one <= sequence // 1024] if space.cp else [1]
    ep = _divisors(network.experts) if space.ep and network.experts else [1]
    grid = Grid.product({"tp": tp or [1], "pp": pp, "cp": cp or [1], "shard": ways})
    rest = problem.devices / (grid.tp * grid.pp * grid.cp * grid.shard)
    grid = replace(grid, replicate=rest).take(rest == np.floor(rest))
    grid = _cross(grid, {"ep": ep})
    return grid.take((grid.shard * grid.cp) % grid.ep == 0)


def _cross(grid: Grid, dials: dict[str, Sequence[int]]) -> Grid:
    """Every layout of the grid with every combination of the dials."""
    values = Grid.product(dict(dials))
    rows = np.repeat(np.arange(len(grid)), len(values))
    columns = np.tile(np.arange(len(values)), len(grid))
    arrays = {
        field.name: getattr(values, field.name)[columns] if field.name in dials else getattr(grid, field.name)[rows]
        for field in fields(Grid)
    }
    return Grid(**arrays)


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0] if number < 4096 else _divisors_of_large(number)


def _divisors_of_large(number: int) -> list[int]:
    small = [one for one in range(1, int(number**0.5) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})


def _splits_width(network: Network, sequence: int, tp: int) -> bool:
    """Whether tensor parallelism divides every width; experts are not split over it."""
    if network.experts and tp > 1:
        return False
    widths = [network.heads, network.kv_heads, network.ffn, sequence]
    return all(width % tp == 0 for width in widths)


def _runner_up(grid: Grid, seconds: Array, best: int) -> int | None:
    """The fastest layout that splits the model in another way."""
    same = np.ones(len(grid), dtype=bool)
    for name in ("tp", "cp", "pp", "ep"):
        values = getattr(grid, name)
        same &= values == values[best]
    others = np.where(same, np.inf, seconds)
    second = int(np.argmin(others))
    return second if np.isfinite(others[second]) else None


def _why(problem: Problem, grid: Grid, best: int, other: int) -> str:
    """The items of the step that made the other layout slower."""
    items = problem.step_time(grid.take(np.array([best, other])))
    seconds = steptime.total(items)
    worse = sorted(((values[1] - values[0], name) for name, values in items.items()), reverse=True)
    named = " and ".join(f"{gap:.3g} s more of {name.replace('_', ' ')}" for gap, name in worse[:2] if gap > 0)
    return f"{seconds[1] / seconds[0] - 1:.1%} slower: {named}"


def check(problem: Problem, layout: Layout) -> None:
    """Refuse a given layout that cannot be built or does not fit; raises InputError with the way out."""
    _require_known(problem)
    for wrong, message, remedy in _rules(problem, layout):
        if wrong:
            raise InputError(message, where="[layout]", remedy=remedy)
    grid = Grid.of(layout)
    items = {name: float(values[0]) for name, values in problem.memory(grid).items()}
    if sum(items.values()) > problem.capacity:
        largest = max(items, key=lambda name: items[name])
        raise InputError(
            f"the layout needs {size(sum(items.values()))} per device and {size(problem.capacity)} may be used; "
            f"most of it are {largest.replace('_', ' ')} ({size(items[largest])})",
            where="[layout]",
            remedy=_lift_given(problem, layout),
        )


def _rules(problem: Problem, layout: Layout) -> list[tuple[bool, str, str]]:
    """What every layout must obey: (is it broken, what is wrong, what to do)."""
    network, workload = problem.network, problem.workload
    per_step = layout.data_parallel * layout.micro_batch
    near = -(-workload.global_batch // per_step) * per_step
    return [
        (
            layout.world_size != problem.devices,
            f"the layout is for {layout.world_size:,} devices, the fleet has {problem.devices:,}",
            f"Set fleet.devices = {layout.world_size}, or change dp_replicate, dp_shard, tp, cp or pp",
        ),
        (
            network.heads % layout.tp != 0 or network.kv_heads % layout.tp != 0,
            f"{network.heads} query and {network.kv_heads} key heads do not divide over tp = {layout.tp}",
            f"Choose tp from {_common_divisors(network.heads, network.kv_heads)}",
        ),
        (
            not _splits_width(network, workload.sequence, layout.tp),
            f"the MLP or the sequence does not divide over tp = {layout.tp}, or experts would have to",
            "Set layout.tp = 1" if network.experts else f"Make model.ffn and train.sequence multiples of {layout.tp}",
        ),
        (
            layout.pp > network.layers,
            f"{layout.pp} pipeline stages are more than the model's {network.layers} layers",
            f"Set layout.pp to at most {network.layers}",
        ),
        (
            layout.pp > 1 and network.tied,
            "tied embeddings would lie on the first and the last pipeline stage",
            "Set model.tie_embeddings = false, or layout.pp = 1",
        ),
        (
            workload.sequence % (2 * layout.cp) != 0 and layout.cp > 1,
            f"sequences of {workload.sequence} tokens do not divide over cp = {layout.cp}",
            f"Make train.sequence a multiple of {2 * layout.cp}",
        ),
        (
            layout.ep > 1 and (not network.experts or network.experts % layout.ep != 0),
            f"{network.experts} experts do not divide over ep = {layout.ep}",
            "Set layout.ep = 1" if not network.experts else f"Choose layout.ep from {_divisors(network.experts)}",
        ),
        (
            (layout.dp_shard * layout.cp) % layout.ep != 0,
            f"ep = {layout.ep} does not lie inside dp_shard x cp = {layout.dp_shard * layout.cp}",
            f"Make dp_shard a multiple of {layout.ep}",
        ),
        (
            workload.global_batch % per_step != 0,
            f"a global batch of {workload.global_batch:,} sequences does not divide over {layout.data_parallel:,} "
            f"data-parallel ranks x micro-batches of {layout.micro_batch}",
            f"Set train.global_batch = {near}",
        ),
        (
            workload.global_batch // per_step < layout.pp,
            f"{workload.global_batch // per_step} micro-batches cannot fill {layout.pp} pipeline stages",
            f"Set train.global_batch = {layout.pp * per_step}",
        ),
    ]


def _common_divisors(a: int, b: int) -> list[int]:
    return [one for one in _divisors(a) if b % one == 0]


def _require_known(problem: Problem) -> None:
    chip, missing = problem.chip, list(problem.chip.missing)
    domain = fast_domain(chip, problem.devices_per_node)
    missing += ["domain_gb_s"] if domain > 1 and chip.domain_gb_s is None else []
    missing += ["network_gb_s"] if problem.devices > domain and chip.network_gb_s is None else []
    if missing:
        raise InputError(
            f"the catalogue does not know {', '.join(missing)} of {chip.name}",
            where="fleet.device",
            remedy="Choose another chip, or add the figure with its source to chips.csv",
        )


def _lift_given(problem: Problem, layout: Layout) -> str:
    """The smallest change of a given layout that makes it fit, found by trying."""
    attempts: list[tuple[str, Layout]] = []
    for policy in ("selective", "full"):
        attempts.append((f"Set layout.recompute = '{policy}'", layout.model_copy(update={"recompute": policy})))
    for part in (2, 4, 8, 16, 32, 64):
        if layout.micro_batch % part == 0:
            smaller = layout.model_copy(update={"micro_batch": layout.micro_batch // part, "recompute": "full"})
            attempts.append((f"Set layout.micro_batch = {smaller.micro_batch} and recompute = 'full'", smaller))
    for remedy, attempt in attempts:
        if memory_of.total(problem.memory(Grid.of(attempt)))[0] <= problem.capacity:
            return remedy
    return "Leave [layout] out and plan chooses one that fits, or says what the fleet lacks"


def _nothing_divides(problem: Problem, space: Space) -> InputError:
    """No layout uses all devices: the batch is too small or does not divide."""
    grid = _arrangements(problem, space)
    ranks = grid.data_parallel
    per_rank = np.maximum(np.ceil(problem.workload.global_batch / ranks), grid.pp)
    return InputError(
        f"a global batch of {problem.workload.global_batch:,} sequences divides over no layout of "
        f"{problem.devices:,} devices",
        where="train.global_batch",
        remedy=f"Set train.global_batch = {int(np.min(per_rank * ranks))}",
    )


def _nothing_fits(problem: Problem, grid: Grid, space: Space) -> InputError:
    """Every layout is too big: name what fills the leanest one, and the smallest change that helps."""
    items = problem.memory(grid)
    totals = memory_of.total(items)
    leanest = int(np.argmin(totals))
    largest = max(items, key=lambda name: items[name][leanest])
    return InputError(
        f"the model fits on no layout of {problem.devices:,} {problem.chip.name}: the leanest needs "
        f"{totals[leanest] / GIB:.3g} GiB per device of {problem.capacity / GIB:.3g} GiB, most of it "
        f"{largest.replace('_', ' ')} ({size(float(items[largest][leanest]))})",
        where="fleet.devices",
        remedy=_smallest_lift(problem, space),
    )


def _smallest_lift(problem: Problem, space: Space) -> str:
    """More devices (of a fleet, not of one machine), else a shorter sequence; each tried by the same arithmetic."""
    for factor in _FACTORS:
        devices = problem.devices * factor
        larger = replace(problem, devices=devices, devices_per_node=max(problem.devices_per_node, min(8, devices)))
        if problem.chip.kind != "cpu" and _something_fits(larger, space):
            return f"Set fleet.devices = {devices}"
        workload = replace(problem.workload, sequence=problem.workload.sequence // factor)
        if workload.sequence >= _SHORTEST and _something_fits(replace(problem, workload=workload), space):
            return f"Set train.sequence = {workload.sequence}"
    return "Choose a chip with more memory or a smaller model"


def _something_fits(problem: Problem, space: Space) -> bool:
    grid = candidates(problem, space)
    return bool(len(grid)) and bool(np.min(memory_of.total(problem.memory(grid))) <= problem.capacity)
