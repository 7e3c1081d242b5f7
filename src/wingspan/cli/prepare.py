"""`wingspan prepare` and its verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, command
from wingspan.cli.perform import one_stage


@command(app.prepare, ITSELF)
def prepare_project(
    project: ProjectPath = Path("."),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Posts become conversations and tokens: cleaned, deduplicated, personal data removed.

    Example: wingspan prepare examples/laptop
    """
    one_stage("prepare", project, overrides, runs, json_, force)


@command(app.prepare, "inspect")
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, folder or archive of posts.")],
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """What is this? Its format, what is read, refused and never opened, and the lines for wingspan.toml.

    Example: wingspan prepare inspect twitter-2024.zip
    """
    from wingspan.console import output, print_json
    from wingspan.prepare.inspect import inspect as look
    from wingspan.prepare.inspect import render

    found = look(path)
    print_json(found) if json_ else output.print(render(found), soft_wrap=True)


@command(app.prepare, "sample")
def sample(
    project: ProjectPath = Path("."),
    dropped_by: Annotated[str | None, typer.Option("--dropped-by", metavar="RULE", help="Only this rule.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Posts of each rule.")] = 5,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Posts that each rule dropped or tagged, drawn at random, without personal data: judge the rules by eye.

    Example: wingspan prepare sample examples/laptop --dropped-by spam --count 20
    """
    from wingspan.console import output, print_json
    from wingspan.prepare.samples import read_samples
    from wingspan.prepare.terminal import render_samples
    from wingspan.workspace import find_run

    rows = read_samples(find_run(project, overrides or (), runs).stage("prepare"), dropped_by, count)
    print_json(rows) if json_ else output.print(render_samples(rows), soft_wrap=True)


@command(app.prepare, "export-megatron")
def export_megatron(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where train.bin, train.idx and the others go.")],
    project: ProjectPath = Path("."),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """The token shards in the form that Megatron-LM trains on.

    Example: wingspan prepare export-megatron megatron examples/laptop
    """
    from wingspan.console import output, print_json
    from wingspan.prepare.tokens.megatron import export_megatron as export
    from wingspan.workspace import find_run

    written = export(find_run(project, overrides or (), runs).stage("prepare") / "tokens", target)
    if json_:
        print_json(written)
    else:
        output.print(", ".join(f"{target / split}.bin: {count:,} posts" for split, count in written.items()))
