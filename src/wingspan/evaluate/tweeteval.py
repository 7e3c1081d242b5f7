"""TweetEval: seven questions about posts with the official scores (Barbieri et al. 2020), asked in the chat form.

The data is the published folder: TASK/SPLIT_text.txt and SPLIT_labels.txt, one post or class number a line, stance
with a folder for each target. The last split that has labels is scored (test, else val); the first is taught from.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wingspan.errors import InputError
from wingspan.evaluate import statistics
from wingspan.evaluate.measures import Measure, classes_measure
from wingspan.evaluate.statistics import Floats
from wingspan.evaluate.tasks import Task, choice_config, choice_doc, curated
from wingspan.model.chat import Message

_SPLITS = ("train", "val", "test")
_STATISTICS = {
    "macro F1": statistics.macro_f1,
    "F1 of the ironic": statistics.f1_of(1),
    "macro recall": statistics.macro_recall,
    "mean F1 of against and favour": statistics.f1_of(1, 2),
}


@dataclass(frozen=True)
class _Question:
    """A task: what is asked of a post, its classes in words and in the order of their numbers, its official score."""

    name: str
    asked: str
    classes: list[str]
    metric: str


_QUESTIONS = [_Question(**row) for row in curated("tweeteval.jsonl")]
_TARGETS = {
    "abortion": "the legalisation of abortion",
    "atheism": "atheism",
    "climate": "the view that climate change is a real concern",
    "feminist": "the feminist movement",
    "hillary": "Hillary Clinton",
}


def tweeteval_tasks(folder: Path, shots: Sequence[int], count: int, seed: int) -> list[Task]:
    """At most `count` posts of each task, once for each number of examples put before the question.

    Raises InputError when the folder has none of the tasks.
    """
    posed = []
    for question in _QUESTIONS:
        if not (scored := _posts(folder, question, -1)):
            continue
        examples = _posts(folder, question, 0)
        order = random.Random(f"{seed} {question.name}")
        chosen = sorted(order.sample(range(len(scored)), min(count, len(scored))))
        for number in shots:
            before = _examples(examples, question, number, order)
            docs = [
                choice_doc(str(at), str(at), [*before, _user(scored[at][0])], question.classes, scored[at][1])
                | {"own": scored[at][2]}
                for at in chosen
            ]
            posed.append(_task(question, f"tweeteval_{question.name}{_suffix(number)}", number, docs))
    if not posed:
        raise InputError(
            "there is no TweetEval here", where=folder, remedy="Name the folder that holds emotion/, irony/ ..."
        )
    return posed


def average_task(posed: Sequence[Task], number: int) -> Task:
    """The average over the tasks asked with so many examples, as a task whose documents are all of theirs.

    TweetEval's leaderboard shows it as TE, of all seven.
    """
    parts = parts_of(posed, number)
    docs = [{**doc, "part": part.name, "id": f"{part.name}-{doc['id']}"} for part in parts for doc in part.docs]
    for doc in docs:
        doc["cluster"] = doc["id"]
    by_name = {part.name: part.measures[0] for part in parts}

    def columns(docs: Sequence[Any], answers: Sequence[Any]) -> Floats:
        """Each part's columns in a block of their own."""
        blocks = []
        for place, (name, measure) in enumerate(by_name.items()):
            pairs = [pair for pair in zip(docs, answers, strict=True) if pair[0]["part"] == name]
            own = measure.columns([doc for doc, _ in pairs], [answer for _, answer in pairs])
            blocks.append(np.pad(own, ((0, 0), (starts[place], starts[-1] - starts[place + 1]))))
        return np.concatenate(blocks)

    def statistic(sums: Floats) -> Floats:
        scores = [
            measure.statistic(sums[..., starts[place] : starts[place + 1]])
            for place, measure in enumerate(by_name.values())
        ]
        return np.asarray(np.mean(scores, axis=0))

    starts = [0, *np.cumsum([len(part.docs[0]["choices"]) ** 2 for part in parts])]
    title = f"TweetEval, average of {len(parts)} tasks{_told(number)}"
    measure = Measure(f"tweeteval{_suffix(number)}", title, "mean of the official scores", "share", statistic, columns)
    return Task(f"tweeteval{_suffix(number)}", choice_config("acc"), docs, [measure])


