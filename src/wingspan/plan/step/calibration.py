"""The constants of the step-time model: what each means, whom it belongs to, and their fitted values.

A constant is one prior for everybody times corrections for kinds of device, network and software, each shrunk
towards what holds one level above, so that a device or a framework that nobody measured has the constants of
its kind. No correction belongs to a model, a run or a source.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from wingspan.errors import InputError
from wingspan.plan.devices.chips import Chip
from wingspan.plan.step.grid import Array, Software
from wingspan.workspace import write_atomically

Value = float | Array
Groups = Mapping[str, str]  # level -> the kind of device, network or software at that level

DEVICE = ("kind", "architecture", "device")
SOFTWARE = ("style", "framework", "year", "release")


@dataclass(frozen=True)
class Known:
    """What is known of a constant before any run: how far its logarithm lies from the prior, and its corrections."""

    spread: float
    levels: tuple[str, ...] = ()
    shrink: float = 0.15


@dataclass(frozen=True)
class Constants:
    """One number per layout or for all. Rates are shares of what the catalogue states; exposed is not hidden."""

    # of a device and its networks
    matmul: Annotated[Value, Known(0.1, DEVICE)] = 1.0  # of the sustained rate that its kind reaches
    fp8: Annotated[Value, Known(0.2, ("architecture", "device", "format"))] = 0.9  # of the 8-bit peak, beside matmul
    fp4: Annotated[Value, Known(0.2, ("architecture",))] = 0.7
    memory: Annotated[Value, Known(0.1, DEVICE)] = 0.9
    link: Annotated[Value, Known(0.2, DEVICE)] = 0.8
    network: Annotated[Value, Known(0.3, ("kind", "device", "fabric"))] = 0.7
    # of a generation of software
    traffic: Annotated[Value, Known(0.3, SOFTWARE)] = 1.4  # bytes of elementwise work over fused kernels'
    comm: Annotated[Value, Known(0.2, SOFTWARE, 0.2)] = 1.0  # time of collectives over that of the links' rates
    host: Annotated[Value, Known(0.5, SOFTWARE[:3], 0.2)] = 1e-3  # seconds to launch a layer, forward and backward
    speed: Annotated[Value, Known(0.03, SOFTWARE, 0.05)] = 1.0  # of all kernels
    attention: Annotated[Value, Known(0.3, ("architecture", "framework"))] = 0.4  # of peak, flash attention forward
    # of a style of parallelism
    exposed_tp: Annotated[Value, Known(0.5, ("style",))] = 0.5
    exposed_dp: Annotated[Value, Known(0.5, ("style",))] = 0.15
    exposed_ep: Annotated[Value, Known(0.5, ("style",))] = 0.7
    exposed_cp: Annotated[Value, Known(0.5, ("style",))] = 0.5
    exposed_pp: Annotated[Value, Known(0.5, ("style",))] = 0.5
    step: Annotated[Value, Known(0.7, ("style",), 0.4)] = 0.02  # seconds per step that nothing hides
    scores: Annotated[Value, Known(0.3, ("style",))] = 30.0  # bytes per attention score without flash attention
    grouped: Annotated[Value, Known(0.2, ("style",))] = 1.2  # time of grouped multiplications over plain ones
    # of an operation
    wave: Annotated[Value, Known(0.4)] = 0.3  # waves of tiles that a multiplication loses at its ends
    depth: Annotated[Value, Known(0.5)] = 96.0  # inner width that a tile loses at its ends
    misaligned: Annotated[Value, Known(0.15)] = 1.2  # time where a width is no multiple of 64
    gap: Annotated[Value, Known(0.4)] = 5e-6  # seconds between kernels
    start: Annotated[Value, Known(0.4)] = 2.5e-5  # seconds to start a collective
    hop: Annotated[Value, Known(0.5)] = 3e-6  # seconds per member of a ring inside a domain
    network_hop: Annotated[Value, Known(0.5)] = 6e-6  # the same per domain
    backward: Annotated[Value, Known(0.15)] = 1.1  # time per FLOP of flash attention backward over forward
    small_head: Annotated[Value, Known(0.15)] = 1.2  # time of attention below a head dimension of 128
    unfused: Annotated[Value, Known(0.3)] = 0.4  # of peak, attention by plain multiplications
    norm: Annotated[Value, Known(0.2)] = 13.0  # values of width h moved per token forward
    gate: Annotated[Value, Known(0.2)] = 4.0  # values of width f
    cast: Annotated[Value, Known(0.5)] = 6.0  # bytes per value cast to 8 bits or less
    permute: Annotated[Value, Known(0.5)] = 6.0  # values of width h moved per token and expert
    logit: Annotated[Value, Known(0.3)] = 26.0  # bytes per logit
    optimizer: Annotated[Value, Known(0.3)] = 40.0  # bytes per parameter
    selective: Annotated[Value, Known(1.0)] = 0.15  # of the forward pass that selective policies compute again
    bubble: Annotated[Value, Known(0.1)] = 1.0  # of a pipeline's idle time
    host_moe: Annotated[Value, Known(0.5)] = 2.0  # launches of a layer with experts over those of a dense one, less one
    host_expert: Annotated[Value, Known(0.5)] = 0.3  # the same per expert that a rank holds
    scale: Annotated[Value, Known(1e-3, ("cluster",), 0.3)] = 1.0  # of the whole step, on a cluster of one's own
    straggle: Annotated[Value, Known(0.5)] = 0.006  # spread of device speeds


@dataclass(frozen=True)
class Constant:
    """One constant of `Constants`, with its prior and what is known of it."""

    name: str
    prior: float
    known: Known


CONSTANTS = tuple(
    Constant(name, getattr(Constants, name), get_args(hint)[1])
    for name, hint in get_type_hints(Constants, include_extras=True).items()
)

# A CPU's rates are measured, not looked up, and the planner's own laptop runs were all the runs there were.
CPU = Constants(
    memory=1.0,
    traffic=1.6,
    host=1e-9,
    step=1e-9,
    attention=0.37,
    backward=0.37 / 0.34,
    wave=1e-9,
    depth=1e-9,
    misaligned=1.0,
    gap=3e-5,
    gate=3.0,
    optimizer=32.0,
    selective=1e-9,
    straggle=0.005,
)


def groups_of(chip: Chip, software: Software) -> dict[str, str]:
    """The level -> group of a chip and a software; a chip without an architecture is one of its own."""
    style, framework, year, release = software.generation
    return {
        "kind": chip.kind,
        "architecture": chip.architecture or chip.name,
        "device": chip.name,
        "style": style,
        "framework": framework,
        "year": year,
        "release": release,
        "cluster": "own",
    }


@dataclass(frozen=True)
class Band:
    """Where nine of ten measured steps lie, as shares of the prediction, and how many runs like it were measured."""

    low: float
    high: float
    runs: int
    behind: str = ""  # the same in words


@dataclass(frozen=True)
class Calibration:
    """Fitted corrections, and how wrong they were on runs that they had not seen.

    `corrections` of the constants' logarithms by constant and `level:group`; `rows` measured behind each group;
    `sources` and their rows; `bands` by how much is known: log errors that 5 and 95% of held-out runs stay below;
    `held_out` errors of the same.
    """

    corrections: Mapping[tuple[str, str], float] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)

    def constants(self, groups: Groups) -> Constants:
        """The constants of one device and software; the catalogue's and a CPU's own measurement need no fit."""
        if groups["kind"] == "cpu":
            return CPU
        return Constants(**{constant.name: self._value(constant, groups) for constant in CONSTANTS})

    def _value(self, constant: Constant, groups: Groups) -> float:
        keys = {key_of(level, groups) for level in ("", *constant.known.levels)}
        return float(constant.prior * math.exp(sum(self.corrections.get((constant.name, key), 0.0) for key in keys)))

    def band(self, groups: Groups, *, experts: bool) -> Band:
        """The 90% band of a prediction, by whether its device and its software were measured."""
        if groups["kind"] == "cpu":
            return Band(1 - _CPU_ERROR, 1 + _CPU_ERROR, 0, "rates measured on this machine")
        known = [key_of(level, groups) in self.rows for level in ("device", "framework")]
        low, high = self.bands.get(band_name(*known, experts=experts), _UNMEASURED)
        if runs := self.rows.get(alike(groups), 0):
            behind = f"{runs} measured runs on {groups['device']} with {groups['framework']}"
        else:
            runs = self.rows.get(key_of("device", groups), 0)
            behind = f"{runs or 'no'} measured runs on {groups['device']}, none of them with this software"
        return Band(math.exp(low), math.exp(high), runs, behind)

    def counts(self) -> dict[str, int]:
        """How many constants were fitted: all, at most per device, and at most per generation of software."""
        groups = Counter(key for _, key in self.corrections)
        most = {
            level: max((count for key, count in groups.items() if key.startswith(f"{level}:")), default=0)
            for level in ("device", "release")
        }
        return {"all": len(self.corrections), "per_device": most["device"], "per_generation": most["release"]}

    def as_json(self) -> dict[str, Any]:
        """Everything, corrections grouped by constant."""
        corrections: dict[str, dict[str, float]] = {}
        for (constant, key), value in self.corrections.items():
            corrections.setdefault(constant, {})[key or "all"] = round(value, 4)
        return {
            "format": _FORMAT,
            "sources": dict(self.sources),
            "held_out": {name: round(value, 4) for name, value in self.held_out.items()},
            "bands": {name: [round(low, 4), round(high, 4)] for name, (low, high) in self.bands.items()},
            "rows": dict(self.rows),
            "corrections": corrections,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Calibration:
        """The calibration that `as_json` wrote; raises KeyError, TypeError or ValueError where it did not."""
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']} is not {_FORMAT}")
        return cls(
            corrections={
                (constant, "" if key == "all" else key): float(value)
                for constant, groups in found["corrections"].items()
                for key, value in groups.items()
            },
            rows={str(key): int(count) for key, count in found["rows"].items()},
            sources={str(name): int(count) for name, count in found["sources"].items()},
            bands={str(name): (float(low), float(high)) for name, (low, high) in found["bands"].items()},
            held_out={str(name): float(value) for name, value in found["held_out"].items()},
        )


_FORMAT = 1
_CPU_ERROR = 0.38  # half-width of the band of a CPU's step
_UNMEASURED = (-0.7, 0.7)  # log error of the priors alone, where no run was held against them


def key_of(level: str, groups: Groups) -> str:
    """The name of a level's group in a calibration; nothing where everybody is meant or the group is unknown."""
    return f"{level}:{groups[level]}" if groups.get(level) else ""


