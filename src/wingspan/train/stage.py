"""The train stage: prepare's tokens and a start -> a base model as a Hugging Face folder."""

from __future__ import annotations

import math
import shutil
import time
from functools import partial
from typing import Any

from wingspan.errors import InputError
from wingspan.model.checkpoint import Folder, open_folder
from wingspan.model.gguf import open_model_folder
from wingspan.model.shape import ModelShape, shape_of
from wingspan.project import Layout, Project, Train
from wingspan.train.checkpoint.export import export
from wingspan.train.data.batches import TokenSplit, open_split
from wingspan.train.loop import Recipe, fit
from wingspan.train.optimize.ramp import plateaus, steps_for
from wingspan.train.processes import is_first_rank, processes
from wingspan.train.start import read_layout, start_part
from wingspan.train.telemetry.evaluation import HeldOut, groups_of
from wingspan.train.telemetry.machines import read_machines
from wingspan.train.telemetry.record import Telemetry
from wingspan.train.telemetry.score import bits_per_byte
from wingspan.workspace import StageContext

_TOKENS_PER_PARAMETER = 20  # of the active ones: compute-optimal (Hoffmann et al. 2022)
_SCORED_SHARE = 0.1  # of the tokens trained on: what scoring held-out posts may read


def work(context: StageContext) -> dict[str, Any]:
    """Train, score held-out posts before and after, export; goes on where a killed run left off.

    Raises InputError for a layout or a batch that does not divide, or a tokenizer larger than the model.
    """
    began = time.perf_counter()
    project, settings, seed = context.project, context.project.train, context.project.project.seed
    machines = read_machines(context.read("plan/plan.json"), project.fleet)
    with (
        Telemetry(context.output, machines, project.telemetry) as telemetry,
        processes(settings.hang_timeout_s) as device,
    ):
        folder = _start_folder(context)
        shape = shape_of(project.model) if folder is None else folder.shape
        posts, held_out = (
            open_split(context.read("prepare/tokens"), split, verify=is_first_rank()) for split in ("train", "held_out")
        )
        layout = read_layout(context.read("plan/layout.json"))
        _check(posts, shape, project, layout)
        recipe = recipe_of(project, shape)
        scored = held_out.sample(round(_SCORED_SHARE * recipe.steps * _tokens_per_step(settings)), seed)
        part = start_part(
            shape,
            layout,
            seed if folder is None else folder,
            sequence=settings.sequence,
            global_batch=settings.ramp.start if settings.ramp else settings.global_batch,
            device=device,
            compiled=settings.compile,
            tuned_at=settings.optimizer.tuned_at,
            z_loss=settings.z_loss,
        )

        def score(when: str) -> float | None:
            name = f"held-out posts, {when}"
            with telemetry.spent("evaluation"):
                return bits_per_byte(part, scored, settings.sequence, settings.global_batch, context.progress, name)

        if every := project.telemetry.evaluate_every:
            tokens = round(_SCORED_SHARE * every * _tokens_per_step(settings))
            sample = HeldOut(held_out, groups_of(context.read("prepare"), "held_out"), tokens, seed)
            telemetry.evaluation = partial(sample.score, part, settings.sequence, settings.global_batch)
        before = score("before")
        setup_s = time.perf_counter() - began
        fitted = fit(part, posts.packed(settings.sequence), recipe, context.output, context.progress, telemetry)
        after = score("after")
        export(part, context.output / "base", context.read("prepare/tokenizer"), posts.end_of_document)
        if is_first_rank():
            shutil.rmtree(context.output / "checkpoints", ignore_errors=True)
    return {
        "tokens": fitted.tokens,
        "steps": fitted.steps,
        "skipped_steps": fitted.skipped,
        "parameters": shape.parameters,
        "loss": {"first": fitted.first_loss, "last": fitted.last_loss},
        "held_out_bits_per_byte": {"before": before, "after": after},
        "tokens_per_s": round(fitted.tokens_per_s, 1),
        "first_step_s": round(setup_s + fitted.first_step_s, 3),
        "precision": str(part.model.compute).removeprefix("torch."),
        "layout": part.layout.model_dump(),
    }


def _start_folder(context: StageContext) -> Folder | None:
    """The model to start from, opened; None for random weights."""
    start = context.project.model.start
    return None if start == "scratch" else open_folder(open_model_folder(start, context.run.base))


def recipe_of(project: Project, shape: ModelShape) -> Recipe:
    """How the project trains a network of this shape."""
    settings = project.train
    samples = math.ceil((settings.tokens or _TOKENS_PER_PARAMETER * shape.active_parameters) / settings.sequence)
    full, ramp = settings.global_batch, settings.ramp
    growth = plateaus(ramp.start, full, ramp.share, samples) if ramp else ()
    return Recipe(
        name="train",
        steps=steps_for(samples, growth, full),
        ramp=growth,
        global_batch=settings.global_batch,
        optimizer=settings.optimizer,
        seed=project.project.seed,
        checkpoint_every=settings.checkpoint_every,
        keep_checkpoints=settings.keep_checkpoints,
        log_every=settings.log_every,
        spike_deviations=settings.spike_deviations,
        rollback_after=settings.rollback_after,
        local_checkpoints=settings.local_checkpoints,
        local_checkpoint_every=settings.local_checkpoint_every,
        hang_timeout_s=settings.hang_timeout_s,
    )


def _tokens_per_step(settings: Train) -> int:
    return settings.global_batch * settings.sequence


def _check(posts: TokenSplit, shape: ModelShape, project: Project, layout: Layout) -> None:
    if project.train.ramp is not None and layout.pp > 1:
        raise InputError(
            "a pipeline is built for one number of micro-batches",
            where="train.ramp",
            remedy="Leave it out, or set pp to 1",
        )
    if posts.vocab > shape.vocab:
        raise InputError(
            f"the tokenizer has {posts.vocab} tokens, the model only {shape.vocab}",
            where="model.vocab",
            remedy=f"Set it to {posts.vocab}" if project.model.start == "scratch" else "Run prepare again",
        )
    if not len(posts.length):
        raise InputError("there are no posts to train on", where="prepare/tokens", remedy="Add posts, or refuse fewer")
