"""The align stage: conversations and the base model -> the assistant, as a Hugging Face folder with its chat form."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from wingspan.align import steps
from wingspan.align.examples import Examples, policy_examples, read_examples
from wingspan.align.preferences import Preference, as_served, read_preferences, split_preferences
from wingspan.align.reactions import reaction_preferences
from wingspan.errors import InputError
from wingspan.model.chat import ChatRenderer
from wingspan.train.processes import is_first_rank, processes
from wingspan.train.telemetry.machines import Machines, read_machines
from wingspan.train.telemetry.record import Telemetry
from wingspan.workspace import StageContext, write_atomically


def work(context: StageContext) -> dict[str, Any]:
    """Take the steps of align.methods in order, each from the weights of the one before; goes on after a kill.

    Raises InputError when some conversation does not teach the assistant to end its turn, when the tokenizer has no
    chat tokens, for a step without anything to learn from, and for a layout or a batch that does not divide.
    """
    base, project = context.read("train/base"), context.project
    renderer = ChatRenderer.from_folder(base)
    end_of_document = int(json.loads((base / "config.json").read_text())["bos_token_id"])
    training, held_out = (_examples(context, split, renderer) for split in ("train", "held_out"))
    if {"sft", "grpo"} & set(project.align.methods):
        _check(training, context)
        _tell(training, context)
    learned, unseen = _preferences(context)
    summaries = {}
    with (
        Telemetry(context.output, _machines(context), project.telemetry) as telemetry,
        processes(project.train.hang_timeout_s) as device,
    ):
        bench = steps.Bench(context, device, renderer, end_of_document, telemetry)
        model = base
        for method in project.align.methods:
            folder = context.output / method
            if (summary := steps.finished(folder)) is None:
                if method == "sft":
                    summary = steps.supervised(bench, model, training, held_out)
                elif method == "grpo":
                    summary = steps.rewarded(bench, model, training)
                else:
                    summary = steps.preferred(bench, model, method, learned, unseen)
                if is_first_rank():
                    _finish(folder, summary)
            summaries[method] = summary
            model = folder / "model"
        if is_first_rank():
            _publish(context.output, list(project.align.methods))
    further = {name: summary for name, summary in summaries.items() if name != "sft"}
    return summaries.get("sft", {}) | {"policy": project.assistant.version, "further": further}


def _machines(context: StageContext) -> Machines:
    """Those of plan, whose work per token is that of training's longer sequences."""
    return replace(read_machines(context.read("plan/plan.json"), context.project.fleet), flops_per_token=None)


def _examples(context: StageContext, split: str, renderer: ChatRenderer) -> Examples:
    """Prepare's conversations and, to train on, what the policy refuses."""
    project = context.project
    sequence, rights = project.align.sequence, project.rights
    basis = rights.basis if rights else ""
    found = read_examples(context.read("prepare/conversations"), split, renderer, sequence, basis)
    return found + policy_examples(project.assistant, renderer, sequence) if split == "train" else found


def _preferences(context: StageContext) -> tuple[list[Preference], list[Preference]]:
    """Preferences of the project's files and of reactions, to learn from and to measure on; said on the terminal."""
    project = context.project
    if set(project.align.methods) <= {"sft", "grpo"}:
        return [], []
    found: list[Preference] = []
    for source in project.align.preference.sources:
        read = read_preferences(context.run.outside(source.path), source.name, source.licence)
        found += as_served(read.preferences, context.read("prepare/posts"), project.assistant.instructions)
        left = ", ".join(f"{number:,} {reason}" for reason, number in sorted(read.refused.items())) or "none"
        context.progress.say(f"preferences of {source.name}: {len(read.preferences):,}; left out: {left}")
    reacted = reaction_preferences(context.read("prepare/posts"), context.read("prepare/reactions"))
    if reacted.refused:
        left = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reacted.refused.items()))
        context.progress.say(f"preferences of reactions: {len(reacted.preferences):,}; left out: {left}")
    return split_preferences([*found, *reacted.preferences], project.prepare.held_out, project.project.seed)


def _finish(folder: Path, summary: dict[str, Any]) -> None:
    """The step is done from here on, and needs no checkpoints."""
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _publish(output: Path, methods: list[str]) -> None:
    """The last step's model is the assistant; those before it were on the way."""
    last = output / methods[-1] / "model"
    if last.is_dir():
        last.rename(output / "assistant")
    for method in methods[:-1]:
        shutil.rmtree(output / method / "model", ignore_errors=True)


def _check(training: Examples, context: StageContext) -> None:
    """Refuse to train on nothing."""
    if training.dropped and not training.examples:
        raise InputError(
            f"all {training.dropped:,} training conversations are longer than align.sequence",
            where="align.sequence",
            remedy="Raise it",
        )
    if not training.examples:
        raise InputError(
            "there are no training conversations",
            where=context.read("prepare/conversations"),
            remedy="Add [[prepare.dialogues]], or raise prepare.grounded_dialogues or prepare.label_dialogues",
        )


def _tell(training: Examples, context: StageContext) -> None:
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in training.kinds().items())
    context.progress.say(f"conversations: {kinds}; {training.predictions:,} tokens to learn to say")
    if training.shortened or training.dropped:
        context.progress.say(
            f"longer than align.sequence: {training.shortened:,} ended at an earlier turn, "
            f"{training.dropped:,} left out"
        )
