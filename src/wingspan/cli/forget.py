"""`wingspan forget`: out of everything that can be rewritten, and which models cannot."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from wingspan.cli.app import RUN, AsJson, Debug, Overrides, ProjectPath, Runs, app, command
from wingspan.errors import InputError

_REMEDY = "For models that never saw it: wingspan train --force, then wingspan align --force."


@command(app, panel=RUN)
def forget(
    request: Annotated[
        str,
        typer.Argument(
            metavar="POST|AUTHOR", help="Id of a post or an author; post:ID or author:ID to be exact; -: lines of them."
        ),
    ],
    project: ProjectPath = Path("."),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove a post, or all of an author, from a run for good; names the models that learned from it.

    Example: wingspan forget author:did:plc:abc123 examples/laptop
    """
    from wingspan.console import output, print_json
    from wingspan.forget.request import forget
    from wingspan.prepare.privacy.pseudonyms import pseudonym_key, pseudonymiser
    from wingspan.report.page import write_report
    from wingspan.workspace import find_run, lock

    folder = find_run(project, overrides or (), runs).folder
    if not folder.is_dir():
        raise InputError("there is no run yet", where=folder, remedy="Name it in the file of prepare.opt_outs instead")
    run = find_run(folder, overrides or ())  # with the overrides that it was begun with
    with lock(run, "wingspan forget"):
        had_report = (run.folder / "report.html").is_file()
        lines = sys.stdin if request == "-" else [request]
        answer = forget(run, lines, pseudonymiser(pseudonym_key()), dry_run=dry_run)
        if had_report and not dry_run:
            write_report(run)
    if json_:
        print_json(asdict(answer) | {"dry_run": dry_run})
    else:
        output.print(_told(answer, dry_run), markup=False, soft_wrap=True)


def _told(answer: Any, dry_run: bool) -> str:
    """The answer in words."""
    counts = ", ".join(f"{number:,} {name}" for name, number in answer.removed.items()) or "nothing, it is not here"
    lines = [f"{'Would be' if dry_run else 'Is'} removed: {counts}."]
    if not dry_run:
        proof = f"{answer.proof['ids_searched']:,} ids in {answer.proof['files_searched']} files"
        lines.append(f"Proof: among {proof}, {answer.proof['found']} of it. Later preparations leave it out.")
    lines += [f"Stays in {model.model}, which learned from {_learned(model)}." for model in answer.models]
    lines.append(_REMEDY if answer.models else "No model of this run learned from it.")
    return "\n".join(lines)


def _learned(model: Any) -> str:
    if not model.certain:
        return "what has been replaced since: perhaps from it"
    by_steps = f"{model.learned:,} of its posts in {model.steps:,} steps, {model.first_step} to {model.last_step}"
    by_conversations = f"{model.learned:,} conversations about it"
    return by_steps if model.steps else " and ".join([by_conversations] * bool(model.learned) + [model.through])
