"""The align stage: conversations and the base model -> the assistant, as a Hugging Face folder with its chat form."""

from __future__ import annotations

import json
import math
import shutil
import time
from typing import Any

from wingspan.align.examples import Examples, read_examples
from wingspan.errors import InputError
from wingspan.model.chat import ChatRenderer
from wingspan.model.checkpoint import open_folder
from wingspan.project import Project
from wingspan.train.checkpoint.export import export
from wingspan.train.loop import Recipe, fit
from wingspan.train.processes import is_first_rank, processes
from wingspan.train.start import read_layout, start_part
from wingspan.train.telemetry.score import total_loss
from wingspan.workspace import StageContext

_SCORED_SHARE = 0.1  # of the tokens trained on: what scoring the held-out conversations, once, may read


def work(context: StageContext) -> dict[str, Any]:
    """Fine-tune on all training conversations, with loss on the assistant's words only; goes on after a kill.

    Raises InputError when some conversation does not teach the assistant to end its turn, when the
    tokenizer has no chat tokens, or for a layout or a batch that does not divide.
    """
    began = time.perf_counter()
    settings, base = context.project.align, context.read("train/base")
    renderer = ChatRenderer.from_folder(base)
    end_of_document = int(json.loads((base / "config.json").read_text())["bos_token_id"])
    training, held_out = (
        read_examples(context.read("prepare/conversations"), split, renderer, settings.sequence)
        for split in ("train", "held_out")
    )
    _check(training, context)
    _tell(training, context)
    held_out = held_out.sample(round(_SCORED_SHARE * settings.epochs * training.tokens), context.project.project.seed)
    batches, unseen = (one.packed(settings.sequence, end_of_document) for one in (training, held_out))
    with processes(context.project.train.hang_timeout_s) as device:
        folder = open_folder(base)
        part = start_part(
            folder.shape,
            read_layout(context.read("plan/layout.json")),
            folder,
            sequence=settings.sequence,
            global_batch=settings.global_batch,
            device=device,
        )

        def loss(when: str) -> float | None:
            if not held_out.examples:
                return None
            name = f"held-out conversations, {when} alignment"
            return total_loss(part, unseen, settings.global_batch, context.progress, name) / held_out.predictions

        before = loss("before")
        setup_s = time.perf_counter() - began
        fitted = fit(part, batches, _recipe(context.project, len(batches)), context.output, context.progress)
        after = loss("after")
        export(part, context.output / "assistant", base, end_of_document)
        if is_first_rank():
            shutil.rmtree(context.output / "checkpoints", ignore_errors=True)
    return {
        "conversations": len(training.examples),
        "kinds": training.kinds(),
        "shortened": training.shortened,
        "dropped": training.dropped,
        "supervised_tokens": training.predictions,
        "sequences": len(batches),
        "steps": fitted.steps,
        "skipped_steps": fitted.skipped,
        "loss": {"first": fitted.first_loss, "last": fitted.last_loss},
        "held_out_loss": {"before": before, "after": after},
        "supervised_tokens_per_s": round(fitted.tokens_per_s, 1),
        "first_step_s": round(setup_s + fitted.first_step_s, 3),
    }


def _recipe(project: Project, sequences: int) -> Recipe:
    settings = project.align
    return Recipe(
        name="align",
        steps=math.ceil(settings.epochs * sequences / settings.global_batch),
        global_batch=settings.global_batch,
        optimizer=settings.optimizer,
        seed=project.project.seed,
        checkpoint_every=settings.checkpoint_every,
        keep_checkpoints=settings.keep_checkpoints,
        hang_timeout_s=project.train.hang_timeout_s,
    )


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
