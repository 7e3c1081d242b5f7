"""From a run folder to an assistant that can answer: its engine, its posts, its rules."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq

from wingspan.engine.engine import Engine
from wingspan.errors import InputError, WorkError
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.index import PostIndex
from wingspan.model.chat import ChatRenderer, load_tokenizer
from wingspan.model.shape import ModelShape
from wingspan.serve.answering import Assistant
from wingspan.workspace import Run, artefact_hash, verify

_ASSISTANT, _POSTS = "align/assistant", "prepare/posts"
_COLUMNS = ["post_id", "text", "author_id", "created_at"]
_BATCH = 10_000  # posts


def load_assistant(run: Run, say: Callable[[str], None]) -> Assistant:
    """Load what `align` and `prepare` made. What it derives is kept in the run folder's `serve/`.

    Raises InputError when the run has no assistant yet, DamagedArtefact when its files have changed.
    """
    folder = run.folder / _ASSISTANT
    if not (folder / "config.json").is_file():
        raise InputError("there is no assistant here yet", where=folder, remedy=f"Make it: wingspan run {run.base}")
    settings = run.project.serve
    return Assistant(
        model_id=run.project.project.name,
        name=run.project.assistant.name,
        system=run.project.assistant.instructions,
        engine=_engine(run, folder, say),
        renderer=ChatRenderer.from_folder(folder),
        index=load_index(run, say),
        retrieved_posts=settings.retrieved_posts,
        remembered_turns=settings.remembered_turns,
        max_tokens=settings.max_tokens,
    )


def _engine(run: Run, folder: Path, say: Callable[[str], None]) -> Engine:
    """The engine that the project names; torch is imported only where it is needed."""
    tokenizer = load_tokenizer(folder)
    if run.project.serve.engine == "torch":
        from wingspan.engine.torch_engine import torch_engine

        verify(run, _ASSISTANT)
        return torch_engine(folder, tokenizer)
    from wingspan.engine.openvino import openvino_engine

    weights = run.project.serve.weights

    def export(target: Path) -> None:
        from wingspan.model.gguf import write_gguf

        say(f"Exporting the assistant to GGUF ({weights}), once")
        verify(run, _ASSISTANT)
        write_gguf(folder, target, weights)

    file = _derived(run, f"assistant-{weights}", artefact_hash(run, _ASSISTANT), ".gguf", export)
    shape = ModelShape.from_hf_config(json.loads((folder / "config.json").read_text()))
    return openvino_engine(file, shape, tokenizer)


def load_index(run: Run, say: Callable[[str], None]) -> PostIndex:
    """The index of all prepared posts, trained on or held out, and of those that came since."""

    def build(target: Path) -> None:
        say("Indexing the posts, once")
        verify(run, _POSTS)
        index = PostIndex(target)
        for file in sorted((run.folder / _POSTS).glob("*.parquet")):
            for batch in _posts(file):
                index.add(batch)
        index.add(_live_posts(run), live=True)
        index.close()

    key = f"{PostIndex.FORMAT}{artefact_hash(run, _POSTS)}"
    file = _derived(run, "posts", key, ".sqlite", build)
    try:
        return PostIndex(file)
    except WorkError as error:  # a damaged index is made anew: posts that came since come again from their sources
        say(f"{error.problem}; making it anew")
        file.unlink()
        cursors_file(run).unlink(missing_ok=True)
        return PostIndex(_derived(run, "posts", key, ".sqlite", build))


def cursors_file(run: Run) -> Path:
    """Where `wingspan serve ingest` keeps how far it has read each source, and what they said of authors."""
    return run.folder / "serve" / "ingest.sqlite"


def _live_posts(run: Run) -> list[SourcePost]:
    """Posts that came since, from the index of an earlier prepare."""
    found: list[SourcePost] = []
    for file in (run.folder / "serve").glob(f"posts-{PostIndex.FORMAT}*.sqlite"):
        with suppress(WorkError):
            earlier = PostIndex(file)
            found += earlier.live_posts()
            earlier.close()
    return found


def _posts(file: Path) -> Iterator[list[SourcePost]]:
    for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=_COLUMNS):
        columns = (batch.column(name).to_pylist() for name in _COLUMNS)
        yield [
            SourcePost(post_id, text, author_id, _milliseconds(created_at))
            for post_id, text, author_id, created_at in zip(*columns, strict=True)
        ]


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _derived(run: Run, name: str, key: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """`serve/NAME-KEY.SUFFIX`, made when absent and then whole; those of earlier keys are deleted."""
    folder = run.folder / "serve"
    file = folder / f"{name}-{key[:16]}{suffix}"
    if file.is_file():
        return file
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as temporary:
        made = Path(temporary) / file.name
        make(made)
        shutil.move(made, file)
    for old in folder.glob(f"{name}-*{suffix}"):
        if old != file:
            old.unlink(missing_ok=True)
    return file
