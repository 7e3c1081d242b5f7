"""The evaluate stage: base and assistant answer the same held-out questions; scores.json says who is better."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from wingspan.errors import InputError
from wingspan.evaluate import tasks
from wingspan.evaluate.harness import HarnessModel, run_tasks
from wingspan.evaluate.measures import citations_of, score_table
from wingspan.evaluate.tasks import CITATIONS, Task
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.index import PostIndex
from wingspan.model.chat import ChatRenderer
from wingspan.model.checkpoint import load
from wingspan.project import Project
from wingspan.workspace import StageContext

MODELS = {"base": "train/base", "assistant": "align/assistant"}

Row = dict[str, Any]

_SAMPLES = 6  # answers of both models put into scores.json, for people to read


def work(context: StageContext) -> dict[str, Any]:
    """Write scores.json and tasks/ (task files that any lm-eval backend runs); returns the scores in short."""
    posed = make_tasks(context)
    folder = context.output / "tasks"
    for task in posed:
        task.write(folder)
    answers: dict[str, dict[str, list[Any]]] = {}
    seconds: dict[str, float] = {}
    for model, artefact in MODELS.items():
        start = time.perf_counter()
        answers[model] = ask(context, model, context.read(artefact), posed)
        seconds[model] = round(time.perf_counter() - start, 2)
    settings = context.project.evaluate
    rows = [
        row
        for task in posed
        for row in score_table(
            task,
            {model: given[task.name] for model, given in answers.items()},
            resamples=settings.resamples,
            seed=context.project.project.seed,
        )
    ]
    scores = {
        "models": list(MODELS),
        "tasks": rows,
        "samples": samples(posed, answers),
        "empty_answers": {
            model: sum(not answer for answer in given.get(CITATIONS, [])) for model, given in answers.items()
        },
        "seconds": seconds,
    }
    (context.output / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False), encoding="utf-8")
    return {row["name"]: {model: round(one["value"], 4) for model, one in row["scores"].items()} for row in rows}


def make_tasks(context: StageContext) -> list[Task]:
    """The tasks that the project has data for, from held-out data alone.

    Raises InputError when data that the project asks for has no held-out part.
    """
    project, settings = context.project, context.project.evaluate
    seed = project.project.seed
    posts = _rows(context.read("prepare/posts"))
    conversations = _rows(context.read("prepare/conversations"))
    posed = [tasks.posts_task(posts, settings.bits_per_byte_posts, seed)]
    if project.prepare.dialogues:
        posed.append(tasks.replies_task(conversations, settings.reply_choices, settings.distractors, seed))
    for name, rated in _rated_posts(context.read("prepare/labels"), posts).items():
        posed.append(tasks.label_task(name, rated, settings.sentiment_posts, seed))
    if project.prepare.grounded_held_out:
        posed.append(_citations_task(project, posts, conversations))
    return posed


def _citations_task(project: Project, posts: Sequence[Row], conversations: Sequence[Row]) -> Task:
    index = PostIndex()
    index.add(SourcePost(post["post_id"], post["text"]) for post in posts)
    task = tasks.citations_task(
        conversations,
        index,
        project.assistant.system,
        retrieved=project.serve.retrieved_posts,
        answer_tokens=project.evaluate.answer_tokens,
        count=project.evaluate.citation_questions,
        seed=project.project.seed,
    )
    index.close()
    return task


def ask(context: StageContext, model: str, folder: Path, posed: Sequence[Task]) -> dict[str, list[Any]]:
    """One model's answers to every document of every task."""
    requests = sum(len(doc.get("choices", [0])) for task in posed for doc in task.docs)
    end_of_document = json.loads((folder / "config.json").read_text())["bos_token_id"]
    network = load(folder, torch.bfloat16)
    with context.progress.task(f"asking the {model}", requests, "answers") as bar:
        harness = HarnessModel(network, ChatRenderer.from_folder(folder), end_of_document, bar.advance)
        answers = run_tasks(posed, context.output / "tasks", harness)
    del network, harness
    gc.collect()  # before the next model comes
    return answers


def samples(posed: Sequence[Task], answers: Mapping[str, Mapping[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """Questions, their posts, and what each model answered and cited."""
    docs = next((task.docs for task in posed if task.name == CITATIONS), [])
    return [
        {
            "question": doc["question"],
            "answerable": doc["answerable"],
            "posts": doc["posts"],
            "answers": {model: given[CITATIONS][number] for model, given in answers.items()},
            "citations": {
                model: [
                    {"number": one.number, "post_id": one.post_id, "claim": one.claim, "supported": one.supported}
                    for one in citations_of(doc, given[CITATIONS][number])
                ]
                for model, given in answers.items()
            },
        }
        for number, doc in enumerate(docs[:_SAMPLES])
    ]


def _rows(folder: Path) -> list[Row]:
    files = sorted(folder.glob("held_out-*.parquet"))
    if not files:
        raise InputError("there is no held-out data here", where=folder, remedy="Set prepare.held_out above 0")
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def _rated_posts(folder: Path, posts: Sequence[Row]) -> dict[str, list[Row]]:
    """Held-out posts that people rated, by the label's name."""
    by_id = {post["post_id"]: post for post in posts}
    return {
        file.stem: [
            {**by_id[row["post_id"]], "value": row["value"]}
            for row in pq.read_table(file).to_pylist()
            if row["split"] == "held_out" and row["post_id"] in by_id
        ]
        for file in sorted(folder.glob("*.parquet"))
    }
