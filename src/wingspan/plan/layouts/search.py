"""Every valid layout of a fleet weighed in arrays, none in a Python loop: the fastest that fits, and its rivals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingspan.plan.layouts.problem import TRAINABLE, Problem, Space, meshes
from wingspan.plan.step import steptime
from wingspan.plan.step.grid import Array, Grid, added
from wingspan.plan.whole.wholerun import node_watts

COMPUTING = ("matmul", "attention", "elementwise", "recompute", "optimizer")  # items of a step in which a device works
_AT_A_TIME, _SMALL = 2**16, 2**12  # layouts: arrays that stay in the processor's cache; too few to be worth a grid


@dataclass(frozen=True)
class Found:
    """Of every arrangement of ranks that fits, at least its fastest layout and the one that takes least energy.

    `seconds` and `joules` (per device, wall power, of one step) stand beside the layouts of `grid`;
    `weighed` and `fitting` count all layouts of the space.
    """

    grid: Grid
    seconds: Array
    joules: Array
    weighed: int
    fitting: int

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def fastest(self) -> int:
        """Index of the fastest layout."""
        return int(np.argmin(self.seconds))


def search(problem: Problem, space: Space = TRAINABLE) -> Found:
    """All layouts of a space that fit, arrangement by arrangement; none where nothing fits."""
    parts, weighed, fitting = [], 0, 0
    idle, busy = (node_watts(problem.chip, share) or 1.0 for share in (0.0, 1.0))
    for grid in _pieces(meshes(problem, space)):
        weighed += math.prod(grid.shape)
        fits = np.broadcast_to(problem.memory_needed(grid) <= problem.usable, grid.shape)
        if not fits.any():
            continue
        fitting += int(fits.sum())
        if fits.ndim == 1:
            grid, fits = grid.take(fits), np.ones(fits.sum(), dtype=bool)
        items = problem.step_time(grid)
        seconds = np.where(fits, steptime.total(items), np.inf)
        joules = idle * seconds + (busy - idle) * added(items[name] for name in COMPUTING)
        flat = np.union1d(_least(seconds), _least(joules))
        parts.append((grid.chosen(flat), seconds.ravel()[flat], joules.ravel()[flat]))
    if not parts:
        return Found(Grid.product({}).take(np.array([], dtype=np.intp)), np.array([]), np.array([]), weighed, 0)
    grids, seconds_of, joules_of = zip(*parts, strict=True)
    return Found(Grid.joined(grids), np.concatenate(seconds_of), np.concatenate(joules_of), weighed, fitting)


def _pieces(grids: Iterable[Grid]) -> Iterator[Grid]:
    """The same layouts: large grids in pieces along their arrangements, small ones joined and flat."""
    small: list[Grid] = []
    for grid in grids:
        if math.prod(grid.shape) < _SMALL:
            small.append(grid.flattened())
            continue
        arrangements = grid.shape[-1]
        step = max(1, _AT_A_TIME * arrangements // math.prod(grid.shape))
        yield from (grid.columns(slice(start, start + step)) for start in range(0, arrangements, step))
    joined = Grid.joined(small) if small else Grid.product({}).take(np.array([], dtype=np.intp))
    yield from (joined.columns(slice(start, start + _SMALL)) for start in range(0, len(joined), _SMALL))


def _least(values: Array) -> NDArray[np.intp]:
    """Flat indices of the least finite value of every arrangement."""
    table = values.reshape(-1, values.shape[-1])
    rows = np.argmin(table, axis=0)
    columns = np.arange(table.shape[1])
    flat: NDArray[np.intp] = rows * table.shape[1] + columns
    finite: NDArray[np.intp] = flat[np.isfinite(table[rows, columns])]
    return finite


def front(*costs: Array) -> NDArray[np.intp]:
    """Indices of the points that no other point beats in every cost: the Pareto front, by the first cost."""
    points = np.stack(costs, axis=1)
    kept: list[int] = []
    for index in np.lexsort(costs[::-1]):
        if not any(np.all(points[other] <= points[index]) for other in kept):
            kept.append(int(index))
    return np.array(kept, dtype=np.intp)
