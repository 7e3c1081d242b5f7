"""Measured runs beside the planner's predictions: how wrong the planner is, by source and by device.

A row of the file is one measured training step. Missing layout columns are inferred and said to be; a row
that cannot be read is listed with the reason.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wingspan.errors import InputError
from wingspan.plan import memory as memory_of
from wingspan.plan import steptime
from wingspan.plan.accounting import accounting_of
from wingspan.plan.chips import Chip, chip_named
from wingspan.plan.grid import Grid, Software, Workload
from wingspan.plan.layouts import Problem
from wingspan.plan.network import Network
from wingspan.units import GIB

Row = dict[str, str]

SOFTWARE = {
    "megatron-2021": Software("Megatron before flash attention", flash=False, traffic=1.0, dp_overlap=0.0),
    "megatron": Software("Megatron-Core with overlap", traffic=1.2, tp_overlap=0.85, dp_overlap=0.95),
    "fsdp": Software("PyTorch FSDP", traffic=1.0, dp_overlap=0.95, gradient_bytes=2.0),
    "xla": Software("JAX and XLA", traffic=1.6, tp_overlap=0.3, dp_overlap=0.95, gradient_bytes=2.0),
}
_GENERATIONS = (  # first match of the framework's name
    (re.compile(r"maxtext|levanter|jax|xla|paxml|neuron|tpu", re.I), "xla"),
    (re.compile(r"megatron-deepspeed", re.I), "megatron-2021"),
    (re.compile(r"flash|fsdp|torchtitan|composer|foundry|fms|olmo|litgpt", re.I), "fsdp"),
)
_FLASH_SINCE = 2023  # year in which Megatron-style frameworks had flash attention
_SCHEDULES = (
    (re.compile(r"v-?min", re.I), 4),
    (re.compile(r"v-?half", re.I), 3),
    (re.compile(r"zbv", re.I), 2),
    (re.compile(r"zb|zero.?bubble|dualpipe", re.I), 1),
)
_ALIASES = {
    "ampereaclass": "A100-80GB SXM",
    "ampere(a100-class)": "A100-80GB SXM",
    "a100-80gb": "A100-80GB SXM",
    "a100-40gb": "A100-40GB SXM",
    "h100-sxm-96gb-500w": "H100 SXM",
    "v100-32gb": "V100-32GB SXM",
    "gb200": "GB200 NVL72",
    "gb300": "GB300 NVL72",
    "b200": "B200 SXM",
    "b300": "B300 SXM",
    "mi350x": "MI355X",
}
_RECOMPUTE = (("full", 2), ("none", 0), ("", 0))  # other words are selective policies
_FILLING = 8  # micro-batches per pipeline stage where no batch is stated: a pipeline is kept full
_PRECISION = {"bf16": 0, "fp16": 0, "fp32": 1}  # all others run their matrices in 8 bits or less


@dataclass(frozen=True)
class Measured:
    """One row: what ran, and how long a step took (seconds) or how much memory it held (GiB)."""

    id: str
    family: str
    device: str
    devices: int
    quality: str
    problem: Problem
    grid: Grid
    step_s: float
    memory_gib: float | None
    inferred: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """A row with its prediction."""

    run: Measured
    step_s: float
    memory_gib: float

    @property
    def error(self) -> float:
        """Relative error of the step time, signed."""
        return self.step_s / self.run.step_s - 1


@dataclass(frozen=True)
class Refused:
    """A row without an answer, and why."""

    id: str
    reason: str


def read_runs(path: Path) -> tuple[list[Measured], list[Refused]]:
    """The rows of a file of measured runs; raises InputError where it lacks the columns that all rows need."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = {"device", "n_devices", "layers", "hidden", "heads", "seq_len"} - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                f"columns are missing: {', '.join(sorted(missing))}",
                where=path,
                remedy="Name the columns as docs/plan.md does",
            )
        rows = list(reader)
    measured: list[Measured] = []
    refused: list[Refused] = []
    for number, row in enumerate(rows, start=2):
        try:
            measured.append(_measured(row))
        except (ValueError, InputError) as error:
            reason = error.problem if isinstance(error, InputError) else str(error)
            refused.append(Refused(row.get("id") or f"line {number}", reason))
    return measured, refused


def compare(runs: Iterable[Measured]) -> list[Compared]:
    """Every run with its prediction."""
    return [_compare(run) for run in runs]


def _compare(run: Measured) -> Compared:
    step = steptime.total(run.problem.step_time(run.grid))[0]
    memory = memory_of.reported(run.problem.memory(run.grid), run.problem.software.accounting)[0]
    return Compared(run, float(step), float(memory) / GIB)


def _measured(row: Row) -> Measured:
    chip = chip_of(row["device"])
    devices = _whole(row, "n_devices")
    network = _network(row)
    grid, workload, inferred = _layout(row, devices)
    problem = Problem(network, workload, chip, devices, min(8, devices), software_of(row))
    if not row.get("recompute"):
        grid = _leanest_that_fits(problem, grid)
        inferred = (*inferred, "recompute")
    seconds = _truth(row, workload, devices)
    reported = row.get("memory_gib_reported")
    return Measured(
        row["id"],
        row["source_family"],
        row["device"],
        devices,
        row.get("quality", ""),
        problem,
        grid,
        seconds,
        float(reported) if reported else None,
        inferred,
    )


def _truth(row: Row, workload: Workload, devices: int) -> float:
    """Seconds of the measured step, from its tokens per second where the source gives those."""
    if row.get("step_time_s"):
        return _positive(row, "step_time_s")
    return workload.tokens / (_positive(row, "tokens_per_s_per_device") * devices)


