"""`wingspan plan` and its verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    from wingspan.plan.layouts.sweep import render, sweep
    from wingspan.project_file import load_project

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
    from wingspan.console import output, print_json
    from wingspan.plan.screens.terminal import render_derivation, render_names
    from wingspan.plan.stage import explain_run
    from wingspan.workspace import find_run

    if name is not None and project == Path(".") and (only := Path(name)).exists():  # `plan explain PROJECT`: its names
        name, project = None, only
    explaining = explain_run(find_run(project, overrides or (), runs))
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
    from wingspan.plan.layouts.rivals import render, rivals
    from wingspan.project_file import load_project

    found = rivals(load_project(project, overrides or ()), wide=wide)
    print_json(found) if json_ else output.print(render(found))


@command(app.plan, "backtest")
def backtest(
    file: Annotated[Path, typer.Argument(metavar="RUNS.csv", help="Measured runs; docs/plan.md names the columns.")],
    leave_out: Annotated[
        str | None, typer.Option("--leave-out", metavar="KIND", help="Fit on the rest first: family, device or scale.")
    ] = None,
    calibrate_: Annotated[
        Path | None, typer.Option("--calibrate", metavar="FILE", help="Write what these runs teach, for plan to use.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", metavar="FILE", help="Start from this, or from 'none'.")
    ] = None,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """How wrong is the planner on runs that somebody measured? And what do they teach it?

    Example: wingspan plan backtest mine.csv --calibrate mine.json
    """
    from wingspan.console import output, print_json
    from wingspan.plan.published.backtest import back_test, calibrate, leave_out_named
    from wingspan.plan.published.backtest_tables import render_backtest
    from wingspan.plan.published.runs import columns_of, read_runs
    from wingspan.plan.published.wholeruns import backtest_whole_runs, is_whole_runs, render_whole_runs
    from wingspan.plan.step.calibration import named, write_calibration

    if is_whole_runs(columns_of(file)):
        found = backtest_whole_runs(file)
        return print_json(found) if json_ else output.print(render_whole_runs(found))
    base = named(calibration)
    if calibrate_ is not None:
        base = calibrate(read_runs(file)[0], base)
        write_calibration(calibrate_, base)
    report = back_test(file, base, leave_out_named(leave_out)).as_json()
    print_json(report) if json_ else output.print(render_backtest(report))
