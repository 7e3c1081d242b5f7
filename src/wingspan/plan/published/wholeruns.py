"""Whole trainings as their makers report them beside the plan's: device-hours, failures, goodput, energy.

A row names a model by its parameters, the tokens it saw and the device. What it leaves out (shape, fleet, batch,
layout) is inferred by the rules below, the same for all rows, and said to be.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from wingspan.errors import InputError
from wingspan.plan.devices.chips import Chip
from wingspan.plan.fleet import busy_share
from wingspan.plan.layouts.problem import Problem, Space
from wingspan.plan.layouts.search import search
from wingspan.plan.published.runs import Row, chip_of, software_of
from wingspan.plan.step.grid import Workload
from wingspan.plan.step.network import Network
from wingspan.plan.whole.wholerun import FAILURE_SOURCE, FAILURES, WHOLE_RUN_BAND, device_watts, node_watts, whole_run
from wingspan.project import Fleet
from wingspan.units import count

COLUMNS = {"model", "params_b", "tokens_t", "device"}  # by which a file of whole runs is known
FIGURES = ("device_hours", "failures_per_day", "goodput", "energy_mwh")

_NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?")
_ASPECT, _HEAD, _KEY_HEADS, _TOP_K = 128, 128, 8, 8  # width over layers; of a head; grouped keys; experts of a token
_BATCH, _BATCH_FOR, _BATCH_GROWS = 16e6, 15e12, 0.7  # tokens: Llama 3's 16M for 15T, Llama 2's 4M for 2T
_USUAL_DAYS, _USUAL_MFU = 30.0, 0.4  # of a run whose maker tells of no fleet
_MOST_SEQUENCES, _MOST_DEVICES = 2**20, 1_000_000
_MODERN = 2023  # flash attention, longer sequences


@dataclass(frozen=True)
class Reported:
    """One row; what the source does not say is 0."""

    row: Row
    chip: Chip
    devices: int
    parameters: float
    active: float  # parameters that a token meets
    tokens: float
    hours: float  # of devices
    sequence: int

    @property
    def kin(self) -> tuple[str, str]:
        """Whose fleet it ran on: the first word of the model's name, and the device."""
        return re.split(r"[^a-z]", self.row["model"].lower())[0], self.chip.name

    @property
    def year(self) -> int:
        """Of the source, where it is a paper; else of flash attention, but for devices older than that."""
        paper = re.search(r"arXiv (\d\d)\d\d\.", self.row.get("source", ""))
        return 2000 + int(paper[1]) if paper else _MODERN if (self.chip.year or 0) >= 2020 else 2020


def is_whole_runs(columns: Iterable[str]) -> bool:
    """Whether a file with such columns holds whole runs rather than steps."""
    return set(columns) >= COLUMNS


def backtest_whole_runs(path: Path) -> dict[str, Any]:
    """Every row that can be compared with its prediction, and the errors, as JSON."""
    reported, compared, refused = [], [], []
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            try:
                reported.append(_read(row))
            except InputError as error:
                refused.append({"id": row.get("id", ""), "reason": error.problem})
    for one in reported:
        try:
            compared.append(_compare(_completed(one, reported), inferred_fleet=not one.devices))
        except InputError as error:
            refused.append({"id": one.row.get("id", ""), "reason": error.problem})
    best = [row for row in compared if row["quality"] == "A"]
    errors = {name: _errors(compared, name) for name in FIGURES}
    return {"rows": compared, "refused": refused, "errors": errors, "quality_a": {n: _errors(best, n) for n in FIGURES}}


def _read(row: Row) -> Reported:
    devices, active = _number(row, "n_devices"), _number(row, "active_params_b") or _number(row, "params_b")
    sizes = (1e9 * _number(row, "params_b"), 1e9 * active, 1e12 * _number(row, "tokens_t"))
    hours = _number(row, "gpu_hours_reported") or 24 * _number(row, "days_reported") * devices
    if devices > _MOST_DEVICES:
        raise InputError(f"n_devices = {row['n_devices']} is more than there are")
    return Reported(row, chip_of(row["device"]), int(devices), *sizes, hours, int(_number(row, "seq_len")))


def _number(row: Row, column: str) -> float:
    """The first number of a cell, the middle of a range; 0 where there is none."""
    text = (row.get(column) or "").split("(")[0].strip()
    if text.startswith("-"):
        raise InputError(f"{column} = {text} is not positive")
    found = [float(one.replace(",", "")) for one in _NUMBER.findall(text)]
    return sum(found[:2]) / 2 if re.match(r"[\d.]+-\d", text) else found[0] if found else 0.0


