"""The pipeline on one page: what each stage asks, reads and writes, and who does the work.

    plan -> rehearse -> prepare -> train -> align -> evaluate -> serve

Stages meet only at the files named here. `serve` is not in the list: it runs until it is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

from wingspan.errors import InputError
from wingspan.progress import Progress
from wingspan.project import Project
from wingspan.workspace import Outcome, Run, StageSpec, StageWork, fingerprint_of, run_stage


def _prepared_files(project: Project) -> Sequence[str]:
    settings = project.prepare
    sources = [*settings.posts, *settings.dialogues, *settings.labels, *settings.reactions]
    lists = [*([project.prepare.opt_outs] if project.prepare.opt_outs else []), *project.prepare.evaluation_sets]
    return [*dict.fromkeys([*(source.path for source in sources), *lists, *_start_model(project)])]


def _evaluated_files(project: Project) -> Sequence[str]:
    settings = project.evaluate
    named = [settings.tweeteval, *settings.benchmarks, *settings.leaks.values()]
    rival = [] if settings.rival.startswith(("http://", "https://")) else [settings.rival]
    return [one for one in [*_start_model(project), *named, *rival] if one]


def _start_model(project: Project) -> Sequence[str]:
    return [] if project.model.start == "scratch" else [project.model.start]


# All that a layout changes of a model: a run goes on, and stays done, however its ranks are arranged.
_PRECISION = "plan/layout.json#layout.precision"

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="plan",
        question="what would it take?",
        settings=("model", "fleet", "layout", "prepare", "train", "align", "evaluate"),
        reads=(),
        work="wingspan.plan.stage:work",
    ),
    StageSpec(
        name="rehearse",
        question="would it hold?",
        settings=("model", "fleet", "train"),
        reads=("plan/layout.json", "plan/plan.json"),
        work="wingspan.rehearse.stage:work",
    ),
    StageSpec(
        name="prepare",
        question="posts -> conversations -> tokens",
        settings=("rights", "model", "prepare", "assistant"),
        reads=(),
        work="wingspan.prepare.stage:work",
        resumable=True,
        version=2,
        outside=_prepared_files,
    ),
    StageSpec(
        name="train",
        question="tokens -> base model",
        settings=("model", "train"),
        reads=(_PRECISION, "prepare/tokens", "prepare/tokenizer"),
        work="wingspan.train.stage:work",
        resumable=True,
        outside=_start_model,
    ),
    StageSpec(
        name="align",
        question="base model -> assistant",
        settings=("align", "assistant"),
        reads=(_PRECISION, "prepare/conversations", "prepare/posts?", "prepare/reactions?", "train/base"),
        work="wingspan.align.stage:work",
        resumable=True,
        outside=lambda project: [source.path for source in project.align.preference.sources],
    ),
    StageSpec(
        name="evaluate",
        question="is it better?",
        settings=("assistant", "evaluate", "serve"),
        reads=("prepare/posts", "prepare/conversations", "prepare/labels?", "train/base", "align/assistant"),
        work="wingspan.evaluate.stage:work",
        resumable=True,
        version=2,
        outside=_evaluated_files,
    ),
)

STAGE_NAMES = tuple(spec.name for spec in STAGES)


def stage_spec(name: str) -> StageSpec:
    """The stage of that name; raises InputError for a name that is none."""
    for spec in STAGES:
        if spec.name == name:
            return spec
    raise InputError(f"there is no stage '{name}'", remedy=f"Stages: {', '.join(STAGE_NAMES)}")


def perform(run: Run, name: str, progress: Progress, *, force: bool = False) -> Outcome:
    """Run one stage of a run whose lock the caller holds."""
    spec = stage_spec(name)
    return run_stage(run, spec, _work(spec), progress, force=force)


def _work(spec: StageSpec) -> StageWork:
    """The stage's function, imported only now: most commands need no torch."""

    def work(context: object) -> object:
        module, _, function = spec.work.partition(":")
        loaded: Callable[[object], object] = getattr(import_module(module), function)
        return loaded(context)

    return cast(StageWork, work)


def state(run: Run, spec: StageSpec) -> str:
    """'done', 'stale' (its inputs or settings changed) or 'absent'."""
    manifest = run.manifest(spec.name)
    if manifest is None:
        return "absent"
    try:
        return "done" if fingerprint_of(run, spec) == manifest["fingerprint"] else "stale"
    except InputError:
        return "stale"
