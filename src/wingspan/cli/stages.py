"""The stages that all take the same options, and what train can be asked besides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, command
from wingspan.cli.perform import one_stage

_STAGES = {
    "train": (
        app.train,
        """Tokens become a base model. On many devices: torchrun ... -m wingspan train PROJECT.

    Example: wingspan train examples/laptop --set train.tokens=20480""",
    ),
    "align": (
        app.align,
        """The base model becomes the assistant: dialogues, with loss on its own words only.

    Example: wingspan align examples/laptop""",
    ),
}


def _register_stage(name: str, group: typer.Typer, text: str) -> None:
    """The command of one stage that works and ends; all take the same options."""

    def stage(
        project: ProjectPath = Path("."),
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        json_: AsJson = False,
        force: Force = False,
        debug: Debug = False,
    ) -> None:
        one_stage(name, project, overrides, runs, json_, force)

    stage.__doc__ = text
    command(group, ITSELF)(stage)


for _name, (_group, _text) in _STAGES.items():
    _register_stage(_name, _group, _text)


@command(app.train, "ladder")
def train_ladder(
    project: ProjectPath = Path("."),
    compute: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the project's own training that it may compute.")
    ] = 0.25,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """What loss will the project reach? Small models of its family say it, by the scaling law through them.

    Needs `wingspan prepare`. What was trained is kept: the command goes on where it was stopped.

    Example: wingspan train ladder examples/scratch
    """
    from wingspan.console import TerminalProgress, output, print_json
    from wingspan.train.ladder.ladder import climb
    from wingspan.train.ladder.screen import render
    from wingspan.workspace import find_run, lock

    run = find_run(project, overrides or (), runs)
    with lock(run, "wingspan train ladder"), TerminalProgress("ladder", None, quiet=json_) as progress:
        ladder = climb(run, compute, progress)
    print_json(ladder.as_json()) if json_ else output.print(render(ladder))
