"""Fitting the constants of the step-time model to measured runs.

Robust regularised least squares on the logarithm of the step: the maximum a posteriori of a hierarchical model
whose corrections are normal around none and whose errors follow Student's t, so that a few odd rows do not
bend the rest (Lange, Little & Taylor 1989). Each iteration is one damped Gauss-Newton step. The derivatives by
a constant are taken per row, by one more evaluation of all rows, and shared out to the groups that the row
belongs to; so the cost does not grow with the number of groups.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wingspan.plan.published.runs import Run
from wingspan.plan.step import steptime
from wingspan.plan.step.calibration import CONSTANTS, Calibration, Constants, alike, key_of
from wingspan.plan.step.grid import Array, Grid
from wingspan.plan.step.sizes import Habits, Hardware, Sizes, habits_of, sizes_of, stacked

_SIGMAS = (0.2, 0.08, 0.04)  # scale of the errors, from coarse to what repeating a measurement gives (2 to 5%)
_FREEDOM = 3.0  # degrees of freedom of the errors
_TRUST = {"B": 0.7, "C": 0.4}  # weight of rows of lower quality
_BALANCE = 0.3  # power by which a source of many rows weighs less per row
_ITERATIONS = 30
_OWN = ("scale", "cluster:own")
_LEARNT = 0.3  # of the spreads that are left once other runs taught the constants
_BAND_SPREADS = 3.3  # standard deviations of a normal distribution that nine in ten lie within
_EPSILON = 1e-3  # step of the numerical derivative
_ENOUGH = 0.5  # improvement of the objective below which the fit has ended
_DAMPING = 1e-2
_PARTS = (1.0, 0.5, 0.25, 0.1, 0.03)  # of a step, tried until one helps
_FARTHEST = 1.0  # that a step moves a correction

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Table:
    """Many runs as arrays, one value per run."""

    sizes: Sizes
    grid: Grid
    hardware: Hardware
    habits: Habits

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Table:
        """The table of at least one run."""
        return cls(
            stacked([sizes_of(run.problem.network, run.problem.workload) for run in runs]),
            Grid(**{name: np.concatenate([getattr(run.grid, name) for run in runs]) for name in vars(runs[0].grid)}),
            stacked([run.hardware for run in runs]),
            stacked([habits_of(run.problem.software) for run in runs]),
        )

    def seconds(self, constants: Constants) -> Array:
        """The step time of every run."""
        return steptime.total(steptime.step_items(self.sizes, self.grid, self.hardware, self.habits, constants))


class _Design:
    """Which corrections each run's constants are made of."""

    def __init__(self, runs: Sequence[Run], base: Calibration) -> None:
        index: dict[tuple[str, str], int] = {}
        self.columns: dict[str, Rows] = {}
        own = bool(base.sources)
        for constant in CONSTANTS:
            levels = ("", *constant.known.levels)
            self.columns[constant.name] = np.array(
                [[_column(index, constant.name, level, run, own) for level in levels] for run in runs], dtype=np.intp
            )
        self.keys = list(index)
        known = {constant.name: constant.known for constant in CONSTANTS}
        self.mean = np.array([base.corrections.get(key, 0.0) for key in self.keys])
        self.precision = np.array(
            [(known[name].shrink if group else known[name].spread) ** -2 for name, group in self.keys]
        )
        if own:
            self.precision *= np.array([1.0 if key == _OWN else _LEARNT**-2 for key in self.keys])
            self.precision[self.keys.index(_OWN)] = _cluster_spread(runs, base) ** -2

    def logs(self, corrections: Array) -> dict[str, Array]:
        """The logarithm of every constant for every run."""
        padded = np.append(corrections, 0.0)
        return {
            constant.name: math.log(constant.prior) + padded[self.columns[constant.name]].sum(axis=1)
            for constant in CONSTANTS
        }


def _cluster_spread(runs: Sequence[Run], base: Calibration) -> float:
    """How far the scale of one cluster lies from what others teach: the spread that the base's bands show."""
    bands = [base.band(run.groups, experts=run.problem.network.experts > 0) for run in runs]
    return float(np.mean([math.log(band.high / band.low) for band in bands])) / _BAND_SPREADS


