"""The whole run: all stages in order, what is done, and the report."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from wingspan.cli.app import RUN, AsJson, Debug, Force, Overrides, ProjectPath, Runs, answer, app, command
from wingspan.cli.perform import opening, perform, show


class Until(StrEnum):
    """Where `wingspan run` may stop."""

    plan = "plan"
    rehearse = "rehearse"
    prepare = "prepare"
    train = "train"
    align = "align"
    evaluate = "evaluate"


@command(app, panel=RUN)
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
        arguments = opening(project, overrides, runs)
        manifests = {name: perform(opened, name, arguments, force=force, quiet=json_) for name in names}
        report = write_report(opened)
    if json_:
        print_json({"folder": str(opened.folder), "report": str(report), "stages": manifests})
        return
    output.print(_ending(opened, manifests, time.perf_counter() - started, report))
    if "evaluate" in names:
        show(opened, "evaluate")
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


@command(app, panel=RUN)
def status(
    project: ProjectPath = Path("."),
    verify: Annotated[bool, typer.Option("--verify", help="Check every file against its hash.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until interrupted.")] = False,
    port: Annotated[
        int | None, typer.Option("--serve", metavar="PORT", min=0, max=65535, help="Show it on a page of this machine.")
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """What is done, stale or running.

    Example: wingspan status examples/laptop --watch
    """
    from wingspan.console import output, print_json
    from wingspan.report.live import live_server
    from wingspan.report.status import describe, table
    from wingspan.report.status import watch as watch_run
    from wingspan.workspace import find_run

    found = find_run(project, overrides or (), runs)
    if port is not None:
        with live_server(found, port) as server:
            url = f"http://127.0.0.1:{server.server_port}"
            answer(json_, f"live at {url}, until interrupted", {"url": url})
            with suppress(KeyboardInterrupt):
                server.serve_forever()
        return
    if watch:
        return watch_run(found, output)
    records = describe(found, verify=verify)
    if json_:
        print_json(records)
    else:
        output.print(table(records))


@command(app, panel=RUN)
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
    answer(json_, str(path), {"report": str(path)})
