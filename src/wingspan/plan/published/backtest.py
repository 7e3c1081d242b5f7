"""Measured runs beside the planner's predictions: how wrong the planner is, and a calibration that mends it.

`back_test` predicts every row, by default with constants that were fitted on published runs. With `leave_out` each
row is predicted by constants that were fitted on the other rows only: those of other sources, of other devices,
or of fewer than 1,024 devices.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wingspan.errors import InputError
from wingspan.plan.published.fitting import Table, fit
from wingspan.plan.published.runs import Refused, Run, read_runs
from wingspan.plan.step import memory as memory_of
from wingspan.plan.step.calibration import CONSTANTS, Band, Calibration, Constants, shipped
from wingspan.plan.step.grid import Array
from wingspan.units import GIB

Groups = NDArray[np.int_]
LeaveOut = Literal["family", "device", "scale"]
LARGE = 1024  # devices from which `scale` predicts what smaller runs teach

_FOLDS = 5
_LOW = 0.05  # of held-out rows lie below a band, and as many above
_FEWEST = 40  # rows below which errors that nobody held out say nothing about the next


@dataclass(frozen=True)
class Compared:
    """A run with its prediction: seconds of a step, their 90% band, and GiB of memory as the software prints it."""

    run: Run
    step_s: float
    band: Band
    memory_gib: float

    @property
    def error(self) -> float | None:
        """Relative error of the step time, signed; None where none was measured."""
        return self.step_s / self.run.step_s - 1 if self.run.step_s else None

    @property
    def inside(self) -> bool:
        """Whether the measured step lies in the band."""
        return bool(self.run.step_s and self.band.low <= self.run.step_s / self.step_s <= self.band.high)

    def as_json(self) -> dict[str, Any]:
        """The row as numbers."""
        run = self.run
        return {
            "id": run.id,
            "family": run.family,
            "device": run.device,
            "devices": run.devices,
            "measured_s": run.step_s,
            "predicted_s": self.step_s,
            "low_s": self.step_s * self.band.low,
            "high_s": self.step_s * self.band.high,
            "error": self.error,
            "measured_runs_like_it": self.band.runs,
            "memory_gib_reported": run.memory_gib,
            "memory_gib_predicted": self.memory_gib,
            "inferred": list(run.inferred),
        }


@dataclass(frozen=True)
class Errors:
    """Absolute relative errors of a set of rows; `coverage90` is the share of rows that lie in their band."""

    rows: int
    mape: float
    median: float
    p90: float
    bias: float
    coverage90: float

    @classmethod
    def of(cls, rows: Sequence[Compared]) -> Errors:
        """Statistics of the rows that were measured; all nan where none was."""
        signed = np.array([row.error for row in rows if row.error is not None])
        if not len(signed):
            return cls(0, *[float("nan")] * (len(fields(cls)) - 1))
        absolute = np.abs(signed)
        return cls(
            rows=len(signed),
            mape=float(absolute.mean()),
            median=float(np.median(absolute)),
            p90=float(np.quantile(absolute, 0.9)),
            bias=float(np.median(signed)),
            coverage90=statistics.fmean(row.inside for row in rows if row.error is not None),
        )


@dataclass(frozen=True)
class BackTest:
    """Every row beside its prediction, and the calibration that predicted."""

    rows: list[Compared]
    refused: list[Refused]
    calibration: Calibration
    left_out: LeaveOut | None = None

    def errors_by(self, key: Callable[[Run], str]) -> dict[str, Errors]:
        """Errors of every group of rows, the largest group first."""
        groups: dict[str, list[Compared]] = {}
        for row in self.rows:
            if row.error is not None:
                groups.setdefault(key(row.run), []).append(row)
        ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
        return {name: Errors.of(members) for name, members in ordered}

    def step_time(self) -> dict[str, float]:
        """Errors of all rows, and their mean over sources."""
        by_family = self.errors_by(lambda run: run.family).values()
        family_mean = statistics.fmean(one.mape for one in by_family) if by_family else float("nan")
        return asdict(Errors.of(self.rows)) | {"family_mean": family_mean}

    def memory(self) -> dict[str, float]:
        """Errors of the memory that rows report; all of them ran, so one that is predicted not to fit is wrong."""
        rows = [row for row in self.rows if row.run.memory_gib]
        errors = [abs(row.memory_gib / row.run.memory_gib - 1) for row in rows if row.run.memory_gib]
        full = [row.memory_gib * GIB > row.run.problem.capacity for row in rows]
        return {
            "rows": len(rows),
            "mape": statistics.fmean(errors) if errors else float("nan"),
            "median": statistics.median(errors) if errors else float("nan"),
            "wrong_fits": statistics.fmean(full) if full else float("nan"),
        }

    def as_json(self) -> dict[str, Any]:
        """All tables and all rows; numbers that nothing was measured for are null."""
        seen = self.calibration.sources
        tables: dict[str, Callable[[Run], str]] = {
            "by_family": lambda run: run.family,
            "by_device": lambda run: run.device,
            "by_quality": lambda run: run.quality or "?",
            "by_source": lambda run: "fitted on" if run.family in seen and not self.left_out else "new",
        }
        grouped = {name: {k: asdict(v) for k, v in self.errors_by(key).items()} for name, key in tables.items()}
        report = {
            "rows": len(self.rows) + len(self.refused),
            "answered": len(self.rows),
            "left_out": self.left_out,
            "step_time": self.step_time(),
            "memory": self.memory(),
            **grouped,
            "constants": self.calibration.counts() | {"held_out": dict(self.calibration.held_out)},
            "refused": [asdict(one) for one in self.refused],
            "predictions": [row.as_json() for row in self.rows],
        }
        cleaned: dict[str, Any] = _without_nan(report)
        return cleaned


def back_test(path: Path, calibration: Calibration | None = None, leave_out: LeaveOut | None = None) -> BackTest:
    """The rows of a file beside their predictions; raises InputError where the file is none."""
    runs, refused = read_runs(path)
    if leave_out is None:
        calibration = calibration or shipped()
        return BackTest(compare(runs, calibration), refused, calibration)
    kinds = np.array([_kind(run, leave_out) for run in runs])
    rows: list[Compared] = []
    fitted = Calibration()
    for kind in sorted(set(kinds) - {_SMALL}):
        fitted = replace(fit(_chosen(runs, kinds != kind)), bands=shipped().bands)
        rows += compare(_chosen(runs, kinds == kind), fitted)
    return BackTest(rows, refused, fitted, leave_out)


def leave_out_named(name: str | None) -> LeaveOut | None:
    """What `--leave-out` says; raises InputError for other words."""
    kinds: tuple[LeaveOut, ...] = get_args(LeaveOut)
    if name is None or name in kinds:
        return name
    raise InputError(f"'{name}' cannot be left out", where="--leave-out", remedy=f"Use one of {', '.join(kinds)}")


_SMALL = ""  # the kind of runs that only teach


def _kind(run: Run, leave_out: LeaveOut) -> str:
    if leave_out == "scale":
        return "large" if run.devices >= LARGE else _SMALL
    return run.family if leave_out == "family" else run.device


def compare(runs: Sequence[Run], calibration: Calibration) -> list[Compared]:
    """Every run with its prediction."""
    if not runs:
        return []
    seconds = Table.of(runs).seconds(_constants(runs, calibration))
    return [_compared(run, float(step_s), calibration) for run, step_s in zip(runs, seconds, strict=True)]


def _constants(runs: Sequence[Run], calibration: Calibration) -> Constants:
    each = [calibration.constants(run.groups) for run in runs]
    return Constants(**{one.name: np.array([getattr(c, one.name) for c in each]) for one in CONSTANTS})


def _compared(run: Run, step_s: float, calibration: Calibration) -> Compared:
    band = calibration.band(run.groups, experts=run.problem.network.experts > 0)
    memory = memory_of.reported(run.problem.memory(run.grid), run.problem.software.accounting)[0]
    return Compared(run, step_s, band, float(memory) / GIB)


def calibrate(runs: Sequence[Run], base: Calibration | None = None) -> Calibration:
    """The calibration of measured runs, with bands and errors of runs that were held out of it.

    A few runs of one's own cluster correct the `base` they start from, and keep its bands.
    """
    runs = [run for run in runs if run.step_s]
    if not runs:
        raise InputError("no row says how long a step took", where="RUNS.csv", remedy="Fill step_time_s")
    fitted = fit(runs, base)
    if len(runs) < _FEWEST:
        return fitted
    errors = {name: _held_out(runs, groups, base) for name, groups in _divisions(runs).items()}
    known = np.abs(np.expm1(errors["known"]))
    families = np.array([run.family for run in runs])
    held_out = {"mape": known.mean(), "median": np.median(known), "p90": np.quantile(known, 0.9)}
    held_out["family_mean"] = np.mean([known[families == one].mean() for one in np.unique(families)])
    return replace(
        fitted, bands=_bands(runs, errors), held_out={name: float(value) for name, value in held_out.items()}
    )


def _divisions(runs: Sequence[Run]) -> dict[str, Groups]:
    """Which fifth of the runs each belongs to: at random, or whole frameworks or devices in one fifth."""
    random = np.random.default_rng(0)

    def fifth(names: Sequence[str]) -> Groups:
        of = {name: number % _FOLDS for number, name in enumerate(random.permutation(sorted(set(names))))}
        return np.array([of[name] for name in names])

    return {
        "known": fifth([run.id for run in runs]),
        "new software": fifth([run.groups["framework"] for run in runs]),
        "new device": fifth([run.device for run in runs]),
    }


def _held_out(runs: Sequence[Run], groups: Groups, base: Calibration | None) -> Array:
    """Log of measured over predicted for every run, by constants that were fitted without its group."""
    errors = np.zeros(len(runs))
    for group in np.unique(groups):
        tested = _chosen(runs, groups == group)
        rows = compare(tested, fit(_chosen(runs, groups != group), base))
        errors[groups == group] = [np.log((row.run.step_s or np.nan) / row.step_s) for row in rows]
    return errors


def _bands(runs: Sequence[Run], errors: dict[str, Array]) -> dict[str, tuple[float, float]]:
    """Between which log errors nine of ten held-out runs lie, for dense networks and for experts."""
    experts = np.array([run.problem.network.experts > 0 for run in runs])
    wide = np.concatenate([errors["new software"], errors["new device"]])
    return {
        f"{name}, {kind}": (float(np.quantile(one, _LOW)), float(np.quantile(one, 1 - _LOW)))
        for name, each in (errors | {"new": wide}).items()
        for kind, which in (("experts", experts), ("dense", ~experts))
        if len(one := each[np.resize(which, len(each))]) >= _FEWEST // 2
    }


def _chosen(runs: Sequence[Run], which: NDArray[np.bool_]) -> list[Run]:
    return [run for run, wanted in zip(runs, which, strict=True) if wanted]


def _without_nan(value: Any) -> Any:
    """The same with null where a number is not one."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
