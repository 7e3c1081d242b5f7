"""`wingspan plan` and its verbs."""

from __future__ import annotations

from pathlib import Path

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, command
from wingspan.cli.perform import one_stage


@command(app.plan, ITSELF)
def plan_project(
    project: ProjectPath = Path("."),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """What would it take? Machines, days, money, energy, memory. Needs no accelerator.

    Example: wingspan plan examples/frontier --set fleet.devices=5120
    """
    one_stage("plan", project, overrides, runs, json_, force)