def alike(groups: Groups) -> str:
    """The name of the runs on the same device with the same software."""
    return f"alike:{groups['device']}, {groups['framework']}"


def band_name(device: bool, software: bool, *, experts: bool) -> str:
    """What a band is called: which of device and software were measured before, dense or with experts."""
    known = {(True, True): "known", (True, False): "new software", (False, True): "new device"}
    return f"{known.get((device, software), 'new')}, {'experts' if experts else 'dense'}"


def read_calibration(path: Path) -> Calibration:
    """A calibration file; raises InputError where it is none."""
    try:
        return Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"this is not a calibration: {type(error).__name__}: {error}",
            where=path,
            remedy="Make one with 'wingspan plan backtest RUNS.csv --calibrate FILE'",
        ) from error


def write_calibration(path: Path, calibration: Calibration) -> None:
    """A calibration file, which `read_calibration` reads."""
    write_atomically(path, json.dumps(calibration.as_json(), indent=1) + "\n")


def named(name: str | None) -> Calibration:
    """A calibration by its file, `none` for the priors alone, or nothing for the shipped one."""
    if name is None:
        return shipped()
    return Calibration() if name == "none" else read_calibration(Path(name))


@cache
def shipped() -> Calibration:
    """The calibration of published runs that comes with wingspan; the priors alone where there is none."""
    try:
        text = (files("wingspan.plan.step") / "calibration.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return Calibration()
    return Calibration.from_json(json.loads(text))
