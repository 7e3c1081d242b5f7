"""The steps of alignment: each takes a model folder and leaves another, and goes on after a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wingspan.align.answers import Answer, AnswerPart, PackedAnswers, log_probs
from wingspan.align.examples import Examples
from wingspan.align.objectives import WITH_REFERENCE, preference_objective, reward_objective
from wingspan.align.preferences import Preference, units_of, write_preferences
from wingspan.align.rollouts import Drawn, questions_of
from wingspan.errors import InputError
from wingspan.model.chat import ChatRenderer
from wingspan.model.checkpoint import open_folder
from wingspan.project import Align, Optimizer
from wingspan.train.checkpoint.export import export
from wingspan.train.loop import Recipe, fit
from wingspan.train.parallel.part import Part
from wingspan.train.processes import is_first_rank
from wingspan.train.start import read_layout, start_part
from wingspan.train.telemetry.record import Telemetry
from wingspan.train.telemetry.score import total_loss
from wingspan.workspace import StageContext

_SCORED_SHARE = 0.1  # of the tokens trained on: what scoring the held-out conversations, once, may read


@dataclass(frozen=True)
class Bench:
    """What all steps work with."""

    context: StageContext
    device: torch.device
    renderer: ChatRenderer
    end_of_document: int
    telemetry: Telemetry

    @property
    def settings(self) -> Align:
        """[align]."""
        return self.context.project.align

    def part(self, model: Path) -> Part:
        """This rank's part of the network in a folder."""
        opened, settings = open_folder(model), self.settings
        layout = read_layout(self.context.read("plan/layout.json"))
        if settings.lora_rank and (layout.tp > 1 or layout.pp > 1):
            raise InputError("adapters cannot be split over tp or pp", where="align.lora_rank", remedy="Set it to 0")
        with self.telemetry.spent("start"):
            return start_part(
                opened.shape,
                layout,
                opened,
                sequence=settings.sequence,
                global_batch=settings.global_batch,
                device=self.device,
                lora_rank=settings.lora_rank,
            )

    def learn(
        self, part: Part, batches: Any, method: str, steps: int, optimizer: Optimizer, began: float
    ) -> dict[str, Any]:
        """Run the loop in the step's folder, export its model there, and say how it went since `began`."""
        settings, project, context = self.settings, self.context.project, self.context
        folder, setup_s = context.output / method, time.perf_counter() - began
        recipe = Recipe(
            name=f"align: {method}",
            steps=steps,
            global_batch=settings.global_batch,
            optimizer=optimizer,
            seed=project.project.seed,
            checkpoint_every=settings.checkpoint_every,
            keep_checkpoints=settings.keep_checkpoints,
            hang_timeout_s=project.train.hang_timeout_s,
        )
        fitted = fit(part, batches, recipe, folder, context.progress, self.telemetry)
        export(part, folder / "model", context.read("train/base"), self.end_of_document)
        return {
            "steps": fitted.steps,
            "skipped_steps": fitted.skipped,
            "loss": {"first": fitted.first_loss, "last": fitted.last_loss},
            "supervised_tokens_per_s": round(fitted.tokens_per_s, 1),
            "first_step_s": round(setup_s + fitted.first_step_s, 3),
        }


def supervised(bench: Bench, model: Path, training: Examples, held_out: Examples) -> dict[str, Any]:
    """sft: the assistant's words in conversations."""
    began = time.perf_counter()
    settings, progress = bench.settings, bench.context.progress
    held_out = held_out.sample(
        round(_SCORED_SHARE * settings.epochs * training.tokens), bench.context.project.project.seed
    )
    batches, unseen = (one.packed(settings.sequence, bench.end_of_document) for one in (training, held_out))
    part = bench.part(model)

    def loss(when: str) -> float | None:
        if not held_out.examples:
            return None
        name = f"held-out conversations, {when}"
        with bench.telemetry.spent("evaluation"):
            return total_loss(part, unseen, settings.global_batch, progress, name) / held_out.predictions

    before = loss("before")
    steps = math.ceil(settings.epochs * len(batches) / settings.global_batch)
    course = bench.learn(part, batches, "sft", steps, settings.optimizer, began)
    return {
        "conversations": len(training.examples),
        "kinds": training.kinds(),
        "shortened": training.shortened,
        "dropped": training.dropped,
        "supervised_tokens": training.predictions,
        "sequences": len(batches),
        **course,
        "held_out_loss": {"before": before, "after": loss("after")},
    }


