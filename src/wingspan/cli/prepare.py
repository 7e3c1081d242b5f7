"""`wingspan prepare` and its verbs."""

from __future__ import annotations

from pathlib import Path

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, command
from wingspan.cli.perform import one_stage


@command(app.prepare, ITSELF)
def prepare_project(
    project: ProjectPath = Path("."),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Posts become conversations and tokens: cleaned, deduplicated, personal data removed.

    Example: wingspan prepare examples/laptop
    """
    one_stage("prepare", project, overrides, runs, json_, force)
