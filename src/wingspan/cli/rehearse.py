"""`wingspan rehearse` and its verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, command
from wingspan.cli.perform import one_stage, perform


@command(app.rehearse, ITSELF)
def rehearse_project(
    project: ProjectPath = Path("."),
    devices: Annotated[int | None, typer.Option(min=1, help="Of the fleet, instead of fleet.devices.")] = None,
    ranks: Annotated[
        str | None, typer.Option(help="Only these: 'first,middle,last' or '7,4321'; nothing is kept.")
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Would it hold? The real training step of every kind of rank, on a fake fleet.

    Example: wingspan rehearse examples/frontier
    """
    settings = [*(overrides or ()), *([f"fleet.devices={devices}"] if devices else ())]
    if ranks is None:
        one_stage("rehearse", project, settings, runs, json_, force)
        return
    from wingspan.console import TerminalProgress, output, print_json
    from wingspan.rehearse.stage import rehearse_ranks
    from wingspan.rehearse.terminal import render
    from wingspan.workspace import lock, open_run

    run = open_run(project, settings, runs)
    with lock(run, "wingspan rehearse"):
        perform(run, "plan", force=False, quiet=True)
    with TerminalProgress("rehearse", None, quiet=json_) as progress:
        rehearsal = rehearse_ranks(run.project, run.stage("plan"), ranks, progress)
    if json_:
        print_json(rehearsal)
    else:
        output.print(render(rehearsal))


@command(app.rehearse, "goodput")
def rehearse_goodput(
    project: ProjectPath = Path("."),
    days: Annotated[float | None, typer.Option(help="Of clock; default: twice the undisturbed run.")] = None,
    seeds: Annotated[int, typer.Option(help="Lives.")] = 100,
    spares: Annotated[int | None, typer.Option(help="Spare nodes; default: as many as pay.")] = None,
    checkpoint_s: Annotated[float | None, typer.Option(help="Seconds between checkpoints; default: the best.")] = None,
    memory_checkpoints: Annotated[bool, typer.Option(help="A copy in other nodes' memory every minute.")] = False,
    elastic: Annotated[bool, typer.Option(help="Replicas carry on without the one that lost a node.")] = False,
    maintenance_every_days: Annotated[float, typer.Option(help="Days between planned windows; 0: none.")] = 0.0,
    maintenance_h: Annotated[float, typer.Option(help="Hours of a window.")] = 8.0,
    power_cap_kw: Annotated[float | None, typer.Option(help="Most the site may draw; slows every step.")] = None,
    failure_scale: Annotated[float, typer.Option(help="Your failure rate over the published one.")] = 1.0,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Months of the run in seconds: failures, restarts, spares; goodput, the calendar, the bill, with bands.

    Example: wingspan rehearse goodput examples/frontier --days 90 --elastic
    """
    import json

    from wingspan.console import output, print_json
    from wingspan.rehearse import campaign, months
    from wingspan.workspace import lock, open_run

    choices = campaign.Choices(
        days=days,
        seeds=seeds,
        spares=spares,
        checkpoint_s=checkpoint_s,
        memory_checkpoints=memory_checkpoints,
        elastic=elastic,
        maintenance_every_days=maintenance_every_days,
        maintenance_h=maintenance_h,
        power_cap_kw=power_cap_kw,
        failure_scale=failure_scale,
    )
    run = open_run(project, overrides or (), runs)
    with lock(run, "wingspan rehearse goodput"):
        perform(run, "plan", force=False, quiet=True)
    plan = json.loads((run.stage("plan") / "plan.json").read_text())
    lived = campaign.rehearse_goodput(plan["fleet"], run.project.fleet, run.project.project.seed, choices)
    if json_:
        print_json(lived)
    else:
        output.print(months.render(lived))


@command(app.rehearse, "chaos")
def rehearse_chaos(
    project: ProjectPath = Path("."),
    faults: Annotated[
        str,
        typer.Option(help="Only these: kill, stop, slow, flip, corrupt, disk, network, term, ranks."),
    ] = "",
    overrides: Overrides = None,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """A small real training of the project is broken in every way; it must end with the loss of an undisturbed one.

    Example: wingspan rehearse chaos examples/scratch --faults kill,stop
    """
    from wingspan.console import TerminalProgress, output, print_json
    from wingspan.model.checkpoint import open_folder
    from wingspan.model.gguf import open_model_folder
    from wingspan.model.shape import shape_of
    from wingspan.project_file import load_project, project_file
    from wingspan.rehearse import chaos

    loaded = load_project(project, overrides or ())
    start, base = loaded.model.start, project_file(project).resolve().parent
    shape = shape_of(loaded.model) if start == "scratch" else open_folder(open_model_folder(start, base)).shape
    names = [name for name in faults.split(",") if name]
    with TerminalProgress("chaos", None, quiet=json_) as progress:
        lived = chaos.rehearse_chaos(loaded, shape, names, progress)
    print_json(lived) if json_ else output.print(chaos.render(lived))
    if not lived["same"]:
        raise typer.Exit(1)