def _network(row: Row) -> Network:
    heads = _whole(row, "heads")
    hidden = _whole(row, "hidden")
    return Network(
        layers=_whole(row, "layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(row, "kv_heads", heads),
        head_dim=_whole(row, "head_dim", hidden // heads),
        ffn=_whole(row, "ffn_hidden", 4 * hidden),
        vocab=_whole(row, "vocab", 50_304),
        gated=row.get("gated_mlp") == "1",
        experts=_whole(row, "moe_experts", 0),
        experts_per_token=_whole(row, "moe_topk", 0),
        shared_experts=_whole(row, "moe_shared", 0),
        expert_ffn=_whole(row, "moe_ffn", 0),
        dense_layers=_whole(row, "dense_layers", 0),
    )


def _layout(row: Row, devices: int) -> tuple[Grid, Workload, tuple[str, ...]]:
    """The layout as the row gives it; what it leaves out is data parallel, one sequence at a time, ZeRO 1."""
    inferred = tuple(name for name in ("tp", "pp", "dp", "micro_batch", "global_batch_seqs") if not row.get(name))
    tp, pp, cp = _whole(row, "tp", 1), _whole(row, "pp", 1), _whole(row, "cp", 1)
    dp = _whole(row, "dp", max(1, devices // (tp * pp * cp)))
    micro_batch = float(row.get("micro_batch") or 1)
    filling = _FILLING * pp if pp > 1 else 1
    batch = _whole(row, "global_batch_seqs", max(1, round(dp * micro_batch * filling)))
    word = next((code for start, code in _RECOMPUTE if row.get("recompute", "") == start), 1)
    grid = Grid.product(
        {
            "shard": [dp],
            "tp": [tp],
            "cp": [cp],
            "pp": [pp],
            "ep": [_whole(row, "ep", 1)],
            "micro_batch": [min(micro_batch, max(batch / dp, 1e-9))],
            "interleave": [_whole(row, "vpp", 1)],
            "zero": [_zero(row.get("fsdp_zero", ""))],
            "recompute": [word],
            "precision": [_PRECISION.get(row.get("precision", "bf16"), 2)],
            "schedule": [_schedule(row.get("framework", ""))],
        }
    )
    return grid, Workload(_whole(row, "seq_len"), batch), inferred


def _zero(words: str) -> int:
    """The ZeRO stage that words like `3 (FSDP2)`, `HSDP` or nothing mean."""
    if words[:1].isdigit():
        return int(words[0])
    return 3 if "SDP" in words else 1


def _schedule(words: str) -> int:
    """The pipeline schedule that a framework's name tells, in grid.SCHEDULES."""
    named = (code for pattern, code in _SCHEDULES if pattern.search(words))
    return next(named, 0)


def _leanest_that_fits(problem: Problem, grid: Grid) -> Grid:
    """The least recomputation with which the run fits on its device, as its owner would have chosen."""
    for policy in (0.0, 1.0):
        attempt = replace(grid, recompute=np.array([policy]))
        if memory_of.total(problem.memory(attempt))[0] <= problem.capacity:
            return attempt
    return replace(grid, recompute=np.array([2.0]))


def software_of(row: Row) -> Software:
    """The generation of software that a row's framework, year and precision mean."""
    framework, year = row.get("framework", ""), int(row.get("year") or 2025)
    old = "megatron-2021" if year < _FLASH_SINCE else "megatron"
    name = next((name for pattern, name in _GENERATIONS if pattern.search(framework)), old)
    return replace(SOFTWARE[name], accounting=accounting_of(framework, year, row.get("precision", "bf16")))


def chip_of(name: str) -> Chip:
    """The chip that a row means; raises InputError where the catalogue lacks it or its rates."""
    if name == "MI250X-GCD":
        whole = chip_named("MI250X")
        half = {key: getattr(whole, key) / 2 for key in ("bf16_tflops", "memory_gb", "memory_gb_s")}
        return replace(whole, **half, compute_units=110)
    chip = chip_named(_ALIASES.get(name.lower(), name))
    if chip.missing:
        raise InputError(f"{chip.name}: {', '.join(chip.missing)} unknown")
    return chip


def _whole(row: Row, name: str, default: int | None = None) -> int:
    text = row.get(name) or ""
    if not text:
        if default is None:
            raise ValueError(f"{name} is missing")
        return default
    number = int(float(text))
    if number < 0 or (number == 0 and default is None):
        raise ValueError(f"{name} = {text} is not positive")
    return number


def _positive(row: Row, name: str) -> float:
    number = float(row.get(name) or "nan")
    if not number > 0 or not np.isfinite(number):
        raise ValueError(f"{name} is missing or not positive")
    return number


@dataclass(frozen=True)
class Errors:
    """Absolute relative errors of a set of rows."""

    rows: int
    mape: float
    median: float
    p90: float
    bias: float

    @classmethod
    def of(cls, rows: list[Compared]) -> Errors:
        """Statistics of at least one row."""
        signed = np.array([row.error for row in rows])
        absolute = np.abs(signed)
        return cls(
            len(rows),
            float(absolute.mean()),
            float(np.median(absolute)),
            float(np.quantile(absolute, 0.9)),
            float(np.median(signed)),
        )


def errors_by(rows: list[Compared], key: Callable[[Measured], str]) -> dict[str, Errors]:
    """Errors of every group of rows, the largest group first."""
    groups: dict[str, list[Compared]] = {}
    for row in rows:
        groups.setdefault(key(row.run), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return {name: Errors.of(members) for name, members in ordered}
