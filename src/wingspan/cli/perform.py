"""Perform one stage for a person or a script: bars while it runs, its screen when it is done."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import typer


def one_stage(name: str, project: Path, overrides: list[str] | None, runs: Path, as_json: bool, force: bool) -> None:
    """Open the run, perform the stage under its lock, show its outcome; ranks that others started only work."""
    from wingspan.console import print_json
    from wingspan.workspace import SUPERVISED, lock, open_run, rank

    run = open_run(project, overrides or (), runs)
    supervised = SUPERVISED in os.environ
    with nullcontext() if supervised or rank() > 0 else lock(run, f"wingspan {name}"):
        manifest = perform(run, name, opening(project, overrides, runs), force=force, quiet=as_json)
    if supervised or rank() > 0:
        return
    if as_json:
        print_json(manifest)
    else:
        show(run, name)


def opening(project: Path, overrides: list[str] | None, runs: Path) -> list[str]:
    """The arguments by which a command opens the same run."""
    return [str(project), *(f"--set={one}" for one in overrides or ()), f"--runs={runs}"]


def perform(run: Any, name: str, arguments: Sequence[str] = (), *, force: bool, quiet: bool) -> dict[str, Any]:
    """Run one stage under bars; returns its manifest. A stage of several ranks is started once for each."""
    from wingspan.console import TerminalProgress, notices
    from wingspan.stages import perform, stage_spec
    from wingspan.units import duration, size
    from wingspan.workspace import SUPERVISED, rank

    started = _needs_ranks(run, name, force)
    if started:
        _start_ranks(run, name, [*arguments, *(["--json"] if quiet else [])], force)
    signal.signal(signal.SIGTERM, _interrupt)
    file = None if rank() > 0 else run.folder / "progress.json"
    with TerminalProgress(name, file, quiet=quiet or rank() > 0) as progress:
        outcome = perform(run, name, progress, force=force and not started)
    manifest = outcome.manifest
    if not (quiet or rank() > 0 or SUPERVISED in os.environ):
        took = f"{duration(manifest['wall_s'])}, {size(manifest['peak_memory_bytes'])}"
        ending = f"unchanged since it took {took}" if outcome.skipped and not started else took
        notices.print(
            f"[green]✓[/] [bold]{name:<9}[/] {stage_spec(name).question:<34} [dim]{ending}[/]", highlight=False
        )
    return manifest


def _needs_ranks(run: Any, name: str, force: bool) -> bool:
    """Whether a stage has work for several ranks of this machine, which nobody started."""
    from wingspan.launch.local import ranks_here
    from wingspan.stages import stage_spec, state

    if name not in ("train", "align") or "WORLD_SIZE" in os.environ or ranks_here(run) == 1:
        return False
    return force or state(run, stage_spec(name)) != "done"


def _start_ranks(run: Any, name: str, arguments: list[str], force: bool) -> None:
    """Train with all ranks of this machine, again after a stop; exits with their code where that does not help."""
    from wingspan.launch.local import supervise_here

    command = [sys.executable, "-m", "wingspan", name, *arguments]
    if code := supervise_here(run, name, command, first=["--force"] if force else []):
        raise typer.Exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# What a stage shows when it is done: a function of the JSON file that it wrote.
_SCREENS = {
    "plan": ("wingspan.plan.screens.terminal", "plan.json"),
    "rehearse": ("wingspan.rehearse.terminal", "rehearsal.json"),
    "prepare": ("wingspan.prepare.terminal", "report.json"),
    "evaluate": ("wingspan.evaluate.terminal", "scores.json"),
}


def show(run: Any, name: str) -> None:
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
