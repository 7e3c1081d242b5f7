"""TweetEval: seven questions about posts with the official scores (Barbieri et al. 2020), asked in the chat form.

The data is the published folder: TASK/SPLIT_text.txt and SPLIT_labels.txt, one post or class number a line, stance
with a folder for each target. The last split that has labels is scored (test, else val); the first is taught from.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
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
_REMEDY = "Name the folder that holds emotion/, irony/ ..."
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
            before = [turn for post in _balanced(examples, order, number) for turn in _taught(question, post)]
            docs = [
                choice_doc(str(at), str(at), [*before, _taught(question, scored[at])[0]], question.classes, gold)
                | {"own": text}
                for at in chosen
                for _, gold, text in [scored[at]]
            ]
            name, title = f"tweeteval_{question.name}{_suffix(number)}", f"TweetEval {question.name}{_told(number)}"
            statistic = _STATISTICS[question.metric]
            measure = classes_measure(name, title, question.metric, statistic, len(question.classes))
            posed.append(Task(name, choice_config("acc"), docs, [measure]))
    if not posed:
        raise InputError("there is no TweetEval here", where=folder, remedy=_REMEDY)
    return posed


def average_task(posed: Sequence[Task], number: int) -> Task:
    """The average over the tasks asked with so many examples, as a task whose documents are all of theirs.

    TweetEval's leaderboard shows it as TE, of all seven.
    """
    parts = parts_of(posed, number)
    measures = {part.name: part.measures[0] for part in parts}
    starts = [0, *np.cumsum([len(part.docs[0]["choices"]) ** 2 for part in parts])]
    blocks = {name: slice(*ends) for name, ends in zip(measures, pairwise(starts), strict=True)}
    docs = [
        {**doc, "part": part.name, "id": f"{part.name} {doc['id']}", "cluster": f"{part.name} {doc['id']}"}
        for part in parts
        for doc in part.docs
    ]

    def columns(docs: Sequence[Any], answers: Sequence[Any]) -> Floats:
        """Each part's columns in a block of their own."""
        found = np.zeros((len(docs), starts[-1]))
        for row, doc, answer in zip(found, docs, answers, strict=True):
            row[blocks[doc["part"]]] = measures[doc["part"]].columns([doc], [answer])[0]
        return found

    def statistic(sums: Floats) -> Floats:
        return np.asarray(np.mean([measures[name].statistic(sums[..., one]) for name, one in blocks.items()], axis=0))

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
            lessons = _balanced(posts, random.Random(f"{seed} {question.name}"), each)
            for post in lessons:
                stream.write(json.dumps({"messages": _taught(question, post)}, ensure_ascii=False) + "\n")
            counts[question.name] = len(lessons)
    if not any(counts.values()):
        raise InputError("nothing here can be taught", where=folder, remedy=_REMEDY)
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


def _balanced(posts: Sequence[_Post], order: random.Random, count: int) -> list[_Post]:
    """At most `count`, a class after the other while each has some."""
    seen: Counter[int] = Counter()
    ranked = []
    for post in order.sample(posts, len(posts)):
        seen[post[1]] += 1
        ranked.append((seen[post[1]], post))
    return [post for _, post in sorted(ranked, key=itemgetter(0))][:count]


def _taught(question: _Question, post: _Post) -> list[Message]:
    """The question about a post, and its answer."""
    return [{"role": "user", "content": post[0]}, {"role": "assistant", "content": question.classes[post[1]]}]


def _suffix(number: int) -> str:
    return f"_{number}shot" if number else ""


def _told(number: int) -> str:
    return f", after {number} examples" if number else ""
