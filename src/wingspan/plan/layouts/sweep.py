"""The same project on other numbers of devices, and what a budget of money or days would allow."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wingspan.errors import InputError
from wingspan.figures import within
from wingspan.model.shape import shape_of
from wingspan.plan.devices.chips import THIS_MACHINE, Chip, chip_named
from wingspan.plan.fleet import Priced, price_layout
from wingspan.plan.laptop import training_tokens
from wingspan.plan.layouts.choice import fastest, problem_of
from wingspan.plan.step.grid import Workload, workload_of
from wingspan.plan.step.network import Network, network_of
from wingspan.plan.whole.quality import REFIT
from wingspan.project import Fleet, Project
from wingspan.units import count, duration, money

AT_SCALE_CHIP = "H100 SXM"
AT_SCALE_DEVICES = 10_000
_AT_SCALE_DAYS = 30.0
_AT_SCALE_MFU = 0.38  # lower end of what Llama 3 reports on 8,192 to 16,384 H100 (arXiv 2407.21783)

_PARTS = (1024, 256, 64, 8, 1)  # a fleet is used in multiples of these: odd numbers divide into poor layouts
_BATCH_MAY_DIFFER, _BATCHES_TRIED = 0.1, 3  # from the project's
_SIZES_SOLVED = 40  # steps between the fewest and the most devices that could meet a deadline
_MOST_DEVICES = 1_000_000
_BEST_MFU, _SLOWEST_MFU = 0.75, 0.10  # no run was ever faster; slower ones are not sought

_AMOUNT = re.compile(r"\s*\$?\s*([-+]?[\d_,]*\.?\d+(?:e[-+]?\d+)?|nan|[-+]?inf)\s*([a-z$]*)\s*", re.IGNORECASE)
_MONEY = {"": 1.0, "usd": 1.0, "$": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "million": 1e6, "billion": 1e9}
_DAYS = {"": 1.0, "d": 1.0, "days": 1.0, "h": 1 / 24, "hours": 1 / 24, "w": 7.0, "weeks": 7.0, "months": 30.44}
_MOST_MONEY, _LONGEST = 1e13, 36_525.0  # dollars: the world does not spend more on it; a century of days


def dollars(text: str) -> float:
    """`5e6`, `5M`, `$5,000,000`; raises InputError for what is no amount of money."""
    return _amount(text, "--budget", _MONEY, _MOST_MONEY, "e.g. 5e6, 5M or '$5,000,000'")


def days(text: str) -> float:
    """`30d`, `12h`, `6w`; raises InputError for what is no time."""
    return _amount(text, "--deadline", _DAYS, _LONGEST, "e.g. 30d, 12h or 6w")


def _amount(text: str, where: str, units: dict[str, float], most: float, example: str) -> float:
    match = _AMOUNT.fullmatch(text)
    scale = units.get(match[2].lower()) if match else None
    if match is None or scale is None:
        known = ", ".join(unit for unit in units if unit)
        raise InputError(f"'{text}' is not a number with a unit of {known}", where=where, remedy=f"Write {example}")
    value = float(re.sub("[_,]", "", match[1])) * scale
    if not 0 < value <= most:
        problem = "is not above zero" if value <= 0 else "is no amount that could be meant"
        raise InputError(f"'{text}' {problem}", where=where, remedy=f"Write {example}")
    return value


def device_counts(text: str) -> list[int]:
    """`1000,2000,5000`; raises InputError for what is no list of whole numbers above zero."""
    words = text.split(",")
    for word in words:
        if not re.fullmatch(r"\s*\d[\d_]*\s*", word) or not 0 < int(word) <= _MOST_DEVICES:
            problem = f"'{word.strip()}' is not a whole number from 1 to {_MOST_DEVICES:,}"
            raise InputError(problem, where="--devices", remedy="Write e.g. 1000,2000,5000,10000")
    return sorted({int(word) for word in words})


@dataclass
class Sweep:
    """One project on any number of one chip, each number priced once."""

    network: Network
    workload: Workload
    tokens: float
    chip: Chip
    fleet: Fleet
    _priced: dict[int, Priced | None] = field(default_factory=dict)

    def on(self, devices: int) -> Priced | None:
        """Exactly so many devices in their fastest layout, with the global batch near the project's that suits them."""
        if devices not in self._priced:
            found = [self._with_batch(devices, batch) for batch in _batches(self.workload.global_batch, devices)]
            self._priced[devices] = min(filter(None, found), key=_days, default=None)
        return self._priced[devices]

    def _with_batch(self, devices: int, batch: int) -> Priced | None:
        fleet = self.fleet.model_copy(update={"devices": devices})
        problem = problem_of(self.network, replace(self.workload, global_batch=batch), self.chip, fleet)
        layout = fastest(problem)
        return price_layout(problem, layout, self.tokens, fleet) if layout else None

    def up_to(self, devices: int) -> Priced | None:
        """The fastest use of up to so many devices.

        A batch of B sequences feeds at most B data-parallel ranks, so a small project leaves a large fleet idle:
        where all cannot be used, ever smaller halves of them are tried.
        """
        for halved in range(devices.bit_length()):
            most = devices >> halved
            found = [self.on(most - most % part) for part in _PARTS if most >= part]
            if any(found):
                found += [self.on(most >> more) for more in (1, 2, 3) if halved and most >> more]
                return min(filter(None, found), key=_days)
        return None

    def over(self, counts: list[int]) -> list[dict[str, Any]]:
        """A row for each number of devices, never slower than with fewer."""
        rows, best = [], None
        for devices in counts:
            best = min(filter(None, [self.up_to(devices), best]), key=_days, default=None)
            rows.append({"devices": devices} | ({"unfit": "no layout fits"} if best is None else _row(best)))
        return rows

    def within(self, budget: float | None, deadline: float | None) -> dict[str, Any]:
        """What fits: the fewest devices for the deadline, the most tokens and the best model for the money.

        Raises InputError where no number of devices meets the deadline, or nobody knows the price.
        """
        fleet = self._fewest(deadline) if deadline else self.up_to(self.fleet.devices)
        if fleet is None:
            problem = f"no layout of {self.fleet.devices:,} {self.chip.name} fits the project"
            raise InputError(problem, where="fleet.devices", remedy="Give --deadline, and plan finds how many it takes")
        found: dict[str, Any] = {"budget": budget, "deadline_days": deadline, "fleet": _row(fleet)}
        if budget is None:
            return found
        if not fleet.run.cost:
            problem = f"the catalogue does not know the price of {self.chip.name}"
            raise InputError(problem, where="--budget", remedy="Set fleet.price_per_device_hour")
        share = budget / fleet.run.cost
        best_model = _best_model(share * self._flops)
        return found | {"fits": share >= 1, "tokens": share * self.tokens, "best_model": best_model}

    @property
    def _flops(self) -> float:
        return self.network.training_flops_per_token(self.workload.sequence) * self.tokens

    def _fewest(self, deadline: float) -> Priced:
        """The smallest number of devices that meets the deadline."""
        assert self.chip.bf16_tflops is not None
        at_peak = self._flops / (self.chip.bf16_tflops * 1e12 * deadline * 86400)
        steps = np.geomspace(at_peak / _BEST_MFU, at_peak / _SLOWEST_MFU, _SIZES_SOLVED)
        sizes = {part * math.ceil(step / part) for step in steps for part in _PARTS if step >= 8 * part or part == 1}
        for size in sorted(size for size in sizes if size <= _MOST_DEVICES):
            if (priced := self.on(size)) and _days(priced) <= deadline:
                return priced
        fastest = min(filter(None, self._priced.values()), key=_days, default=None)
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
    ranks = [devices >> power for power in range(8) if devices % (1 << power) == 0]
    whole = {near, *(rank * max(1, round(near / rank)) for rank in ranks)}
    close = [batch for batch in whole if abs(batch / near - 1) <= _BATCH_MAY_DIFFER]
    return sorted(close, key=lambda batch: abs(batch - near))[:_BATCHES_TRIED]


