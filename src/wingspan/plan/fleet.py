"""A project priced on a fleet: layout, memory, step, whole run, as one JSON object."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from wingspan.errors import InputError
from wingspan.figures import Figure, predicted, within
from wingspan.plan.devices.chips import Chip, catalogue
from wingspan.plan.layouts.choice import Problem, choose, fastest, problem_of
from wingspan.plan.layouts.search import COMPUTING
from wingspan.plan.step import steptime
from wingspan.plan.step.grid import Grid, Workload
from wingspan.plan.step.network import Network
from wingspan.plan.whole.wholerun import FAILURE_SOURCE, FAILURES, WholeRun, whole_run
from wingspan.project import Fleet, Layout

MEMORY_ERROR = 0.28  # half-width of the 90% band, from the back-test (docs/plan.md)


@dataclass(frozen=True)
class Priced:
    """A layout on a fleet and what it takes."""

    problem: Problem
    fleet: Fleet
    layout: Layout
    memory: dict[str, float]
    step: dict[str, float]
    run: WholeRun

    @property
    def step_s(self) -> float:
        """Seconds of one optimizer step."""
        return sum(self.step.values())

    @property
    def tokens_per_s(self) -> float:
        """Of the whole fleet."""
        return self.problem.workload.tokens / self.step_s

    @property
    def mfu(self) -> float:
        """Model FLOPs of a step over what the fleet could do at its bf16 peak in that time."""
        workload = self.problem.workload
        flops = self.problem.network.training_flops_per_token(workload.sequence) * workload.tokens
        return flops / self._peak_flops

    @property
    def hfu(self) -> float:
        """The same with the recomputed FLOPs."""
        problem = self.problem
        flops = steptime.hardware_flops(problem.network, Grid.of(self.layout), problem.workload)
        return float(flops[0]) / self._peak_flops

    @property
    def memory_by_stage(self) -> dict[str, list[float]]:
        """Bytes per item on a device of every pipeline stage, the first stage first."""
        return {name: values.tolist() for name, values in self.problem.memory_by_stage(Grid.of(self.layout)).items()}

    @property
    def price_source(self) -> str:
        """Where the price of a device-hour comes from."""
        chip = self.problem.chip
        return (
            "price of the project file"
            if self.fleet.price_per_device_hour
            else dated(chip.price_source, chip.price_date)
        )

    @property
    def _peak_flops(self) -> float:
        assert self.problem.chip.bf16_tflops is not None
        return self.step_s * self.problem.devices * self.problem.chip.bf16_tflops * 1e12

    def as_json(self) -> dict[str, Any]:
        """Every figure, and the items that make up memory and step."""
        network, workload, chip = self.problem.network, self.problem.workload, self.problem.chip
        return {
            "device": chip.name,
            "devices": self.problem.devices,
            "layout": self.layout.model_dump(mode="json"),
            "parameters": network.parameters,
            "flops_per_token": network.training_flops_per_token(workload.sequence),
            "tokens_per_step": workload.tokens,
            "sequence": workload.sequence,
            "global_batch": workload.global_batch,
            "micro_batches": int(Grid.of(self.layout).micro_batches(workload)[0]),
            "steps": self.run.steps,
            "step_items_s": self.step,
            "memory_items_bytes": self.memory,
            "memory_by_stage_bytes": self.memory_by_stage,
            "device_memory_bytes": chip.memory_bytes,
            "energy_items_mwh": self.run.energy_items_mwh,
            "owned_items_usd": self.run.owned_items_usd,
            **{name: figure.as_json() for name, figure in self._figures().items()},
        }

    def _figures(self) -> dict[str, Figure]:
        chip, run, band = self.problem.chip, self.run, self.problem.band
        slower, faster = (band.low, band.high), (1 / band.high, 1 / band.low)
        of_step = {
            "step_s": within(self.step_s, "s", slower, band.behind),
            "tokens_per_s": within(self.tokens_per_s, "tokens/s", faster, band.behind),
            "mfu": within(self.mfu, "share", faster, "causal attention, of the dense bf16 peak"),
            "hfu": within(self.hfu, "share", faster, "the same with recomputed work"),
            "memory_bytes": predicted(sum(self.memory.values()), "B", error=MEMORY_ERROR),
        }
        sources = {
            "cost": self.price_source,
            "cost_on_demand": dated(chip.price_source, chip.price_date),
            "cost_reserved": dated(chip.reserved_source, chip.reserved_date),
            "cost_owned": dated(chip.purchase_source, chip.purchase_date),
            "watts_per_device": chip.wall_source,
        }
        of_run = {
            one.name: Figure(
                value,
                one.metadata["unit"],
                "predicted",
                sources.get(one.name) or one.metadata["source"],
                *(value * share for share in one.metadata["band"]),
            )
            for one in fields(run)
            if one.metadata and (value := getattr(run, one.name)) is not None
        }
        return of_step | of_run | {"failures": self._failures()}

    def _failures(self) -> Figure:
        """Interruptions of the run; the band is what other published runs and clusters would make of it."""
        run, given = self.run, self.fleet.failures_per_million_device_hours
        if given:
            return predicted(run.failures, "", error=0.3, source="rate of the project file")
        per_rate = run.failures / FAILURES[FAILURE_SOURCE]
        low, high = min(FAILURES.values()), max(FAILURES.values())
        return Figure(run.failures, "", "predicted", FAILURE_SOURCE, low * per_rate, high * per_rate)


def busy_share(step: dict[str, float]) -> float:
    """Share of a step in which the device computes rather than waits."""
    return sum(step[name] for name in COMPUTING) / sum(step.values())


def dated(source: str, date: str) -> str:
    """A source with its date, where one is known."""
    return ", ".join(filter(None, (source, date)))


def price_layout(problem: Problem, layout: Layout, tokens: float, fleet: Fleet, kept_checkpoints: int = 2) -> Priced:
    """Everything about one layout of a problem."""
    grid = Grid.of(layout)
    memory = {name: float(values[0]) for name, values in problem.memory(grid).items()}
    step = {name: float(values[0]) for name, values in problem.step_time(grid).items()}
    step_s = sum(step.values())
    run = whole_run(
        tokens=tokens,
        tokens_per_step=problem.workload.tokens,
        step_s=step_s,
        busy=busy_share(step),
        parameters=problem.network.parameters,
        chip=problem.chip,
        fleet=fleet,
        kept_checkpoints=kept_checkpoints,
    )
    return Priced(problem, fleet, layout, memory, step, run)


def chips_side_by_side(
    network: Network, workload: Workload, tokens: float, fleet: Fleet, own_cost: float | None
) -> list[dict[str, Any]]:
    """The same project on every chip of the catalogue, as many devices each; what is unknown stays out.

    `own_cost` is what the project's own fleet costs: at the break-even price a chip costs as much.
    """
    return [_on_chip(network, workload, tokens, fleet, own_cost, chip) for chip in catalogue()]


def _on_chip(
    network: Network, workload: Workload, tokens: float, fleet: Fleet, own_cost: float | None, chip: Chip
) -> dict[str, Any]:
    row: dict[str, Any] = {"device": chip.name, "source": chip.source, "source_date": chip.source_date}
    row |= {"availability": chip.availability, "memory_gb": chip.memory_gb, "bf16_tflops": chip.bf16_tflops}
    own = fleet.model_copy(update={"price_per_device_hour": None})
    problem = problem_of(network, workload, chip, own)
    try:
        layout = fastest(problem) or choose(problem).layout  # which says why there is none
    except InputError as error:
        return row | {"unknown": error.problem}
    priced = price_layout(problem, layout, tokens, own)
    return row | {
        "days": priced.run.days,
        "mfu": priced.mfu,
        "memory_share": sum(priced.memory.values()) / chip.memory_bytes,
        "energy_mwh": priced.run.energy_mwh,
        "cost": priced.run.cost,
        "break_even_usd_per_hour": own_cost / priced.run.device_hours if own_cost else None,
        "cost_reserved": priced.run.cost_reserved,
        "cost_owned": priced.run.cost_owned,
        "price_source": chip.price_source,
        "price_date": chip.price_date,
        "purchase_source": dated(chip.purchase_source, chip.purchase_date),
        "power_source": chip.wall_source,
        "watts_per_device": priced.run.watts_per_device,
        "layout": layout.model_dump(mode="json"),
    }
