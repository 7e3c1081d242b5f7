"""The plan stage: plan.json, layout.json, plan.html and the launch files of a project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wingspan import assets
from wingspan.launch.files import write_launch_files
from wingspan.model.shape import ModelShape, shape_of
from wingspan.plan.devices.chips import THIS_MACHINE, Chip, chip_named, this_machine
from wingspan.plan.devices.machine import Measurement, measure, nominal
from wingspan.plan.fleet import Priced, chips_side_by_side, price_layout
from wingspan.plan.laptop import predict_stages, training_tokens
from wingspan.plan.layouts.choice import Choice, Problem, check, choose, problem_of
from wingspan.plan.layouts.sweep import AT_SCALE_CHIP, at_scale
from wingspan.plan.screens.explain import Explainer
from wingspan.plan.screens.explore import explore
from wingspan.plan.screens.sentence import sentence
from wingspan.plan.step.grid import Workload, workload_of
from wingspan.plan.step.network import Network, network_of
from wingspan.plan.whole.quality import quality
from wingspan.plan.whole.serving import serving
from wingspan.plan.whole.wholerun import FAILURES
from wingspan.project import Layout, Project
from wingspan.workspace import Run, StageContext

_BYTES_PER_DOCUMENT = 130  # of a microblog post with its ids, as text files hold it


def work(context: StageContext) -> dict[str, Any]:
    """Plan the project; returns its key figures. Raises InputError for a layout or a fleet that cannot be."""
    project = context.project
    shape = shape_of(project.model)
    with context.progress.task("plan", 4) as task:
        layout, choice = decide_layout(project, shape)
        task.advance(note="layout chosen" if choice else "layout checked")
        if project.fleet.device != THIS_MACHINE:
            context.progress.say(first_answer(project, shape, layout))
        measurement = measure(torch=project.fleet.device == THIS_MACHINE)
        task.advance(note="machine measured")
        explaining = explainer(project, context.run.base, measurement, layout, choice)
        own_cost = explaining.plan["fleet"].get("cost", {}).get("value")
        plan = explaining.plan | other_fleets(project, shape, own_cost)
        task.advance(note="fleets priced")
        _write(context.output, project, layout, plan)
        _write_page(context.output, project, layout, measurement, plan, explaining)
        task.advance(note="written")
    return _summary(plan)


def decide_layout(project: Project, shape: ModelShape) -> tuple[Layout, Choice | None]:
    """The layout the project gives, checked; else the fastest that fits, with how it was chosen.

    On this machine the choice rests on nominal rates, so that the same project always gets the same layout.
    """
    on_this_machine = project.fleet.device == THIS_MACHINE
    chip = this_machine(nominal()) if on_this_machine else chip_named(project.fleet.device)
    problem = problem_of(network_of(shape), workload_of(project), chip, project.fleet)
    if project.layout is not None:
        check(problem, project.layout)
        return project.layout, None
    choice = choose(problem)
    return choice.layout, choice


def first_answer(project: Project, shape: ModelShape, layout: Layout) -> str:
    """The sentence of a fleet's plan, before this machine is measured and other chips are priced."""
    tokens = training_tokens(project, shape)
    fleet = _price(project, network_of(shape), workload_of(project), layout, tokens, nominal())
    return sentence({"model": _model(shape, project, tokens), "fleet": fleet.as_json()})


def explainer(
    project: Project, base: Path, measurement: Measurement, layout: Layout, choice: Choice | None
) -> Explainer:
    """The plan of a project's own fleet, with the derivation of every number."""
    shape, text_bytes = shape_of(project.model), _text_bytes(project, base)
    return Explainer(lambda: own_plan(project, shape, measurement, layout, choice, text_bytes))


def explain_run(run: Run) -> Explainer:
    """The plan of a run made again; this machine, where it matters, as the run's plan found it, or as it is now."""
    file = run.stage("plan") / "plan.json"
    machine = nominal()
    if file.is_file():
        machine = Measurement(**json.loads(file.read_text(encoding="utf-8"))["machine"])
    elif run.project.fleet.device == THIS_MACHINE:
        machine = measure()
    layout, choice = decide_layout(run.project, shape_of(run.project.model))
    return explainer(run.project, run.base, machine, layout, choice)


def other_fleets(project: Project, shape: ModelShape, own_cost: float | None) -> dict[str, Any]:
    """The same project on 10,000 H100, and on as many of every chip as its fleet, which costs `own_cost`, has."""
    problem = (network_of(shape), workload_of(project), training_tokens(project, shape))
    return {
        "at_scale": at_scale(*problem, chip_named(AT_SCALE_CHIP), project.fleet),
        "chips": chips_side_by_side(*problem, project.fleet, own_cost),
    }