def _best_model(flops: float) -> dict[str, Any]:
    """The model and tokens of the lowest loss that so much computing buys."""
    parameters, tokens = REFIT.optimum(flops)
    loss = REFIT.loss(parameters, tokens)
    return {"flops": flops, "parameters": parameters, "tokens": tokens, "loss": loss, "source": REFIT.name}


def _row(priced: Priced) -> dict[str, Any]:
    names = ("days", "calendar_days", "goodput", "device_hours", "cost", "energy_mwh")
    return {
        "used": priced.problem.devices,
        "global_batch": priced.problem.workload.global_batch,
        "mfu": priced.mfu,
        **{name: getattr(priced.run, name) for name in names},
        "layout": priced.layout.model_dump(mode="json"),
    }


def at_scale(network: Network, workload: Workload, tokens: float, chip: Chip, fleet: Fleet) -> dict[str, Any]:
    """The same project on 10,000 H100, and what such a fleet could train in 30 days."""
    own = fleet.model_copy(update={"devices_per_node": 8, "price_per_device_hour": None})
    best = Sweep(network, workload, tokens, chip, own).up_to(AT_SCALE_DEVICES)
    assert chip.bf16_tflops is not None
    flops = AT_SCALE_DEVICES * chip.bf16_tflops * 1e12 * _AT_SCALE_MFU * _AT_SCALE_DAYS * 86400
    could_train = {"days": _AT_SCALE_DAYS, "mfu": _AT_SCALE_MFU} | _best_model(flops)
    scale = {"device": chip.name, "fleet_devices": AT_SCALE_DEVICES, "could_train": could_train}
    if best is None:
        return scale
    band = best.problem.band
    seconds = within(best.run.steps * best.step_s, "s", (band.low, band.high), band.behind)
    return best.as_json() | {"wall_s": seconds.as_json()} | scale


