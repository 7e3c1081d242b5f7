"""The entry point of the `wingspan` command. The order of these imports is the order of the help."""

from __future__ import annotations

from typing import Annotated

import typer

from wingspan.cli import evaluate, forget, launch, plan, prepare, rehearse, run, serve, setup, stages  # noqa: F401  (each registers)
from wingspan.cli.app import app


def _version(asked: bool) -> None:
    if asked:
        from wingspan import __version__

        typer.echo(f"wingspan {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of the `wingspan` command."""
    app()
