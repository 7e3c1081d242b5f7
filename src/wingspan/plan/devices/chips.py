"""The catalogue of chips: published facts with source and date, and this machine by measurement.

What a source does not state stays None, and is shown as unknown rather than guessed.
"""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

from wingspan.errors import InputError
from wingspan.plan.devices.machine import Measurement
from wingspan.units import GIB

THIS_MACHINE = "this-machine"


@dataclass(frozen=True)
class Chip:
    """One device. Rates are dense peaks in TFLOP/s, links one-way GB/s per device, memory in GB as vendors say it."""

    name: str
    vendor: str = ""
    year: int | None = None
    kind: str = "gpu"
    architecture: str = ""  # chips of one architecture share corrections of their kernels
    fp4: int | None = None  # 1 where matrices also run in 4 bits, at twice the 8-bit rate
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    matmul_bf16_tflops: float | None = None  # best measured matrix multiplication
    compute_units: int | None = None  # streaming multiprocessors or compute units
    memory_gb: float | None = None
    memory_gb_s: float | None = None
    domain_devices: int | None = None  # devices on the fast (scale-up) network
    domain_gb_s: float | None = None
    network_gb_s: float | None = None  # scale-out, between domains
    tdp_w: float | None = None
    wall_w: float | None = None  # at the wall at full load, per device, host included
    usd_per_hour: float | None = None  # on demand
    reserved_usd_per_hour: float | None = None  # for a year or more
    purchase_usd: float | None = None  # per device, its share of the server included
    source: str = ""
    source_date: str = ""
    wall_source: str = ""
    price_source: str = ""
    price_date: str = ""
    reserved_source: str = ""
    reserved_date: str = ""
    purchase_source: str = ""
    purchase_date: str = ""
    availability: str = ""
    notes: str = ""

    @property
    def memory_bytes(self) -> float:
        """Bytes of device memory: vendors' GB of on-package memory are GiB (an 80 GB H100 shows 79.6 GiB)."""
        assert self.memory_gb is not None
        return self.memory_gb * GIB

    @property
    def missing(self) -> tuple[str, ...]:
        """What must be known to predict a training step and is not."""
        needed = ("bf16_tflops", "memory_gb", "memory_gb_s")
        return tuple(name for name in needed if getattr(self, name) is None)


@cache
def catalogue() -> tuple[Chip, ...]:
    """Every chip of chips.csv, in file order."""
    with (files("wingspan.plan.devices") / "chips.csv").open(encoding="utf-8") as stream:
        return tuple(_chip(row) for row in csv.DictReader(stream))


def _chip(row: dict[str, str]) -> Chip:
    kinds = {field.name: str(field.type) for field in fields(Chip)}
    values: dict[str, Any] = {name: _value(text, kinds[name]) for name, text in row.items()}
    return Chip(**values)


def _value(text: str, kind: str) -> str | int | float | None:
    if kind.startswith("str"):
        return text
    if not text:
        return None
    return int(text) if kind.startswith("int") else float(text)


def chip_named(name: str) -> Chip:
    """The chip of that name, whatever its case and punctuation; raises InputError with the nearest names."""
    by_key = {_key(chip.name): chip for chip in catalogue()}
    key = _key(name)
    if key in by_key:
        return by_key[key]
    prefixed = [chip.name for known, chip in by_key.items() if known.startswith(key)]
    near = prefixed or [by_key[one].name for one in difflib.get_close_matches(key, by_key, n=3, cutoff=0.4)]
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(one.name for one in catalogue())}"
    raise InputError(f"there is no chip '{name}' in the catalogue", where="fleet.device", remedy=remedy)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def this_machine(measurement: Measurement) -> Chip:
    """This machine as one device of a fleet: what it measured is its peak."""
    rate = measurement.bf16_flops or measurement.float32_flops
    return Chip(
        name=THIS_MACHINE,
        vendor=measurement.processor,
        kind="cpu",
        bf16_tflops=rate / 1e12,
        matmul_bf16_tflops=rate / 1e12,
        memory_gb=measurement.memory_bytes / GIB,
        memory_gb_s=measurement.memory_bytes_per_s / 1e9,
        domain_gb_s=measurement.memory_bytes_per_s / 2e9,  # ranks exchange through memory: each byte in and out
        network_gb_s=measurement.memory_bytes_per_s / 2e9,
        source="measured",
    )


def share_of_machine(machine: Chip, ranks: int) -> Chip:
    """What each of several ranks on this machine has of its memory, its rates and its exchange."""
    names = ("bf16_tflops", "matmul_bf16_tflops", "memory_gb", "memory_gb_s", "domain_gb_s", "network_gb_s")
    return replace(machine, **{name: getattr(machine, name) / ranks for name in names})


def half_of(chip: Chip) -> Chip:
    """One of the two cores that a chip shows itself as."""
    names = (
        "bf16_tflops",
        "fp8_tflops",
        "matmul_bf16_tflops",
        "memory_gb",
        "memory_gb_s",
        "domain_gb_s",
        "network_gb_s",
    )
    halves = {name: value / 2 for name in names if (value := getattr(chip, name)) is not None}
    units = chip.compute_units and chip.compute_units // 2
    return replace(chip, **halves, compute_units=units, domain_devices=chip.domain_devices and 2 * chip.domain_devices)
