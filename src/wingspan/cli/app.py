"""What all commands share: the program, its options, one form for errors and answers.

Exit codes: 0 done, 1 the work failed, 2 the user's input is wrong, 3 a gate is shut (evaluate --gate).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from wingspan.errors import WorkError, explain

STAGES = "The seven stages"
RUN = "The whole run"
SETUP = "Before and after"
ITSELF = " "

ProjectPath = Annotated[Path, typer.Argument(metavar="PROJECT", help="Project folder, project file or run folder.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="WINGSPAN_RUNS", help="Where run folders lie.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing changed.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

Command = TypeVar("Command", bound=Callable[..., Any])

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Program(TyperGroup):
    """The stages come first in the help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: not isinstance(self.commands[name], TyperGroup))


app = typer.Typer(
    name="wingspan",
    cls=_Program,
    help="From a social platform's posts to the platform's own assistant.\n\n"
    "One project file, wingspan.toml, goes through seven stages. Start with: wingspan init my-assistant",
    add_completion=True,
    **_SETTINGS,
)


class _StageGroup(TyperGroup):
    """A stage and its verbs: `wingspan plan explain NAME` is a verb; what names no verb is the stage itself.

    The stage itself is the command named ITSELF, a name that nobody types and no help shows.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.help = self.commands[ITSELF].help

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            verbs = [f"Also: wingspan {self.name} {verb} --help" for verb in self.commands if verb != ITSELF]
            self.commands[ITSELF].epilog = "\n\n".join(verbs)
            args = [ITSELF, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == ITSELF else name, command, rest


def _stage_group(name: str) -> typer.Typer:
    group = typer.Typer(cls=_StageGroup, **_SETTINGS)
    app.add_typer(group, name=name, rich_help_panel=STAGES)
    return group


# In the order of the help.
plan, rehearse, prepare, train, align, evaluate, serve = (
    _stage_group(name) for name in ("plan", "rehearse", "prepare", "train", "align", "evaluate", "serve")
)

launch = typer.Typer(help="The same training on this machine, Slurm and Kubernetes.", **_SETTINGS)
app.add_typer(launch, name="launch", rich_help_panel=SETUP)


def command(to: typer.Typer, name: str | None = None, panel: str | None = None) -> Callable[[Command], Command]:
    """Register a command whose errors are printed in one form and become exit codes."""

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except KeyboardInterrupt:
                notice("interrupted: nothing is half-written; the same command continues")
                raise typer.Exit(1) from None
            except (Exception, MemoryError) as error:
                if kwargs.get("debug") or isinstance(error, typer.Exit):
                    raise
                raise typer.Exit(_report(error)) from None

        return to.command(name, rich_help_panel=panel)(guarded)  # type: ignore[return-value]

    return register


def _report(error: BaseException) -> int:
    """Print an error, return its exit code."""
    from wingspan.console import print_error

    known = explain(error) or WorkError(
        f"{type(error).__name__}: {error}", remedy="This is a bug of wingspan; --debug shows where it happened"
    )
    print_error(known)
    return known.exit_code


def notice(line: str) -> None:
    """One line beside the answer: on the error stream, in yellow."""
    from wingspan.console import notices

    notices.print(line, style="yellow", markup=False)


def answer(as_json: bool, text: str, document: dict[str, Any]) -> None:
    """A command's short answer, for a person or for a machine."""
    from wingspan.console import output, print_json

    if as_json:
        print_json(document)
    else:
        output.print(text, markup=False, soft_wrap=True)
