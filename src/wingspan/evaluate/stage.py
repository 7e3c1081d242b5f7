"""The evaluate stage: base and assistant answer the same held-out questions; scores.json says who is better."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from wingspan.errors import InputError
from wingspan.evaluate import safety, tasks
from wingspan.evaluate.benchmarks import benchmark_task
from wingspan.evaluate.contamination import contaminated
from wingspan.evaluate.endpoint import EndpointModel, is_endpoint
from wingspan.evaluate.harness import HarnessModel, run_tasks, task_of_file
from wingspan.evaluate.measures import citations_of, named_choice
from wingspan.evaluate.scores import score_table, worst
from wingspan.evaluate.tasks import CITATIONS, Task, in_words
from wingspan.evaluate.tweeteval import average_task, parts_of, tweeteval_tasks
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.index import PostIndex
from wingspan.model.chat import ChatRenderer
from wingspan.model.checkpoint import load
from wingspan.progress import Progress
from wingspan.project import Project
from wingspan.workspace import StageContext

MODELS = {"base": "train/base", "assistant": "align/assistant"}

Row = dict[str, Any]
Answers = dict[str, dict[str, list[Any]]]  # model -> task -> answers

_IN_WORDS = "asked_in_words"  # task files for endpoints, and their answers as they come
_SAMPLES = 6  # answers of both models put into scores.json, for people to read


def work(context: StageContext) -> dict[str, Any]:
    """Write scores.json and tasks/ (task files that any lm-eval backend runs); returns the scores in short."""
    posed = make_tasks(context)
    for task in posed:
        task.write(context.output / "tasks")
    answers: Answers = {}
    seconds: dict[str, float] = {}
    for model, spec in _models(context).items():
        start = time.perf_counter()
        answers[model] = ask(model, spec, posed, context.output, context.progress)
        seconds[model] = round(time.perf_counter() - start, 2)
    shutil.rmtree(context.output / _IN_WORDS, ignore_errors=True)  # nothing is left to ask again
    rows = _score(context, posed, answers)
    scores = {
        "models": list(answers),
        "seed": context.project.project.seed,
        "tasks": rows,
        "samples": samples(posed, answers),
        "worst": [one for task in posed for one in worst(task, _of(task, answers))],
        "empty_answers": {model: _count(posed, given, lambda doc, said: not said) for model, given in answers.items()},
        "unread_answers": {model: _count(posed, given, _unread) for model, given in answers.items()},
        "seconds": seconds,
    }
    (context.output / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False), encoding="utf-8")
    return {row["name"]: {model: round(one["value"], 4) for model, one in row["scores"].items()} for row in rows}


def _models(context: StageContext) -> dict[str, str]:
    """Name -> folder or endpoint of everybody who is asked."""
    models = {model: str(context.read(artefact)) for model, artefact in MODELS.items()}
    rival = context.project.evaluate.rival
    if rival:
        models["rival"] = rival if is_endpoint(rival) else str(context.run.outside(rival))
    return models


def _score(context: StageContext, posed: Sequence[Task], answers: Answers) -> list[Row]:
    """All rows; of questions that came from outside, also without those that the training posts hold."""
    settings, seed = context.project.evaluate, context.project.project.seed
    outside = {task.name: task.docs for task in posed if task.docs and "own" in task.docs[0]}
    found = contaminated(outside, context.read("prepare/posts")) if outside else {}
    rows = []
    for task in [*posed, *_averages(posed, answers, settings.shots)]:
        rows += score_table(
            task, _of(task, answers), resamples=settings.resamples, seed=seed, contaminated=found.get(task.name)
        )
    return rows


def _of(task: Task, answers: Answers) -> dict[str, list[Any]]:
    """What those models answered to a task that were asked it."""
    return {model: given[task.name] for model, given in answers.items() if task.name in given}


def _averages(posed: Sequence[Task], answers: Answers, shots: Sequence[int]) -> list[Task]:
    """TweetEval's averages; their answers are put together from the tasks'."""
    averages = []
    for number in shots:
        if parts := parts_of(posed, number):
            averages.append(average_task(posed, number))
            for given in answers.values():
                given[averages[-1].name] = [answer for part in parts for answer in given[part.name]]
    return averages


def _count(posed: Sequence[Task], given: Mapping[str, Sequence[Any]], holds: Callable[[Row, str], bool]) -> int:
    return sum(
        isinstance(answer, str) and holds(doc, answer)
        for task in posed
        for doc, answer in zip(task.docs, given.get(task.name, []), strict=False)
    )


def _unread(doc: Row, answer: str) -> bool:
    """Said in words, and naming none of the choices: counted as wrong, and told."""
    return "choices" in doc and named_choice(doc["choices"], answer) < 0


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
    return [*posed, *_opted_tasks(context, posts)]


def _opted_tasks(context: StageContext, posts: Sequence[Row]) -> list[Task]:
    """What the project file asks for beyond held-out data."""
    settings, outside, seed = context.project.evaluate, context.run.outside, context.project.project.seed
    system, tokens = context.project.assistant.instructions, settings.answer_tokens
    posed = []
    if settings.threads:
        posed.append(tasks.summaries_task(posts, system, answer_tokens=tokens, count=settings.threads, seed=seed))
    if settings.tweeteval:
        posed += tweeteval_tasks(outside(settings.tweeteval), settings.shots, settings.items, seed)
    for path in map(outside, settings.benchmarks):
        a_task_file = path.suffix in (".yaml", ".yml")
        posed.append(task_of_file(path, settings.items) if a_task_file else benchmark_task(path, settings.items, seed))
    if settings.safety:
        posed += safety.safety_tasks(system, tokens)
        for name, split in (("memorised", "train"), ("guessed", "held_out")):
            first = min(context.read("prepare/posts").glob(f"{split}-*.parquet"))  # one shard is sample enough
            texts = zip(*(pq.read_table(first).column(name).to_pylist() for name in ("post_id", "text")), strict=True)
            title = {"train": "Training posts continued word for word", "held_out": "The same of held-out posts"}[split]
            posed.append(safety.verbatim_task(name, title, texts, settings.items, seed))
    posed += [safety.leak_task(name, outside(path), settings.items, seed) for name, path in settings.leaks.items()]
    return _once(posed)


def _once(posed: list[Task]) -> list[Task]:
    names = [task.name for task in posed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two tasks have the name {twice[0]}", where="evaluate", remedy="Rename one of the files")
    return posed


def _citations_task(project: Project, posts: Sequence[Row], conversations: Sequence[Row]) -> Task:
    index = PostIndex()
    index.add(SourcePost(post["post_id"], post["text"]) for post in posts)
    task = tasks.citations_task(
        conversations,
        index,
        project.assistant.instructions,
        retrieved=project.serve.retrieved_posts,
        answer_tokens=project.evaluate.answer_tokens,
        count=project.evaluate.citation_questions,
        seed=project.project.seed,
    )
    index.close()
    return task


def ask(model: str, spec: str, posed: Sequence[Task], output: Path, progress: Progress) -> dict[str, list[Any]]:
    """One model's answers to every document of every task; an endpoint answers what can be asked in words."""
    if is_endpoint(spec):
        posed = [said for task in posed if (said := in_words(task))]
        for task in posed:
            task.write(output / _IN_WORDS)
        with progress.task(f"asking the {model}", sum(len(task.docs) for task in posed), "answers") as bar:
            endpoint = EndpointModel(spec, output / _IN_WORDS / "answers", bar.advance)
            return run_tasks(posed, output / _IN_WORDS, endpoint)
    folder = Path(spec)
    requests = sum(len(doc.get("choices", [0])) for task in posed for doc in task.docs)
    end_of_document = json.loads((folder / "config.json").read_text())["bos_token_id"]
    renderer = ChatRenderer.from_folder(folder)
    network = load(folder, torch.bfloat16)
    with progress.task(f"asking the {model}", requests, "answers") as bar:
        harness = HarnessModel(network, renderer, end_of_document, bar.advance)
        answers = run_tasks(posed, output / "tasks", harness)
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