def _completed(one: Reported, others: list[Reported]) -> Reported:
    """A row that names no fleet or sequence: its maker's largest of the same device, else 30 days' and the usual."""
    kin = [other for other in others if other.kin == one.kin]
    usual = 6 * one.active * one.tokens / ((one.chip.bf16_tflops or 1) * 1e12 * _USUAL_MFU * _USUAL_DAYS * 86400)
    devices = one.devices or max(other.devices for other in kin) or 2 ** max(3, round(math.log2(max(usual, 1))))
    sequence = one.sequence or max(other.sequence for other in kin) or (4096 if one.year >= _MODERN else 2048)
    return replace(one, devices=devices if one.active else one.devices, sequence=sequence)


def _compare(one: Reported, *, inferred_fleet: bool) -> dict[str, Any]:
    """What can be compared of one row: {figure: {predicted, reported, error, low, high}}."""
    figures: dict[str, dict[str, float]] = {}
    fleet = Fleet(device=one.chip.name, devices=one.devices or 1)
    estimated = "est" in (one.row.get("energy_mwh_reported") or "")
    energy = 0.0 if estimated else _number(one.row, "energy_mwh_reported")
    failures = _number(one.row, "failures_per_day")
    goodput, busy, step_s, batch_tokens = _number(one.row, "goodput_pct") / 100, 0.8, 1.0, 1
    known = bool(one.parameters and one.tokens and one.devices and (one.hours or energy))
    if known:
        step, batch_tokens = _fastest(one)
        step_s, busy = sum(step.values()), busy_share(step)
    run = whole_run(
        tokens=one.tokens,
        tokens_per_step=batch_tokens,
        step_s=step_s,
        busy=busy,
        parameters=one.parameters,
        chip=one.chip,
        fleet=fleet,
    )
    if known and one.hours:
        figures["device_hours"] = _figure(run.device_hours, one.hours, WHOLE_RUN_BAND)
    if known and energy:
        figures["energy_mwh"] = _figure(_energy_mwh(one, one.hours or run.device_hours, busy), energy, (0.8, 1.25))
    if one.devices and failures:
        per = one.devices / 8000 if "per 1000 node-days" in one.row["failures_per_day"] else 1.0
        low, high = (bound(FAILURES.values()) / FAILURES[FAILURE_SOURCE] for bound in (min, max))
        figures["failures_per_day"] = _figure(24 / run.mean_hours_between_failures, failures * per, (low, high))
    if one.devices and goodput:
        met = ">" in one.row["goodput_pct"] and run.goodput >= goodput
        figures["goodput"] = _figure(run.goodput, goodput, (0.97, 1.03)) | ({"error": 0.0} if met else {})
    inferred = ["devices"] * inferred_fleet + ["shape", "batch", "layout"] if known else []
    named = {"id": one.row.get("id", ""), "model": one.row["model"], "quality": one.row.get("quality", "")}
    return named | {"device": one.chip.name, "devices": one.devices, "inferred": inferred, "figures": figures}


def _figure(predicted: float, reported: float, band: tuple[float, float]) -> dict[str, float]:
    """A prediction beside the truth; `band` are shares of it."""
    low, high = (predicted * share for share in band)
    return {"predicted": predicted, "reported": reported, "error": predicted / reported - 1, "low": low, "high": high}


def _fastest(one: Reported) -> tuple[dict[str, float], int]:
    """Items of the fastest step, and its tokens: as many as usual, or as often doubled as the fleet needs."""
    new = one.year >= _MODERN and (one.chip.year or 0) >= 2022
    told = re.search(r"(\d+) experts", one.row.get("notes", ""))
    network = network_like(one.parameters, one.active, 128_256 if new else 32_000, int(told[1]) if told else 0)
    low_precision = "FP8" in one.row.get("notes", "")
    words = " ".join(one.row.get(column) or "" for column in ("model", "source", "device"))
    software = software_of({"framework": words, "year": str(one.year)})
    space = Space(ep=True, most_interleave=8, precision=(2 if low_precision else 0,), zero=(1, 2, 3), wide=True)
    batch = _batch(one.tokens, one.sequence, one.devices)
    while batch <= _MOST_SEQUENCES:
        problem = Problem(network, Workload(one.sequence, batch), one.chip, one.devices, 8, software)
        if len(found := search(problem, space)):
            items = problem.step_time(found.grid.take(np.array([found.fastest])))
            return {name: float(value[0]) for name, value in items.items()}, batch * one.sequence
        batch *= 2
    raise InputError(f"no layout of {one.devices:,} {one.chip.name} holds it")


