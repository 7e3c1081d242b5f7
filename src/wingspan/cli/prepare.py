"""`wingspan prepare` and its verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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


@command(app.prepare, "inspect")
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, folder or archive of posts.")],
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """What is this? Its format, what is read, refused and never opened, and the lines for wingspan.toml.

    Example: wingspan prepare inspect twitter-2024.zip
    """
    from wingspan.console import output, print_json
    from wingspan.prepare.inspect import inspect as look
    from wingspan.prepare.inspect import render

    found = look(path)
    print_json(found) if json_ else output.print(render(found), soft_wrap=True)
