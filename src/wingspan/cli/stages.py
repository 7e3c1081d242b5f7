"""The stages that all take the same options, and what train can be asked besides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, answer, command
from wingspan.cli.perform import one_stage

_STAGES = {
    "train": (
        app.train,
        """Tokens become a base model, on all ranks of this node that the layout has; on many nodes: wingspan launch.

    Example: wingspan train examples/laptop --set train.tokens=20480""",
    ),
    "align": (
        app.align,
        """The base model becomes the assistant: dialogues, with loss on its own words only.

    Example: wingspan align examples/laptop""",
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


@command(app.train, "ladder")
def train_ladder(
    project: ProjectPath = Path("."),
    compute: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the project's own training that it may compute.")
    ] = 0.25,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """What loss will the project reach? Small models of its family say it, by the scaling law through them.

    Needs `wingspan prepare`. What was trained is kept: the command goes on where it was stopped.

    Example: wingspan train ladder examples/scratch
    """
    from wingspan.console import TerminalProgress, output, print_json
    from wingspan.train.ladder.ladder import climb
    from wingspan.train.ladder.screen import render
    from wingspan.workspace import find_run, lock

    run = find_run(project, overrides or (), runs)
    with lock(run, "wingspan train ladder"), TerminalProgress("ladder", None, quiet=json_) as progress:
        ladder = climb(run, compute, progress)
    print_json(ladder.as_json()) if json_ else output.print(render(ladder))


@command(app.train, "audit")
def train_audit(
    project: ProjectPath = Path("."),
    post: Annotated[str | None, typer.Option(metavar="ID", help="Also: which checkpoints and models saw it?")] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Was every sample used exactly once, whatever crashed? The ledger of the training proves it, or says where not.

    Example: wingspan train audit examples/laptop --post 1234
    """
    from wingspan.forget.audit import audit_training
    from wingspan.workspace import find_run

    proof = audit_training(find_run(project, overrides or (), runs), post)
    lines = [
        f"{proof['steps']:,} steps used {proof['samples']:,} samples, {proof['tokens']:,} tokens, each exactly once; "
        f"{proof['repeated']:,} steps were done again, {proof['skipped']:,} skipped, "
        f"{proof['passed_over']:,} samples passed over."
    ]
    if post is not None:
        saw = [*(f"step {step}" for step in proof["checkpoints"]), *(one["model"] for one in proof["models"])]
        lines.append(f"{post} was seen by {', '.join(saw) or 'none of them'}.")
    answer(json_, "\n".join(lines), proof)


@command(app.train, "export")
def train_export(
    step: Annotated[int, typer.Option(min=1, help="Of the checkpoint, while the training runs.")],
    project: ProjectPath = Path("."),
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: exports/step-N in the run.")] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """A checkpoint of a training under way as a Hugging Face folder, whatever its layout.

    Example: wingspan train export examples/laptop --step 45
    """
    from wingspan.train.checkpoint.export import export_checkpoint
    from wingspan.workspace import find_run

    run = find_run(project, overrides or (), runs)
    folder = to or run.folder / f"exports/step-{step}"
    checkpoint = run.folder / f".train.partial/checkpoints/step-{step:08d}"
    export_checkpoint(checkpoint, folder, run.stage("prepare"))
    answer(json_, f"Step {step} is in {folder}", {"step": step, "folder": str(folder)})