def sweep(project: Project, devices: str | None, budget: str | None, deadline: str | None) -> dict[str, Any]:
    """The sweep over `devices` and what fits `budget` and `deadline`, as typed; raises InputError naming the field."""
    counts = device_counts(devices) if devices else []
    money_given, time_given = dollars(budget) if budget else None, days(deadline) if deadline else None
    if project.fleet.device == THIS_MACHINE:
        remedy = "Add e.g. --set 'fleet.device=H100 SXM'"
        raise InputError("there is only one of this machine", where="fleet.device", remedy=remedy)
    shape = shape_of(project.model)
    chip, tokens = chip_named(project.fleet.device), training_tokens(project, shape)
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
        title = f"{count(found['tokens'])} tokens on {found['device']}"
        table = Table(*columns, title=title, box=None, header_style="dim", padding=(0, 2, 0, 0), title_justify="left")
        for row in found["sweep"]:
            table.add_row(f"{row['devices']:,}", *(_cells(row) if "used" in row else [row["unfit"]]))
        parts.append(table)
    if "solved" in found:
        parts.append(Text(_sentence(found["solved"])))
    return Group(*parts)


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [f"{row['used']:,}", f"{row['global_batch']:,}", f"{row['calendar_days']:,.1f}"]
    cells += [f"{row['mfu']:.0%}", f"{row['goodput']:.0%}", count(row["device_hours"])]
    cells.append(money(row["cost"]) if row["cost"] else "unknown")
    return [*cells, f"{row['energy_mwh']:,.0f}" if row["energy_mwh"] else "unknown"]


def _sentence(found: dict[str, Any]) -> str:
    fleet = found["fleet"]
    cost = f" and {money(fleet['cost'])}" if fleet["cost"] else ""
    text = f"{fleet['used']:,} devices take {duration(fleet['calendar_days'] * 86400)}{cost} for the whole project."
    if "tokens" in found:
        best = found["best_model"]
        verb = "covers it: it would buy" if found["fits"] else "does not cover it: it buys"
        text += f" {money(found['budget'])} {verb} {count(found['tokens'])} tokens of this model, or at its best "
        text += f"{count(best['parameters'])} parameters on {count(best['tokens'])} tokens."
    return text
