"""What a run folder holds, read once: manifests and the JSON files that the stages left for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wingspan.errors import WorkError
from wingspan.figures import Basis, Figure
from wingspan.stages import STAGE_NAMES
from wingspan.train.telemetry.goodput import FILE as GOODPUT
from wingspan.units import amount
from wingspan.workspace import Run

NOT_RECORDED = "not recorded"

Document = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A run as the report sees it; None and empty stand for stages that have not been run."""

    run: Run
    manifests: dict[str, Document]
    plan: Document | None
    rehearsal: Document | None
    prepared: Document | None
    training: list[Document]
    aligning: dict[str, list[Document]]  # by step
    goodput: dict[str, list[Document]]  # by stage
    evaluations: list[Document]
    scores: Document | None

    def summary(self, stage: str) -> Document:
        """What the stage said of itself, empty when it has not been run."""
        summary: Document = self.manifests.get(stage, {}).get("summary", {})
        return summary


@dataclass(frozen=True)
class Told:
    """A value as a person reads it, with what it rests on and a remark (its band, its source)."""

    text: str
    basis: Basis | None = None
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """A labelled value."""

    label: str
    told: Told


def read_record(run: Run, *, unfinished: bool = False) -> Record:
    """Everything the report needs; raises WorkError naming a file that is damaged.

    `unfinished`: of train and align what is being done, where they are under way.
    """
    train, align = (_folder(run, stage, unfinished) for stage in ("train", "align"))
    manifests = {name: manifest for name in STAGE_NAMES if (manifest := run.manifest(name))}
    return Record(
        run=run,
        manifests=manifests,
        plan=_document(run.folder / "plan/plan.json"),
        rehearsal=_document(run.folder / "rehearse/rehearsal.json"),
        prepared=_document(run.folder / "prepare/report.json"),
        training=_lines(train / "metrics.jsonl"),
        aligning={path.parent.name: _lines(path) for path in sorted(align.glob("*/metrics.jsonl"))},
        goodput={"train": _lines(train / GOODPUT), "align": _lines(align / GOODPUT)},
        evaluations=_lines(train / "evaluations.jsonl"),
        scores=_document(run.folder / "evaluate/scores.json"),
    )


def figure(record: Document | None) -> Figure | None:
    """A figure from its JSON form, which leaves out an empty unit."""
    if record is None:
        return None
    complete: Document = {"unit": "", **record}
    return Figure(**complete)


def tell(what: Figure | None) -> Told:
    """A figure in words; a prediction shows its band."""
    if what is None:
        return Told(NOT_RECORDED)
    band = [unbroken(amount(bound, what.unit)) for bound in (what.low, what.high) if bound is not None]
    return Told(amount(what.value, what.unit), what.basis, " to ".join(band))


def unbroken(text: str) -> str:
    """The same with spaces at which no line breaks."""
    return text.replace(" ", "\u00a0")


def signed(number: str) -> str:
    """A formatted number with a true minus sign."""
    return number.replace("-", "−")


def _folder(run: Run, stage: str, unfinished: bool) -> Path:
    partial = run.folder / f".{stage}.partial"
    return partial if unfinished and partial.is_dir() else run.stage(stage)


def _document(path: Path) -> Document | None:
    if not path.is_file():
        return None
    document: Document = _parsed(path.read_text(encoding="utf-8"), path)
    return document


def _lines(path: Path) -> list[Document]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [_parsed(line, path) for line in lines if line.endswith("\n")]  # the last one may be in the making


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WorkError(
            f"the file is not JSON: {error}", where=path, remedy=f"Delete {path.parent} and run the stage again"
        ) from error
