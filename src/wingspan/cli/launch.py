"""Starting the planned training: the files for a scheduler, and what they call on the nodes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wingspan.cli import app
from wingspan.cli.app import AsJson, Debug, Overrides, ProjectPath, Runs, answer, command

_KINDS: dict[Literal["local", "slurm", "kubernetes"], str] = {
    "local": "A script that trains on this machine, all ranks started and supervised.",
    "slurm": "A batch script: nodes checked, ranks started again after a loss, the job requeued.",
    "kubernetes": "A JobSet: one pod per node, all started again after a loss.",
}


def _register_kind(kind: Literal["local", "slurm", "kubernetes"], text: str) -> None:
    def written(
        project: ProjectPath = Path("."),
        hand_over: Annotated[bool, typer.Option("--submit", help="Hand the job over, now.")] = False,
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        json_: AsJson = False,
        debug: Debug = False,
    ) -> None:
        from wingspan.launch.files import launch_file, submit
        from wingspan.workspace import find_run

        path = launch_file(find_run(project, overrides or (), runs), kind)
        said = submit(kind, path) if hand_over else str(path)
        answer(json_, said, {"file": str(path), "submitted": hand_over, "said": said})

    written.__doc__ = f"{text}\n\n    Example: wingspan launch {kind} examples/frontier"
    command(app.launch, kind)(written)


for _kind, _text in _KINDS.items():
    _register_kind(_kind, _text)


@command(app.launch)
def check(project: ProjectPath = Path("."), runs: Runs = Path("runs"), json_: AsJson = False) -> None:
    """Are this node's devices there, right and quick? Exits with 1 where one is missing or computes wrongly.

    Example: srun --ntasks-per-node=1 wingspan launch check examples/frontier
    """
    from wingspan.train.faults.sniff import check_node

    run, ranks = _planned(project, runs)
    found = check_node(0 if run.project.fleet.device == "this-machine" else ranks.per_node)
    said = "\n".join(f"{one.node}: {one.flops / 1e9:,.0f} GFLOP/s, {one.bandwidth / 1e9:,.0f} GB/s" for one in found)
    answer(json_, said, {"devices": [vars(one) for one in found]})


@command(app.launch)
def node(project: ProjectPath = Path("."), runs: Runs = Path("runs")) -> None:
    """Start this node's ranks: what srun and a Kubernetes pod call."""
    from wingspan.launch.node import run_node

    run, ranks = _planned(project, runs)
    training = [sys.executable, "-m", "wingspan", "train", str(run.folder)]
    raise typer.Exit(run_node(training, ranks.nodes, ranks.per_node))


@command(app.launch)
def job(project: ProjectPath = Path("."), runs: Runs = Path("runs")) -> None:
    """Supervise the training inside a Slurm job: what the batch script calls."""
    from wingspan.launch.slurm import supervise_job

    raise typer.Exit(supervise_job(_planned(project, runs)[0]))


def _planned(project: Path, runs: Path) -> tuple[Any, Any]:
    """A run, and where its ranks lie."""
    from wingspan.launch.local import planned_ranks
    from wingspan.workspace import find_run

    run = find_run(project, (), runs)
    return run, planned_ranks(run)
