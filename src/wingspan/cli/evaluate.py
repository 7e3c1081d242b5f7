"""`wingspan evaluate` and its verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Force, Overrides, ProjectPath, Runs, answer, command
from wingspan.cli.perform import one_stage

_GATE_SHUT = 3


@command(app.evaluate, ITSELF)
def evaluate(
    project: ProjectPath = Path("."),
    gate: Annotated[Path | None, typer.Option("--gate", metavar="FILE", help="Bounds; exit code 3 if broken.")] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Is the assistant better? Base and assistant side by side, with intervals and paired tests.

    Example: wingspan evaluate examples/laptop --gate gates.toml
    """
    one_stage("evaluate", project, overrides, runs, json_, force)
    if gate is None:
        return
    from wingspan.console import notices
    from wingspan.evaluate.gate import check_gates
    from wingspan.workspace import find_run

    scores = json.loads((find_run(project, overrides or (), runs).stage("evaluate") / "scores.json").read_text())
    checked = check_gates(gate, scores)
    for one in checked:
        sign = "[green]✓[/]" if one.holds else "[red]✗[/]"
        notices.print(f"{sign} {one.score} {one.value:.4f}, {one.rule} {one.bound:.4f}", highlight=False)
    if not all(one.holds for one in checked):
        raise typer.Exit(_GATE_SHUT)


@command(app.evaluate, "duel")
def duel(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="A prompt a line: text, or .jsonl.")],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Folders, or endpoints: http://HOST/v1#NAME.")
    ],
    judge: Annotated[str | None, typer.Option("--judge", metavar="MODEL", help="A model that judges.")] = None,
    verdicts: Annotated[Path | None, typer.Option("--verdicts", metavar="FILE", help="What a person judged.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where answers and results go.")] = Path("duel"),
    tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    seed: int = 1,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Which model do judges like better? Without --judge it makes a page for a person, whose --verdicts it reads.

    Example: wingspan evaluate duel prompts.txt runs/laptop/align/assistant http://localhost:8321/v1#laptop
    """
    from wingspan.console import TerminalProgress
    from wingspan.errors import InputError
    from wingspan.evaluate import duel as of

    if len({*models}) < max(2, len(models)):
        raise InputError("a duel needs two different models", remedy="Name two or more folders or endpoints")
    out.mkdir(parents=True, exist_ok=True)
    asked = of.read_prompts(prompts)
    with TerminalProgress("duel", None, quiet=json_) as progress:
        answers = of.answered({name: name for name in models}, asked, tokens, out, progress)
        pairs = of.pairs_of(answers, asked, seed)
        if judge is None and verdicts is None:
            page = of.write_page(pairs, out)
            return answer(json_, f"Judge on {page}, then give the same command with --verdicts", {"page": str(page)})
        if verdicts is not None:
            pairs, points = of.read_verdicts(verdicts, pairs)
        else:
            points = of.judged(pairs, str(judge), out, progress)
    found = of.as_json(of.standings(pairs, points, seed), pairs, points)
    (out / "duel.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    lines = [
        f"{one['model']}: {' to '.join(f'{x:.0f}' for x in one['elo'][1:])} Elo ({one['elo'][0]:.0f}), at equal length "
        f"{one['equal_length'][0]:.0f}; {one['points']:.0%} of points; {one['empty']} empty answers"
        for one in found["standings"]
    ]
    answer(json_, "\n".join(lines), found)


@command(app.evaluate, "lessons")
def lessons(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="TweetEval's tasks: emotion/, irony/ ...")],
    target: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="For [[prepare.dialogues]], reader 'messages'.")],
    each: Annotated[int, typer.Option(min=1, help="Questions at most of each task.")] = 1000,
    seed: int = 1,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """TweetEval's training posts as questions and answers, for align to teach; worded as evaluate asks them.

    Example: wingspan evaluate lessons tweeteval lessons.jsonl --each 2000
    """
    from wingspan.evaluate.tweeteval import write_lessons

    counts = write_lessons(folder, target, each, seed)
    answer(json_, ", ".join(f"{name} {number:,}" for name, number in counts.items()), counts)
