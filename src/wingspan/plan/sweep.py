"""The same project on other numbers of devices, and what a budget of money or days would allow."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wingspan.errors import InputError
from wingspan.model.shape import shape_of
from wingspan.plan.chips import THIS_MACHINE, Chip, chip_named
from wingspan.plan.fleet import Priced, feedable, on_devices
from wingspan.plan.grid import Workload, workload_of
from wingspan.plan.laptop import training_tokens
from wingspan.plan.network import Network, network_of
from wingspan.plan.quality import REFIT
from wingspan.project import Fleet, Project
from wingspan.units import count, duration, money

_SIZES_TRIED = 24  # numbers of devices that a small batch feeds, of which the fastest is shown
_SIZES_SOLVED = 40  # the same between the fewest and the most that could meet a deadline
_PARTS = (1024, 256, 64, 8, 1)  # a fleet is used in multiples of these: odd numbers divide into poor layouts
_BATCH_MAY_DIFFER, _BATCHES_TRIED = 0.1, 3  # from the project's
_MOST_DEVICES = 1_000_000
_BEST_MFU = 0.75  # above all that was ever published: no fewer devices can meet a deadline
_SLOWEST_MFU = 0.10
_AMOUNT = re.compile(
    r"^\s*(?:\$|USD)?\s*([-+]?[\d_,]*\.?\d+(?:e[-+]?\d+)?|nan|[-+]?inf)\s*([a-z$ ]*?)\s*$", re.IGNORECASE
)
_MONEY = {"": 1.0, "usd": 1.0, "$": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "million": 1e6, "billion": 1e9}
_DAYS = {
    "": 1.0,
    "d": 1.0,
    "day": 1.0,
    "days": 1.0,
    "h": 1 / 24,
    "hours": 1 / 24,
    "w": 7.0,
    "weeks": 7.0,
    "months": 30.44,
}
_LARGEST = {"--budget": 1e13, "--deadline": 36_525.0}  # dollars: the world does not have more; days: a century


def dollars(text: str) -> float:
    """`5e6`, `5M`, `$5,000,000`; raises InputError for what is no amount of money."""
    return _amount(text, "--budget", _MONEY, "e.g. 5e6, 5M or '$5,000,000'")


def days(text: str) -> float:
    """`30d`, `12h`, `6w`; raises InputError for what is no time."""
    return _amount(text, "--deadline", _DAYS, "e.g. 30d, 12h or 6w")


def _amount(text: str, where: str, units: dict[str, float], example: str) -> float:
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2].lower() not in units:
        known = ", ".join(unit for unit in units if unit)
        raise InputError(f"'{text}' is not a number with a unit of {known}", where=where, remedy=f"Write {example}")
    value = float(re.sub("[_,]", "", match[1])) * units[match[2].lower()]
    if not 0 < value <= _LARGEST[where]:
        problem = "is not above zero" if value <= 0 else "is no finite number that could be meant"
        raise InputError(f"'{text}' {problem}", where=where, remedy=f"Write {example}")
    return value


def device_counts(text: str) -> list[int]:
    """`1000,2000,5000`; raises InputError for what is no list of whole numbers above zero."""
    counts = []
    for word in text.split(","):
        if not re.fullmatch(r"\s*\d[\d_]*\s*", word) or not 0 < int(word) <= _MOST_DEVICES:
            raise InputError(
                f"'{word.strip()}' is not a whole number from 1 to {_MOST_DEVICES:,}",
                where="--devices",
                remedy="Write e.g. 1000,2000,5000,10000",
            )
        counts.append(int(word))
    return sorted(set(counts))


class Sweep:
    """One project on any number of one chip, each number priced once."""

    def __init__(self, network: Network, workload: Workload, tokens: float, chip: Chip, fleet: Fleet) -> None:
        self.network, self.workload, self.tokens, self.chip, self.fleet = network, workload, tokens, chip, fleet
        self._priced: dict[int, Priced | None] = {}

    def on(self, devices: int) -> Priced | None:
        """Exactly so many devices, with the global batch near the project's that they work through fastest."""
        if devices not in self._priced:
            found = [self._with_batch(devices, batch) for batch in _batches(self.workload.global_batch, devices)]
            self._priced[devices] = min(filter(None, found), key=_days, default=None)
        return self._priced[devices]

    def _with_batch(self, devices: int, batch: int) -> Priced | None:
        workload = replace(self.workload, global_batch=batch)
        return on_devices(self.network, workload, self.tokens, self.chip, self.fleet, devices)

    def over(self, counts: list[int]) -> list[dict[str, Any]]:
        """The fastest use of up to so many devices, a row for each: what the batch cannot feed stays idle."""
        rows, best = [], None
        for devices in counts:
            found = [self.on(devices - devices % part) for part in _PARTS if devices >= part]
            if not any(found):
                found = [self.on(one) for one in feedable(self.network, self.workload, devices)[-_SIZES_TRIED:]]
            best = min(filter(None, [*found, best]), key=_days, default=None)
            rows.append({"devices": devices} | ({"unfit": "no layout fits"} if best is None else _row(best)))
        return rows

    def within(self, budget: float | None, deadline: float | None) -> dict[str, Any]:
        """What fits: the fewest devices for the deadline, the most tokens and the best model for the money.

        Raises InputError where no number of devices meets the deadline, or nobody knows the price.
        """
        fleet = self._fewest(deadline) if deadline else self.on(self.fleet.devices)
        if fleet is None:
            raise InputError(
                f"no layout of {self.fleet.devices:,} {self.chip.name} fits the project",
                where="fleet.devices",
                remedy="Give --deadline, and plan finds how many devices it takes; or another number of them",
            )
        found: dict[str, Any] = {"budget": budget, "deadline_days": deadline, "fleet": _row(fleet)}
        if budget is None:
            return found
        if not fleet.run.cost:
            raise InputError(
                f"the catalogue does not know the price of {self.chip.name}",
                where="--budget",
                remedy="Set fleet.price_per_device_hour",
            )
        share = budget / fleet.run.cost
        flops = share * self.network.training_flops_per_token(self.workload.sequence) * self.tokens
        parameters, tokens = REFIT.optimum(flops)
        return found | {
            "fits": share >= 1,
            "tokens": share * self.tokens,
            "flops": flops,
            "best_model": {
                "parameters": parameters,
                "tokens": tokens,
                "loss": REFIT.loss(parameters, tokens),
                "source": f"{REFIT.name}, at this layout's price per FLOP",
            },
        }

    def _fewest(self, deadline: float) -> Priced:
        """The smallest number of devices that meets the deadline."""
        assert self.chip.bf16_tflops is not None
        flops = self.network.training_flops_per_token(self.workload.sequence) * self.tokens
        at_peak = flops / (self.chip.bf16_tflops * 1e12 * deadline * 86400)
        most = min(_MOST_DEVICES, math.ceil(at_peak / _SLOWEST_MFU))
        fewest = at_peak / _BEST_MFU
        steps = (fewest * (most / fewest) ** (step / _SIZES_SOLVED) for step in range(_SIZES_SOLVED + 1))
        for size in sorted({one for step in steps for one in _near(step)}):
            if (priced := self.on(size)) and _days(priced) <= deadline:
                return priced
        found = [priced for priced in self._priced.values() if priced]
        fastest = min(found, key=_days, default=None)
        could = f": the fastest found takes {duration(_days(fastest) * 86400)}" if fastest else ""
        raise InputError(
            f"no number of {self.chip.name} meets it with a batch of {self.workload.global_batch:,} sequences{could}",
            where="--deadline",
            remedy="Raise train.global_batch, lower train.tokens, or allow more time",
        )