def own_plan(
    project: Project,
    shape: ModelShape,
    measurement: Measurement,
    layout: Layout,
    choice: Choice | None,
    text_bytes: int | None,
) -> dict[str, Any]:
    """The plan of the project's own fleet as JSON."""
    network, workload = network_of(shape), workload_of(project)
    tokens = training_tokens(project, shape)
    fleet = _price(project, network, workload, layout, tokens, measurement)
    flops = network.training_flops_per_token(workload.sequence) * tokens
    scratch = project.model.start == "scratch"
    weight_bytes = 2.0 if project.serve.weights == "f16" else 1.0
    documents = None if text_bytes is None else text_bytes // _BYTES_PER_DOCUMENT
    plan: dict[str, Any] = {
        "project": project.project.name,
        "machine": measurement.as_json(),
        "model": _model(shape, project, tokens),
        "layout_source": "chosen" if choice else "given",
        "fleet": fleet.as_json(),
        "quality": quality(shape.active_parameters, tokens, flops, from_scratch=scratch, text_bytes=text_bytes),
        "serving": serving(
            network, fleet.problem.chip, project.serve.traffic, project.fleet.devices_per_node, weight_bytes
        ),
        "failure_rates": FAILURES,
    }
    if choice:
        plan["choice"] = {
            "weighed": choice.weighed,
            "fitting": choice.fitting,
            "runner_up": choice.runner_up.model_dump(mode="json") if choice.runner_up else None,
            "reason": choice.reason,
        }
    if project.fleet.device == THIS_MACHINE:
        plan["this_machine"] = {"stages": predict_stages(project, shape, layout, measurement, documents)}
    return plan | {"sentence": sentence(plan)}


def _price(
    project: Project, network: Network, workload: Workload, layout: Layout, tokens: int, measurement: Measurement
) -> Priced:
    chip: Chip = this_machine(measurement) if project.fleet.device == THIS_MACHINE else chip_named(project.fleet.device)
    problem: Problem = problem_of(network, workload, chip, project.fleet)
    return price_layout(problem, layout, tokens, project.fleet, project.train.keep_checkpoints)


def _write_page(
    folder: Path,
    project: Project,
    layout: Layout,
    measurement: Measurement,
    plan: dict[str, Any],
    explaining: Explainer,
) -> None:
    from wingspan.plan.screens.page import page  # its templates load after the first answer, not before

    shape = shape_of(project.model)
    tokens = training_tokens(project, shape)
    own = _price(project, network_of(shape), workload_of(project), layout, tokens, measurement)
    (folder / "plan.html").write_text(page(plan, explore(own, tokens), explaining), encoding="utf-8")


def _model(shape: ModelShape, project: Project, tokens: int) -> dict[str, Any]:
    return {
        "architecture": shape.architecture,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "vocab": shape.vocab,
        "tokens": tokens,
        "tokens_source": "project file" if project.train.tokens else "20 per active parameter (Hoffmann et al. 2022)",
    }


def _text_bytes(project: Project, base: Path) -> int | None:
    """Bytes of the posts' sources; None where one is not on this machine yet, or there are none."""
    found = 0
    for source in project.prepare.posts:
        if (path := _local(source.path, base)) is None:
            return None
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        found += sum(one.stat().st_size for one in files)
    return found or None


def _local(spec: str, base: Path) -> Path | None:
    """The path of a source that is here already; planning fetches nothing."""
    path = assets.cached(spec) if assets.asset_name(spec) else assets.resolve(spec, base)
    return path if path is not None and path.exists() else None


def _write(folder: Path, project: Project, layout: Layout, plan: dict[str, Any]) -> None:
    record = {
        "layout": layout.model_dump(mode="json"),
        "source": plan["layout_source"],
        "device": project.fleet.device,
        "devices": project.fleet.devices,
    }
    (folder / "layout.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(plan, indent=1), encoding="utf-8")
    write_launch_files(project, layout, folder / "launch")


def _summary(plan: dict[str, Any]) -> dict[str, Any]:
    """The figures a person asks for first."""
    fleet = plan["fleet"]
    names = ("step_s", "tokens_per_s", "mfu", "memory_bytes", "days", "device_hours", "goodput", "energy_mwh", "cost")
    summary = {name: fleet[name]["value"] for name in names if name in fleet}
    return {"answer": plan["sentence"], "layout": fleet["layout"], "layout_source": plan["layout_source"], **summary}
