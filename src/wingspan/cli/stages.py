"""The stages that have no verbs, all with the same options; and serve, which does not end."""

from __future__ import annotations

import sys
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
    "evaluate": (
        app.evaluate,
        """Is the assistant better? Base and assistant side by side, with intervals and paired tests.

    Example: wingspan evaluate examples/laptop --json""",
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


@command(app.serve, ITSELF)
def serve(
    project: ProjectPath = Path("."),
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes any free port.")] = None,
    engine: Annotated[str | None, typer.Option(help="openvino or torch.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the chat page.")] = True,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """The assistant answers: a chat page and an OpenAI-compatible API, with posts as sources.

    Example: wingspan serve examples/laptop --port 8321
    """
    from wingspan.console import notices, output, print_json
    from wingspan.serve.run import serve as start
    from wingspan.workspace import find_run

    settings = {"serve.host": host, "serve.port": port, "serve.engine": engine}
    given = [f"{key}={value}" for key, value in settings.items() if value is not None]
    run = find_run(project, [*(overrides or ()), *given], runs)

    def ready(url: str) -> None:
        if json_:
            print_json({"url": url, "api": f"{url}/v1", "model": run.project.project.name})
            return
        output.print(f"[bold]{run.project.assistant.name}[/] answers at [cyan]{url}[/]  (API: {url}/v1, Ctrl-C stops)")
        if browser and sys.stdout.isatty():
            typer.launch(url)

    start(run, on_ready=ready, say=lambda line: notices.print(f"  {line}", style="dim", markup=False))
