"""The layout of a project: the fastest that fits and why its rival lost, or what stands in the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from wingspan.errors import InputError
from wingspan.plan.layouts.problem import (
    TRAINABLE,
    Problem,
    Space,
    arrangements,
    candidates,
    divisors,
    meshes,
    problem_of,
    splits_width,
)
from wingspan.plan.layouts.search import Found, search
from wingspan.plan.step import steptime
from wingspan.plan.step.grid import RECOMPUTE, Grid
from wingspan.plan.step.sizes import fast_domain
from wingspan.project import Layout
from wingspan.units import GIB, size

__all__ = [
    "Choice",
    "Problem",
    "Space",
    "candidates",
    "check",
    "choose",
    "fastest",
    "problem_of",
    "require_known",
]

_FACTORS = tuple(2**power for power in range(1, 11))  # by which a fleet grows or a sequence shrinks
_SHORTEST = 128  # tokens: a shorter sequence is no way out


@dataclass(frozen=True)
class Choice:
    """The fastest layout that fits, the best of another arrangement, and how many were weighed."""

    layout: Layout
    runner_up: Layout | None
    reason: str
    weighed: int
    fitting: int


def choose(problem: Problem, space: Space = TRAINABLE) -> Choice:
    """The fastest layout that fits. Raises InputError naming the binding limit and the smallest way out."""
    require_known(problem)
    found = search(problem, space)
    if not found.weighed:
        raise _nothing_divides(problem, space)
    if not found.fitting:
        raise _nothing_fits(problem, space)
    best, runner_up = found.fastest, _runner_up(found)
    return Choice(
        layout=found.grid.layout(best),
        runner_up=None if runner_up is None else found.grid.layout(runner_up),
        reason="" if runner_up is None else why(problem, found.grid, best, runner_up),
        weighed=found.weighed,
        fitting=found.fitting,
    )


def fastest(problem: Problem) -> Layout | None:
    """The fastest layout that the trainer builds; None where none fits.

    Raises InputError where the catalogue lacks figures of the chip.
    """
    require_known(problem)
    found = search(problem)
    return found.grid.layout(found.fastest) if found.fitting else None


def _runner_up(found: Found) -> int | None:
    """The fastest layout that splits the model in another way."""
    same = np.ones(len(found), dtype=bool)
    for name in ("tp", "cp", "pp", "ep"):
        values = getattr(found.grid, name)
        same &= values == values[found.fastest]
    others = np.where(same, np.inf, found.seconds)
    second = int(np.argmin(others))
    return second if np.isfinite(others[second]) else None


def why(problem: Problem, grid: Grid, best: int, other: int) -> str:
    """In words, how much slower another layout is and the items of the step that make it so, with what they save."""
    items = problem.step_time(grid.take(np.array([best, other])))
    seconds = steptime.total(items)
    gaps = sorted(((float(values[1] - values[0]), name.replace("_", " ")) for name, values in items.items()))
    worse = [f"{gap:.3g} s more of {name}" for gap, name in gaps[:-3:-1] if gap > 0]
    better = [f"{-gap:.3g} s less of {name}" for gap, name in gaps[:1] if gap < -0.1 * abs(seconds[1] - seconds[0])]
    return f"{seconds[1] / seconds[0] - 1:.1%} slower: {' and '.join(worse)}{''.join(f', for {one}' for one in better)}"


def check(problem: Problem, layout: Layout) -> None:
    """Refuse a given layout that cannot be built or does not fit; raises InputError with the way out."""
    require_known(problem)
    for wrong, message, remedy in _rules(problem, layout):
        if wrong:
            raise InputError(message, where="[layout]", remedy=remedy)
    grid = Grid.of(layout)
    items = {name: float(values[0]) for name, values in problem.memory(grid).items()}
    if sum(items.values()) > problem.usable:
        largest = max(items, key=lambda name: items[name])
        raise InputError(
            f"the layout needs {size(sum(items.values()))} per device and {size(problem.usable)} may be used; "
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
            network.heads % layout.tp != 0 or network.kv_heads % layout.tp != 0,
            f"{network.heads} query and {network.kv_heads} key heads do not divide over tp = {layout.tp}",
            f"Choose tp from {_common(network.heads, network.kv_heads)}",
        ),
        (
            not splits_width(network, workload.sequence, layout.tp),
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
            "Set layout.ep = 1" if not network.experts else f"Choose layout.ep from {divisors(network.experts)}",
        ),
        (
            (layout.dp_shard * layout.cp) % layout.ep != 0,
            f"ep = {layout.ep} does not lie inside dp_shard x cp = {layout.dp_shard * layout.cp}",
            f"Make dp_shard a multiple of {layout.ep}",
        ),
        (
            layout.world_size != problem.devices,
            f"the layout is for {layout.world_size:,} devices, the fleet has {problem.devices:,}",
            f"Set fleet.devices = {layout.world_size}, or change dp_replicate, dp_shard, tp, cp or pp",
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


def _common(a: int, b: int) -> list[int]:
    return [one for one in divisors(a) if b % one == 0]


def require_known(problem: Problem) -> None:
    """Refuse a chip without the figures that its problem needs; raises InputError naming them."""
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
    """The smallest change of a given layout that makes it fit, found by trying; each says what it then needs."""
    for changes in _changes(layout):
        needed = float(problem.memory_needed(Grid.of(layout.model_copy(update=changes)))[0])
        if needed <= problem.usable:
            settings = " and ".join(f"layout.{name} = {value!r}" for name, value in changes.items())
            return f"Set {settings}: then it needs {size(needed)}"
    return "Leave [layout] out and plan chooses one that fits, or says what the fleet lacks"


def _changes(layout: Layout) -> Iterator[dict[str, str | int]]:
    """Changes of a layout that save memory, the cheapest in time first."""
    stronger = RECOMPUTE[RECOMPUTE.index(layout.recompute) + 1 :]
    smaller = [layout.micro_batch // part for part in _FACTORS if layout.micro_batch % part == 0]
    for policy in stronger:
        yield {"recompute": policy}
    for rows in smaller:
        yield {"micro_batch": rows}
    for rows in smaller:
        yield {"micro_batch": rows, "recompute": "full"}
    for shards in divisors(layout.dp_replicate)[1:]:
        yield {"dp_shard": layout.dp_shard * shards, "dp_replicate": layout.dp_replicate // shards}


def _nothing_divides(problem: Problem, space: Space) -> InputError:
    """No layout uses all devices: the batch is too small or does not divide."""
    grid = arrangements(problem, space)
    ranks = grid.data_parallel
    per_rank = np.maximum(np.ceil(problem.workload.global_batch / ranks), grid.pp)
    return InputError(
        f"a global batch of {problem.workload.global_batch:,} sequences divides over no layout of "
        f"{problem.devices:,} devices",
        where="train.global_batch",
        remedy=f"Set train.global_batch = {int(np.min(per_rank * ranks))}",
    )


def _nothing_fits(problem: Problem, space: Space) -> InputError:
    """Every layout is too big: name what fills the leanest one, and the smallest change that helps."""
    grid = candidates(problem, space)
    leanest = grid.take(np.array([np.argmin(problem.memory_needed(grid))]))
    items = {name: float(values[0]) for name, values in problem.memory(leanest).items()}
    largest = max(items, key=lambda name: items[name])
    return InputError(
        f"the model fits on no layout of {problem.devices:,} {problem.chip.name}: the leanest needs "
        f"{sum(items.values()) / GIB:.3g} GiB per device of {problem.usable / GIB:.3g} GiB, most of it "
        f"{largest.replace('_', ' ')} ({size(items[largest])})",
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
    return any(bool(np.any(problem.memory_needed(mesh) <= problem.usable)) for mesh in meshes(problem, space))
