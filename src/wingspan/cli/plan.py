"""`wingspan plan` and its verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, command
from wingspan.cli.perform import one_stage


@command(app.plan, ITSELF)
def plan_project(
    project: ProjectPath = Path("."),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the page there.")] = None,
    devices: Annotated[str | None, typer.Option("--devices", metavar="N,N,...", help="Sweep fleets.")] = None,
    budget: Annotated[str | None, typer.Option("--budget", metavar="USD", help="What does 5e6 buy?")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", metavar="TIME", help="How many for 30d?")] = None,
    json_: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """What would it take? Machines, days, money, energy, memory. Needs no accelerator.

    Example: wingspan plan examples/frontier --devices 5000,10000,20000
    """
    from wingspan.workspace import find_run, write_atomically

    if devices or budget or deadline:
        return _sweep(project, overrides, devices, budget, deadline, json_)

    one_stage("plan", project, overrides, runs, json_, force)
    if html is not None:
        page = find_run(project, overrides or (), runs).stage("plan") / "plan.html"
        write_atomically(html, page.read_text(encoding="utf-8"))


def _sweep(
    project: Path,
    overrides: list[str] | None,
    devices: str | None,
    budget: str | None,
    deadline: str | None,
    json_: bool,
) -> None:
    """Other fleets, and what money or time would allow; writes nothing."""
    from wingspan.console import output, print_json
    from wingspan.plan.sweep import render, sweep
    from wingspan.project import load_project

    found = sweep(load_project(project, overrides or ()), devices, budget, deadline)
    print_json(found) if json_ else output.print(render(found))


@command(app.plan, "explain")
def explain(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A number; leave it out for a list.")] = None,
    project: Annotated[Path, typer.Argument(metavar="PROJECT", help="Project folder, file or run folder.")] = Path("."),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Why is a number of the plan what it is? Its formula, the values in it, and what they rest on.

    Example: wingspan plan explain goodput examples/frontier
    """
    from wingspan.cli.perform import perform
    from wingspan.console import output, print_json
    from wingspan.model.shape import shape_of
    from wingspan.plan.machine import Measurement
    from wingspan.plan.stage import decide_layout, explainer
    from wingspan.plan.terminal import render_derivation, render_names
    from wingspan.workspace import lock, open_run

    if name is not None and project == Path(".") and (only := Path(name)).exists():  # `plan explain PROJECT`: its names
        name, project = None, only
    run = open_run(project, overrides or (), runs)
    with lock(run, "wingspan plan"):
        perform(run, "plan", force=False, quiet=True)
    plan: dict[str, Any] = json.loads((run.stage("plan") / "plan.json").read_text(encoding="utf-8"))
    layout, choice = decide_layout(run.project, shape_of(run.project.model))
    explaining = explainer(run.project, run.base, Measurement(**plan["machine"]), layout, choice)
    if name is None:
        return print_json(explaining.figures) if json_ else output.print(render_names(explaining.figures))
    derivation = explaining.explain(name)
    print_json(derivation.as_json()) if json_ else output.print(render_derivation(derivation))


@command(app.plan, "layouts")
def layouts(
    project: ProjectPath = Path("."),
    overrides: Overrides = None,
    wide: Annotated[bool, typer.Option("--wide", help="Also what other software than train runs.")] = False,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Which layouts are worth having? The front of time against money and energy, and why the others are slower.

    Example: wingspan plan layouts examples/frontier --wide
    """
    from wingspan.console import output, print_json
    from wingspan.plan.rivals import render, rivals
    from wingspan.project import load_project

    found = rivals(load_project(project, overrides or ()), wide=wide)
    print_json(found) if json_ else output.print(render(found))
