"""The command line: one command per stage. Parsing and printing only; the work is in the rooms.

Exit codes: 0 done, 1 the work failed, 2 the user's input is wrong.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from wingspan.errors import InputError, explain

app = typer.Typer(
    name="wingspan",
    help="From a social platform's posts to the platform's own assistant.\n\n"
    "One project file, wingspan.toml, goes through seven stages. Start with: wingspan init my-assistant",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_STAGES = "The seven stages"
_RUN = "The whole run"
_SETUP = "Before and after"

ProjectPath = Annotated[Path, typer.Argument(metavar="PROJECT", help="Project folder, project file or run folder.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="WINGSPAN_RUNS", help="Where run folders lie.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing changed.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

Command = TypeVar("Command", bound=Callable[..., Any])


def command(panel: str, name: str | None = None) -> Callable[[Command], Command]:
    """Register a command whose errors are printed in one form and become exit codes."""

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except KeyboardInterrupt:
                _notice("interrupted: nothing is half-written; the same command continues")
                raise typer.Exit(1) from None
            except (Exception, MemoryError) as error:
                if kwargs.get("debug") or isinstance(error, typer.Exit):
                    raise
                raise typer.Exit(_report(error)) from None

        return app.command(name, rich_help_panel=panel)(guarded)  # type: ignore[return-value]

    return register


def _report(error: BaseException) -> int:
    """Print an error, return its exit code."""
    from wingspan.console import print_error
    from wingspan.errors import WorkError

    known = explain(error) or WorkError(
        f"{type(error).__name__}: {error}", remedy="This is a bug of wingspan; --debug shows where it happened"
    )
    print_error(known)
    return known.exit_code


def _notice(line: str) -> None:
    from wingspan.console import notices

    notices.print(line, style="yellow", markup=False)


_STAGE_HELP = {
    "plan": """What would it take? Machines, days, money, energy, memory. Needs no accelerator.

    Example: wingspan plan examples/frontier --set fleet.devices=5120""",
    "rehearse": """Would it hold? The real training step of every kind of rank, on a fake fleet.

    Example: wingspan rehearse examples/frontier""",
    "prepare": """Posts become conversations and tokens: cleaned, deduplicated, personal data removed.

    Example: wingspan prepare examples/laptop""",
    "train": """Tokens become a base model. On many devices: torchrun ... -m wingspan train PROJECT.

    Example: wingspan train examples/laptop --set train.tokens=20480""",
    "align": """The base model becomes the assistant: dialogues, with loss on its own words only.

    Example: wingspan align examples/laptop""",
    "evaluate": """Is the assistant better? Base and assistant side by side, with intervals and paired tests.

    Example: wingspan evaluate examples/laptop --json""",
}


def _register_stage(name: str, text: str) -> None:
    """The command of one stage that works and ends; all six take the same options."""

    def stage(
        project: ProjectPath = Path("."),
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        json_: AsJson = False,
        force: Force = False,
        debug: Debug = False,
    ) -> None:
        _one_stage(name, project, overrides, runs, json_, force)

    stage.__doc__ = text
    command(_STAGES, name)(stage)


for _name, _text in _STAGE_HELP.items():
    _register_stage(_name, _text)


@command(_STAGES)
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


def _one_stage(name: str, project: Path, overrides: list[str] | None, runs: Path, as_json: bool, force: bool) -> None:
    from wingspan.console import print_json
    from wingspan.workspace import lock, open_run, rank

    run = open_run(project, overrides or (), runs)
    follower = rank() > 0
    with nullcontext() if follower else lock(run, f"wingspan {name}"):
        manifest = _perform(run, name, force=force, quiet=as_json or follower)
    if follower:
        return
    if as_json:
        print_json(manifest)
    else:
        _show(run, name)


def _perform(run: Any, name: str, *, force: bool, quiet: bool) -> dict[str, Any]:
    """Run one stage under bars; returns its manifest."""
    from wingspan.console import TerminalProgress, notices
    from wingspan.stages import perform, stage_spec
    from wingspan.units import duration, size
    from wingspan.workspace import rank

    signal.signal(signal.SIGTERM, _interrupt)
    file = None if rank() > 0 else run.folder / "progress.json"
    with TerminalProgress(name, file, quiet=quiet) as progress:
        outcome = perform(run, name, progress, force=force)
    manifest = outcome.manifest
    if not quiet:
        took = f"{duration(manifest['wall_s'])}, {size(manifest['peak_memory_bytes'])}"
        ending = f"unchanged since it took {took}" if outcome.skipped else took
        notices.print(
            f"[green]✓[/] [bold]{name:<9}[/] {stage_spec(name).question:<34} [dim]{ending}[/]", highlight=False
        )
    return manifest


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# What a stage shows when it is done: a function of the JSON file that it wrote.
_SCREENS = {
    "plan": ("wingspan.plan.terminal", "plan.json"),
    "rehearse": ("wingspan.rehearse.terminal", "rehearsal.json"),
    "evaluate": ("wingspan.evaluate.terminal", "scores.json"),
}


def _show(run: Any, name: str) -> None:
    """The stage's own screen, or its summary as a list."""
    from wingspan.console import output

    if name in _SCREENS:
        module, file = _SCREENS[name]
        output.print(import_module(module).render(json.loads((run.stage(name) / file).read_text())))
        return
    for key, value in run.manifest(name)["summary"].items():
        output.print(f"  {key.replace('_', ' ')}: {_plain(value)}", markup=False)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(one)}" for key, one in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


