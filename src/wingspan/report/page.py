"""report.html of a run: one self-contained page, readable without a network, a script or wingspan."""

from __future__ import annotations

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

import wingspan
from wingspan.errors import InputError
from wingspan.report import data, goodput, learning, overview, provenance, quality, scale
from wingspan.report.record import Record, read_record
from wingspan.workspace import Run, write_atomically

REPORT = "report.html"

_SECTIONS = (
    ("run", "The run"),
    ("reality", "Plan beside reality"),
    ("data", "The posts"),
    ("learning", "Learning"),
    ("scores", "Is it better?"),
    ("answers", "Sample answers"),
    ("fleet", "On a fleet"),
    ("rehearsal", "Rehearsal"),
    ("provenance", "What it rests on"),
)

pages = Environment(
    loader=ChoiceLoader([PackageLoader("wingspan.report"), PackageLoader("wingspan")]),
    autoescape=True,  # posts, questions and answers are text that strangers wrote
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(run: Run) -> Path:
    """Write the report of what the run folder holds now.

    Raises InputError when there is no such folder, WorkError naming a damaged file.
    """
    if not run.folder.is_dir():
        raise InputError("nothing has been run yet", where=run.folder, remedy="Start with: wingspan run PROJECT")
    path = run.folder / REPORT
    write_atomically(path, render(read_record(run)))
    return path


def render(record: Record) -> str:
    """The page as HTML."""
    return pages.get_template("page.html").render(
        project=record.run.project,
        record=record,
        sections=_SECTIONS,
        version=wingspan.__version__,
        overview=overview,
        data=data,
        learning=learning,
        goodput=goodput,
        quality=quality,
        scale=scale,
        provenance=provenance,
    )
