"""The stages that have no verbs, all with the same options."""

from __future__ import annotations

from pathlib import Path

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