def _days(priced: Priced) -> float:
    return priced.run.calendar_days


def _batches(near: int, devices: int) -> list[int]:
    """Global batches within a tenth of `near` that divide over the devices in some way, nearest first."""
    ranks = [devices // part for part in (1, 2, 4, 8, 16, 32, 64, 128) if devices % part == 0]
    whole = {near, *(rank * max(1, round(near / rank)) for rank in ranks)}
    close = sorted((abs(one / near - 1), one) for one in whole)
    return [one for apart, one in close if apart <= _BATCH_MAY_DIFFER][:_BATCHES_TRIED]


def _near(devices: float) -> set[int]:
    """Numbers of devices just above that divide well: whole nodes, and groups of them in large fleets."""
    return {part * math.ceil(devices / part) for part in _PARTS if devices >= 8 * part or part == 1}


def _row(priced: Priced) -> dict[str, Any]:
    run = priced.run
    return {
        "used": priced.problem.devices,
        "global_batch": priced.problem.workload.global_batch,
        "days": run.days,
        "calendar_days": run.calendar_days,
        "mfu": priced.mfu,
        "goodput": run.goodput,
        "device_hours": run.device_hours,
        "cost": run.cost,
        "energy_mwh": run.energy_mwh,
        "layout": priced.layout.model_dump(mode="json"),
    }


def sweep(project: Project, devices: str | None, budget: str | None, deadline: str | None) -> dict[str, Any]:
    """The sweep over `devices` and what fits `budget` and `deadline`, as typed; raises InputError naming the field."""
    counts = device_counts(devices) if devices else []
    money_given, time_given = dollars(budget) if budget else None, days(deadline) if deadline else None
    if project.fleet.device == THIS_MACHINE:
        raise InputError(
            "there is only one of this machine", where="fleet.device", remedy="Add e.g. --set 'fleet.device=H100 SXM'"
        )
    shape = shape_of(project.model)
    tokens = training_tokens(project, shape)
    chip = chip_named(project.fleet.device)
    fleets = Sweep(network_of(shape), workload_of(project), tokens, chip, project.fleet)
    found: dict[str, Any] = {"device": chip.name, "tokens": tokens}
    if counts:
        found["sweep"] = fleets.over(counts)
    if budget or deadline:
        found["solved"] = fleets.within(money_given, time_given)
    return found


def render(found: dict[str, Any]) -> RenderableType:
    """The sweep as a table, and what fits in a sentence."""
    parts: list[RenderableType] = []
    if "sweep" in found:
        columns = ("devices", "used", "batch", "days", "MFU", "goodput", "device-hours", "money", "MWh")
        table = Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 0), title_justify="left")
        table.title = f"{count(found['tokens'])} tokens on {found['device']}"
        for row in found["sweep"]:
            table.add_row(f"{row['devices']:,}", *(_cells(row) if "used" in row else (row["unfit"],)))
        parts.append(table)
    if "solved" in found:
        parts.append(Text(_sentence(found["solved"])))
    return Group(*parts)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['used']:,}",
        f"{row['global_batch']:,}",
        f"{row['calendar_days']:,.1f}",
        f"{row['mfu']:.0%}",
        f"{row['goodput']:.0%}",
        count(row["device_hours"]),
        money(row["cost"]) if row["cost"] else "unknown",
        f"{row['energy_mwh']:,.0f}" if row["energy_mwh"] else "unknown",
    )


def _sentence(found: dict[str, Any]) -> str:
    """What fits, in a sentence or two."""
    fleet = found["fleet"]
    cost = f" and {money(fleet['cost'])}" if fleet["cost"] else ""
    text = f"{fleet['used']:,} devices take {duration(fleet['calendar_days'] * 86400)}{cost} for the whole project."
    if "tokens" in found:
        best = found["best_model"]
        verb = "covers it: it would buy" if found["fits"] else "does not cover it: it buys"
        text += (
            f" {money(found['budget'])} {verb} {count(found['tokens'])} tokens of this model, or at its best "
            f"{count(best['parameters'])} parameters on {count(best['tokens'])} tokens."
        )
    return text
