"""Before and after: a project file to start from, and the files that start a job on a cluster."""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from wingspan.cli.app import SETUP, AsJson, Debug, Overrides, ProjectPath, Runs, answer, app, command
from wingspan.errors import InputError


@command(app, panel=SETUP)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """A commented project file to start from.

    Example: wingspan init my-assistant
    """
    from wingspan.project_file import PROJECT_FILE

    target = folder / PROJECT_FILE
    if target.exists():
        raise InputError("there is a project file already", where=target, remedy="Choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    template = files("wingspan").joinpath("template.toml").read_text()
    name = "".join(char if char.isalnum() else "-" for char in folder.resolve().name.lower()).strip("-") or "assistant"
    target.write_text(template.replace("my-assistant", name))
    said = f"wrote {target}\nNext: declare your rights in it, then  wingspan plan {folder}"
    answer(json_, said, {"project_file": str(target)})


class LaunchKind(StrEnum):
    """What starts the job."""

    local = "local"
    slurm = "slurm"
    kubernetes = "kubernetes"


@command(app, panel=SETUP)
def launch(
    kind: Annotated[LaunchKind, typer.Argument(help="local (torchrun), slurm or kubernetes.")],
    project: ProjectPath = Path("."),
    hand_over: Annotated[bool, typer.Option("--submit", help="Hand the job to the scheduler.")] = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """The files that start the planned training on a cluster.

    Example: wingspan launch slurm examples/frontier
    """
    from wingspan.launch.files import launch_file, submit
    from wingspan.workspace import find_run

    path = launch_file(find_run(project, overrides or (), runs), kind.value)
    said = submit(kind.value, path) if hand_over else str(path)
    answer(json_, said, {"file": str(path), "submitted": hand_over, "said": said})
