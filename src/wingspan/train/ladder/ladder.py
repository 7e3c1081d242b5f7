"""`wingspan train ladder`: small models of a project's family, on its tokens, and the loss that they foretell.

Three sizes by three budgets. What is trained lies under `ladder/` in the run folder, each run by what decides it: the
command goes on where it was killed, and trains nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape, shape_of
from wingspan.progress import Progress
from wingspan.project import Layout, Optimizer
from wingspan.train.data.batches import TokenSplit, open_split
from wingspan.train.ladder.law import Law, Prediction, fit_law, predict
from wingspan.train.loop import Recipe, fit
from wingspan.train.processes import processes
from wingspan.train.stage import recipe_of
from wingspan.train.start import start_part
from wingspan.train.telemetry.score import total_loss
from wingspan.workspace import Run, artefact_hash, write_atomically

_RATIOS = (0.25, 0.5, 1.0)  # of the largest rung: sizes, and tokens
_WIDTHS = 32  # sizes are multiples of it
_SCORED_TOKENS = 50_000  # of held-out posts, the same for all rungs


@dataclass(frozen=True)
class Rung:
    """One small run: its size, its tokens, its loss on held-out posts (nats per token)."""

    layers: int
    hidden: int
    parameters: int
    tokens: int
    loss: float
    fitted: float = math.nan


@dataclass(frozen=True)
class Ladder:
    """Rungs, the law through them, and what it says of the project itself."""

    rungs: list[Rung]
    law: Law
    parameters: int
    tokens: int
    loss: Prediction
    bits_per_byte: Prediction
    compute_share: float

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def climb(run: Run, compute_share: float, progress: Progress) -> Ladder:
    """Train the rungs that are not there yet, on this process, and predict the project's own held-out loss.

    `compute_share` is what the largest rungs and all others together may compute, of the project's own training.
    Raises InputError for a model that does not start from scratch, or for one too small to have smaller ones.
    """
    project = run.project
    if project.model.start != "scratch":
        raise InputError(
            "a model that starts from others' weights has no smaller ones of its family",
            where="model.start",
            remedy="Set it to 'scratch'",
        )
    whole = shape_of(project.model)
    recipe = recipe_of(project, whole)
    budget = sum(map(recipe.batch_of, range(recipe.steps))) * project.train.sequence
    posts, held_out = (open_split(run.stage("prepare") / "tokens", split) for split in ("train", "held_out"))
    scored = held_out.sample(_SCORED_TOKENS, project.project.seed)
    top = math.sqrt(compute_share) / sum(_RATIOS)  # the largest rung, of the project's size and of its tokens
    shapes = _family(whole, [top * ratio for ratio in _RATIOS])
    per_step = recipe.global_batch * project.train.sequence
    steps = sorted({max(1, round(top * ratio * budget / per_step)) for ratio in _RATIOS})
    if len(shapes) < 2 or len(steps) < 2:
        raise InputError(
            f"{compute_share:g} of the project's training is too little for models of several sizes and budgets",
            where="--compute",
            remedy="Raise it, or make the project larger",
        )
    data = artefact_hash(run, "prepare/tokens")
    rungs = []
    for shape in shapes:
        for number in steps:
            small = replace(recipe, name=f"{shape.layers} x {shape.hidden}, {number} steps", steps=number, ramp=())
            folder = run.folder / "ladder" / _key(shape, small, project.train.sequence, data)
            loss = _measured(folder, shape, small, posts, scored, project.train.sequence, progress)
            rungs.append(Rung(shape.layers, shape.hidden, shape.matmul_parameters, number * per_step, loss))
    return _conclude(rungs, whole, budget, scored, project.project.seed)


def _family(whole: ModelShape, sizes: list[float]) -> list[ModelShape]:
    """Networks of about these shares of the parameters: as deep for their width, with as wide heads and MLPs."""
    candidates = [_narrowed(whole, hidden) for hidden in range(_WIDTHS, whole.hidden, _WIDTHS)]
    wanted = [math.log(size * whole.matmul_parameters) for size in sizes]
    found = {min(candidates, key=lambda one: abs(math.log(one.matmul_parameters) - size)) for size in wanted[::-1]}
    return sorted(found, key=lambda one: one.matmul_parameters)


def _narrowed(whole: ModelShape, hidden: int) -> ModelShape:
    share = hidden / whole.hidden
    kv_heads = max(1, round(whole.kv_heads * share))

    def width(of: int) -> int:
        return max(_WIDTHS, round(of * share / _WIDTHS) * _WIDTHS) if of else 0

    return replace(
        whole,
        layers=max(1, round(whole.layers * share)),
        hidden=hidden,
        heads=kv_heads * (whole.heads // whole.kv_heads),
        kv_heads=kv_heads,
        ffn=width(whole.ffn),
        expert_ffn=width(whole.expert_ffn),
    )


def _key(shape: ModelShape, recipe: Recipe, sequence: int, data: str) -> str:
    """A name for all that decides what a rung measures."""
    optimizer: Optimizer = recipe.optimizer
    deciding = [asdict(shape), recipe.steps, recipe.global_batch, recipe.seed, optimizer.model_dump(), sequence, data]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def _measured(
    folder: Path,
    shape: ModelShape,
    recipe: Recipe,
    posts: TokenSplit,
    scored: TokenSplit,
    sequence: int,
    progress: Progress,
) -> float:
    """Loss of a rung after its training, in nats per token; trained and scored only if it was not yet."""
    result = folder / "result.json"
    if not result.is_file():
        with processes(recipe.hang_timeout_s) as device:
            part = start_part(
                shape,
                Layout(micro_batch=recipe.global_batch),
                recipe.seed,
                sequence=sequence,
                global_batch=recipe.global_batch,
                device=device,
                tuned_at=recipe.optimizer.tuned_at,
            )
            fit(part, posts.packed(sequence), recipe, folder, progress)
            nats = total_loss(part, scored.packed(sequence), recipe.global_batch, progress, f"{recipe.name}: held-out")
        write_atomically(result, json.dumps({"loss": nats / int(scored.length.sum())}))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return float(json.loads(result.read_text())["loss"])


def _conclude(rungs: list[Rung], whole: ModelShape, tokens: int, scored: TokenSplit, seed: int) -> Ladder:
    n, d, losses = (
        np.array([getattr(rung, name) for rung in rungs], dtype=np.float64) for name in ("parameters", "tokens", "loss")
    )
    own = whole.matmul_parameters
    try:
        law = fit_law(n, d, losses)
    except ValueError as error:
        raise InputError(str(error), where="--compute", remedy="Raise it") from error
    loss = predict(law, n, d, losses, (own, tokens), seed)
    bits = float(scored.length.sum() / scored.bytes.sum()) / math.log(2)  # of a byte, per nat of a token
    return Ladder(
        rungs=[replace(rung, fitted=float(law.loss(rung.parameters, rung.tokens))) for rung in rungs],
        law=law,
        parameters=own,
        tokens=tokens,
        loss=loss,
        bits_per_byte=Prediction(*(value * bits for value in (loss.value, loss.low, loss.high))),
        compute_share=float((n * d).sum()) / (own * tokens),
    )