def _column(index: dict[tuple[str, str], int], constant: str, level: str, run: Run, own: bool) -> int:
    """The place of a run's correction at a level; the last, which is none, where its group is unknown.

    Runs that correct another calibration come from a cluster of one's own; published ones share none.
    """
    key = key_of(level, run.groups) if own or level != "cluster" else ""
    return index.setdefault((constant, key), len(index)) if key or not level else -1


def fit(runs: Sequence[Run], base: Calibration | None = None) -> Calibration:
    """The calibration of measured runs, shrunk towards `base` (by default the uncalibrated model)."""
    base = base or Calibration()
    runs = [run for run in runs if run.step_s is not None]
    if not runs:
        return base
    table, design = Table.of(runs), _Design(runs, base)
    measured = np.log(np.array([run.step_s for run in runs], dtype=np.float64))
    corrections = design.mean.copy()
    for sigma in _SIGMAS:
        corrections = _descend(_Fit(table, design, measured, _weights(runs), sigma), corrections)
    fitted = dict(zip(design.keys, corrections.tolist(), strict=True))
    counted = Counter(base.rows)
    counted.update(key for run in runs for key in (*{key for _, key in _keys(run)}, alike(run.groups)))
    sources = Counter(base.sources) + Counter(run.family for run in runs)
    return replace(base, corrections={**base.corrections, **fitted}, rows=dict(counted), sources=dict(sources))


def _keys(run: Run) -> set[tuple[str, str]]:
    return {(level, key) for level in run.groups if (key := key_of(level, run.groups))}


def _weights(runs: Sequence[Run]) -> Array:
    _, inverse, counts = np.unique([run.family for run in runs], return_inverse=True, return_counts=True)
    balanced = (1.0 / counts[inverse]) ** _BALANCE
    trusted = np.array([_TRUST.get(run.quality, 1.0) for run in runs])
    weights: Array = balanced * len(runs) / balanced.sum() * trusted
    return weights


@dataclass(frozen=True)
class _Fit:
    """What is fitted, at one scale of the errors."""

    table: Table
    design: _Design
    measured: Array
    weights: Array
    sigma: float

    def at(self, corrections: Array) -> _State:
        """The model at one set of corrections."""
        logs = self.design.logs(corrections)
        predicted = np.log(self.table.seconds(_constants(logs)))
        residual = self.measured - predicted
        errors = self.weights * (_FREEDOM + 1) / 2 * np.log1p(residual**2 / (_FREEDOM * self.sigma**2))
        shrinkage = self.design.precision * (corrections - self.design.mean) ** 2 / 2
        return _State(float(errors.sum() + shrinkage.sum()), logs, predicted, residual)

    def step(self, corrections: Array, state: _State) -> Array:
        """The damped Gauss-Newton step from there."""
        weights = self.weights * (_FREEDOM + 1) / (_FREEDOM * self.sigma**2 + state.residual**2)
        rows = np.arange(len(weights))
        jacobian = np.zeros((len(rows), len(corrections) + 1))
        for name, columns in self.design.columns.items():
            moved = state.logs | {name: state.logs[name] + _EPSILON}
            slope = (np.log(self.table.seconds(_constants(moved))) - state.predicted) / _EPSILON
            for column in columns.T:
                jacobian[rows, column] += slope
        jacobian = jacobian[:, :-1]
        weighted = weights[:, None] * jacobian
        gradient = weighted.T @ state.residual - self.design.precision * (corrections - self.design.mean)
        curvature = jacobian.T @ weighted + np.diag(self.design.precision)
        curvature[np.diag_indices_from(curvature)] *= 1 + _DAMPING
        return np.clip(np.linalg.solve(curvature, gradient), -_FARTHEST, _FARTHEST)


@dataclass(frozen=True)
class _State:
    objective: float
    logs: dict[str, Array]
    predicted: Array
    residual: Array


def _descend(problem: _Fit, corrections: Array) -> Array:
    """The corrections at the bottom of the valley."""
    state = problem.at(corrections)
    for _ in range(_ITERATIONS):
        step = problem.step(corrections, state)
        for part in _PARTS:
            attempt = corrections + part * step
            new = problem.at(attempt)
            if new.objective < state.objective:
                break
        else:
            return corrections
        gained, corrections, state = state.objective - new.objective, attempt, new
        if gained < _ENOUGH:
            break
    return corrections


def _constants(logs: dict[str, Array]) -> Constants:
    return Constants(**{name: np.exp(value) for name, value in logs.items()})