class Until(StrEnum):
    """Where `wingspan run` may stop."""

    plan = "plan"
    rehearse = "rehearse"
    prepare = "prepare"
    train = "train"
    align = "align"
    evaluate = "evaluate"


@command(_RUN)
def run(
    project: ProjectPath = Path("."),
    until: Annotated[Until, typer.Option(help="The last stage to run.")] = Until.evaluate,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """All stages in order, those that are done skipped; ends with an assistant and a report.

    Example: wingspan run examples/laptop
    """
    from wingspan.console import output, print_json
    from wingspan.report.page import write_report
    from wingspan.stages import STAGE_NAMES
    from wingspan.workspace import lock, open_run

    opened = open_run(project, overrides or (), runs)
    names = STAGE_NAMES[: STAGE_NAMES.index(until.value) + 1]
    started = time.perf_counter()
    with lock(opened, "wingspan run"):
        manifests = {name: _perform(opened, name, force=force, quiet=json_) for name in names}
        report = write_report(opened)
    if json_:
        print_json({"folder": str(opened.folder), "report": str(report), "stages": manifests})
        return
    output.print(_ending(opened, manifests, time.perf_counter() - started, report))
    if "evaluate" in names:
        _show(opened, "evaluate")
        output.print(f"\nTalk to it:  [bold cyan]{_program()} serve {project}[/]")


def _program() -> str:
    """How the user can start this program again: by name where it is on the path, else by its file."""
    return "wingspan" if shutil.which("wingspan") else os.path.relpath(sys.argv[0])


def _ending(opened: Any, manifests: dict[str, dict[str, Any]], seconds: float, report: Path) -> Any:
    """Time and memory per stage."""
    from rich.table import Table

    from wingspan.units import duration, size

    table = Table("stage", "time", "peak memory", title=f"{opened.folder}", title_justify="left", show_footer=True)
    for name, manifest in manifests.items():
        table.add_row(name, duration(manifest["wall_s"]), size(manifest["peak_memory_bytes"]))
    table.columns[0].footer = "all"
    table.columns[1].footer = duration(sum(one["wall_s"] for one in manifests.values()))
    table.columns[2].footer = size(max(one["peak_memory_bytes"] for one in manifests.values()))
    table.caption = f"This command took {duration(seconds)}. Report: {report}"
    table.caption_justify = "left"
    return table


@command(_RUN)
def status(
    project: ProjectPath = Path("."),
    verify: Annotated[bool, typer.Option("--verify", help="Check every file against its hash.")] = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """What is done, stale or running.

    Example: wingspan status examples/laptop --verify
    """
    from wingspan.console import output, print_json
    from wingspan.status import describe, table
    from wingspan.workspace import find_run

    records = describe(find_run(project, overrides or (), runs), verify=verify)
    if json_:
        print_json(records)
    else:
        output.print(table(records))


@command(_RUN)
def report(
    project: ProjectPath = Path("."),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """One self-contained HTML page of the whole run: plan beside reality, scores, samples.

    Example: wingspan report examples/laptop
    """
    from wingspan.report.page import write_report
    from wingspan.workspace import find_run

    path = write_report(find_run(project, overrides or (), runs))
    _answer(json_, str(path), {"report": str(path)})


@command(_SETUP)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """A commented project file to start from.

    Example: wingspan init my-assistant
    """
    from wingspan.project import PROJECT_FILE

    target = folder / PROJECT_FILE
    if target.exists():
        raise InputError("there is a project file already", where=target, remedy="Choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    template = (Path(__file__).parent / "template.toml").read_text()
    name = "".join(char if char.isalnum() else "-" for char in folder.resolve().name.lower()).strip("-") or "assistant"
    target.write_text(template.replace("my-assistant", name))
    said = f"wrote {target}\nNext: declare your rights in it, then  wingspan plan {folder}"
    _answer(json_, said, {"project_file": str(target)})


class LaunchKind(StrEnum):
    """What starts the job."""

    local = "local"
    slurm = "slurm"
    kubernetes = "kubernetes"


@command(_SETUP)
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
    _answer(json_, said, {"file": str(path), "submitted": hand_over, "said": said})


def _answer(as_json: bool, text: str, document: dict[str, Any]) -> None:
    """A command's short answer, for a person or for a machine."""
    from wingspan.console import output, print_json

    if as_json:
        print_json(document)
    else:
        output.print(text, markup=False, soft_wrap=True)


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
