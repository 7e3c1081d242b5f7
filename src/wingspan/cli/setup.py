"""Before and after: a project file to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from wingspan.cli.app import SETUP, AsJson, Debug, answer, app, command
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