def parts_of(posed: Sequence[Task], number: int) -> list[Task]:
    """The tasks among `posed` that are asked with so many examples."""
    names = {f"tweeteval_{question.name}{_suffix(number)}" for question in _QUESTIONS}
    return [task for task in posed if task.name in names]


def write_lessons(folder: Path, target: Path, each: int, seed: int) -> dict[str, int]:
    """Questions and right answers for align, as JSON lines of `messages`: at most `each` of a task, classes in turn.

    They are of splits that are not scored; a task without one is left out. Returns how many of each task.
    """
    counts = {}
    with target.open("w", encoding="utf-8") as stream:
        for question in _QUESTIONS:
            posts = _posts(folder, question, 0)
            lessons = list(_balanced(posts, random.Random(f"{seed} {question.name}"), each))
            for text, gold, _ in lessons:
                messages = [_user(text), {"role": "assistant", "content": question.classes[gold]}]
                stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            counts[question.name] = len(lessons)
    if not any(counts.values()):
        raise InputError(
            "nothing here can be taught", where=folder, remedy="Name the folder that holds emotion/, irony/ ..."
        )
    return counts


_Post = tuple[str, int, str]  # the question about it, its class, its text


def _posts(folder: Path, question: _Question, which: int) -> list[_Post]:
    """The posts of the first (0) or last (-1) labelled split; none to teach from where there is but one split."""
    homes = {"": folder / question.name}
    if question.name == "stance":
        homes = {target: folder / "stance" / name for name, target in _TARGETS.items()}
    found = []
    for target, home in homes.items():
        splits = [split for split in _SPLITS if (home / f"{split}_labels.txt").is_file()]
        if not splits or (which == 0 and len(splits) == 1):
            continue
        asked = question.asked.format(target=target)
        for text, gold in _lines(home, splits[which], len(question.classes)):
            found.append((f"{asked}\n\nPost: {' '.join(text.split())}", gold, text))
    return found


def _lines(home: Path, split: str, classes: int) -> Iterator[tuple[str, int]]:
    path = home / f"{split}_labels.txt"
    texts = (home / f"{split}_text.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    labels = path.read_text(encoding="utf-8").split()
    if len(texts) != len(labels) or not all(one.isdigit() and int(one) < classes for one in labels):
        problem = f"{len(labels)} labels do not fit {len(texts)} posts, or are no numbers below {classes}"
        raise InputError(problem, where=path, remedy="Fetch the folder anew")
    yield from zip(texts, map(int, labels), strict=True)


def _balanced(posts: Sequence[_Post], order: random.Random, count: int) -> Iterator[_Post]:
    """At most `count`, a class after the other while each has some."""
    shuffled = order.sample(posts, len(posts))
    seen: dict[int, int] = {}
    ranked: list[tuple[int, int, _Post]] = []
    for post in shuffled:
        seen[post[1]] = seen.get(post[1], 0) + 1
        ranked.append((seen[post[1]], len(ranked), post))
    yield from (post for _, _, post in sorted(ranked)[:count])


def _examples(posts: Sequence[_Post], question: _Question, number: int, order: random.Random) -> list[Message]:
    return [
        message
        for text, gold, _ in _balanced(posts, order, number)
        for message in (_user(text), Message(role="assistant", content=question.classes[gold]))
    ]


def _task(question: _Question, name: str, number: int, docs: list[dict[str, Any]]) -> Task:
    title, metric = f"TweetEval {question.name}{_told(number)}", question.metric
    measure = classes_measure(name, title, metric, _STATISTICS[metric], len(question.classes))
    return Task(name, choice_config("acc"), docs, [measure])


def _suffix(number: int) -> str:
    return f"_{number}shot" if number else ""


def _told(number: int) -> str:
    return f", after {number} examples" if number else ""


def _user(text: str) -> Message:
    return {"role": "user", "content": text}