def preferred(
    bench: Bench, model: Path, method: str, training: Sequence[Preference], held_out: Sequence[Preference]
) -> dict[str, Any]:
    """dpo and its kin: better answers against worse ones."""
    began = time.perf_counter()
    settings, folder = bench.settings, bench.context.output / method
    units, used = units_of(training, bench.renderer, settings.sequence, paired=method != "kto")
    if not units:
        raise InputError(
            f"{len(training):,} preferences hold nothing that {method} can learn from",
            where="align.preference",
            remedy="Add pairs ('kto' learns from single answers too), or raise align.sequence",
        )
    batches = PackedAnswers(units, settings.sequence, bench.end_of_document)
    part = AnswerPart.of(bench.part(model), preference_objective(method, settings.preference))
    pairs, _ = units_of(held_out, bench.renderer, settings.sequence, paired=True)
    before = _right(part, pairs, bench)
    if method in WITH_REFERENCE:
        batches.references = _reference(part, batches, folder / "reference.npy")
    if is_first_rank():
        write_preferences(used, folder / "preferences.parquet")
    steps = math.ceil(settings.preference.epochs * len(batches) / settings.global_batch)
    course = bench.learn(part, batches, method, steps, settings.preference.optimizer, began)
    return {
        "preferences": len(used),
        "left_out": len(training) - len(used),
        "held_out_pairs": len(pairs),
        "held_out_right": {"before": before, "after": _right(part, pairs, bench)},
        **course,
    }


def rewarded(bench: Bench, model: Path, training: Examples) -> dict[str, Any]:
    """grpo: answers of its own to the training questions, rewarded by checks."""
    began = time.perf_counter()
    settings, folder = bench.settings, bench.context.output / "grpo"
    asked = questions_of(training.examples, bench.renderer)
    if not asked:
        raise InputError(
            "there are no questions whose answers can be checked",
            where="align.methods",
            remedy="Raise prepare.grounded_dialogues, or leave 'grpo' out",
        )
    part = AnswerPart.of(bench.part(model), reward_objective(settings.rollouts))
    seed, log = bench.context.project.project.seed, folder / "rewards.jsonl"
    drawn = Drawn(part, asked, settings.rollouts, bench.renderer, seed, log)
    course = bench.learn(part, drawn, "grpo", settings.rollouts.steps, settings.rollouts.optimizer, began)
    return {"questions": len(asked), "reward": {name: -loss for name, loss in course["loss"].items()}, **course}


def _right(part: AnswerPart, pairs: list[list[Answer]], bench: Bench) -> float | None:
    """Share of pairs whose better answer is the likelier per token."""
    if not pairs:
        return None
    batches = PackedAnswers(pairs, bench.settings.sequence, bench.end_of_document)
    tokens = np.array([(answer.piece[1] >= 0).sum() for row in batches.rows for pair in row for answer in pair])
    per_token = log_probs(part, batches) / tokens
    return float((per_token[0::2] > per_token[1::2]).mean())


def _reference(part: AnswerPart, batches: PackedAnswers, cache: Path) -> Any:
    """log p of all answers before the first step, computed once: a run that goes on finds them in `cache`."""
    if cache.is_file():
        return np.load(cache)
    found = log_probs(part, batches)
    if is_first_rank():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.with_suffix(".partial").open("wb") as stream:
            np.save(stream, found)
        cache.with_suffix(".partial").rename(cache)
    return found


def finished(folder: Path) -> dict[str, Any] | None:
    """The summary of a step that is done."""
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None