def _batch(tokens: float, sequence: int, devices: int) -> int:
    """Sequences of a step near what a token budget usually gets, which divide over the devices."""
    usual: float = _BATCH * (tokens / _BATCH_FOR) ** _BATCH_GROWS / sequence
    if usual >= devices:
        return devices * round(usual / devices)
    ways = [one for one in range(1, devices + 1) if devices % one == 0]
    return min(ways, key=lambda way: abs(math.log(way / usual)))


def network_like(parameters: float, active: float, vocab: int, experts: int = 0) -> Network:
    """A usual decoder of that many parameters: 128 times as wide as deep, grouped keys, a gated MLP.

    Where fewer are active, the rest are experts: so many as told, else of a size that a token meets eight of them;
    beside a shared one.
    """
    usual = (active * _ASPECT / 12) ** (1 / 3)
    part = 1024 if usual > 3500 else 256
    hidden = part * max(1, round(usual / part))
    tied = active < 1.5e9
    ends = vocab * hidden * (1 if tied else 2)
    deep = (active - ends) / (12 * hidden**2)
    multiple = 8 if deep >= 24 else 4
    layers = multiple * max(1, round(deep / multiple))
    heads = hidden // _HEAD
    keys = _KEY_HEADS if heads % _KEY_HEADS == 0 else heads
    attention = 2 * hidden * _HEAD * (heads + keys)
    whole, met = (max(1.0, ((size - ends) / layers - attention) / (3 * hidden)) for size in (parameters, active))
    dense = Network(layers, hidden, heads, keys, _HEAD, part * max(1, round(whole / part)), vocab, tied=tied)
    if parameters < 1.05 * active:
        return dense
    chosen = max(1, round(met * (experts + 1) / whole) - 1) if experts else _TOP_K
    experts = experts or int(2 ** round(math.log2(whole * (_TOP_K + 1) / met)))
    inner = 128 * max(1, round(whole / (experts + 1) / 128))
    return replace(dense, ffn=0, experts=experts, experts_per_token=chosen, shared_experts=1, expert_ffn=inner)


def _energy_mwh(one: Reported, hours: float, busy: float) -> float:
    """Energy of the hours, counted as the source does: with its watts, the power of its devices, or of its nodes.

    A source that says nothing counts the rated power of its devices, as most papers do.
    """
    basis = one.row.get("power_basis", "")
    watts, pue = re.search(r"(\d{2,4}) ?W\b", basis), re.search(r"PUE (\d\.\d+)", basis)
    own = one.chip.tdp_w if not basis else (device_watts if "GPU" in basis else node_watts)(one.chip, busy)
    return hours * (float(watts[1]) if watts else own or math.nan) * (float(pue[1]) if pue else 1.0) / 1e6


def _errors(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Absolute errors of one figure over the rows that report it, and how many its band holds."""
    found = [row["figures"][name] for row in rows if name in row["figures"]]
    errors = np.abs([one["error"] for one in found] or [math.nan])
    held = [one["low"] <= one["reported"] <= one["high"] or one["error"] == 0 for one in found]
    numbers = {"mape": errors.mean(), "median": np.median(errors), "p90": np.quantile(errors, 0.9)}
    shares = {"within_15": np.mean(errors <= 0.15), "coverage90": np.mean(held or [math.nan])}
    return {"rows": len(found), **{key: float(value) for key, value in (numbers | shares).items()}} if found else {}


def render_whole_runs(found: dict[str, Any]) -> RenderableType:
    """A line for each row and figure, and the errors of all."""
    columns = ("run", "", "devices", "figure", "reported", "predicted", "error")
    table = Table(*columns, box=None, header_style="dim", caption="* inferred", caption_justify="left")
    for row in found["rows"]:
        for name, one in row["figures"].items():
            devices = f"{row['devices']:,}" + "*" * ("devices" in row["inferred"])
            numbers = [count(one["reported"]), count(one["predicted"]), f"{one['error']:+.0%}"]
            table.add_row(row["model"][:32], row["quality"], devices, name.replace("_", " "), *numbers)
    lines = [
        f"{name.replace('_', ' ')}: mean error {one['mape']:.0%}, median {one['median']:.0%}, "
        f"within 15%: {one['within_15']:.0%}, band holds {one['coverage90']:.0%} of {one['rows']}"
        for name, one in found["errors"].items()
        if one
    ]
    return Group(table, *lines, *(f"left out {one['id']}: {one['reason']}" for one in found["refused"]))
