"""Perform one stage for a person or a script: bars while it runs, its screen when it is done."""

from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any


def one_stage(name: str, project: Path, overrides: list[str] | None, runs: Path, as_json: bool, force: bool) -> None:
    """Open the run, perform the stage under its lock, show what it made; ranks beyond the first only work."""
    from wingspan.console import print_json
    from wingspan.workspace import lock, open_run, rank

    run = open_run(project, overrides or (), runs)
    follower = rank() > 0
    with nullcontext() if follower else lock(run, f"wingspan {name}"):
        manifest = perform(run, name, force=force, quiet=as_json or follower)
    if follower:
        return
    if as_json:
        print_json(manifest)
    else:
        show(run, name)


def perform(run: Any, name: str, *, force: bool, quiet: bool) -> dict[str, Any]:
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
