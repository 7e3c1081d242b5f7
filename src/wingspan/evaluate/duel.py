"""Models side by side: the same prompts, a judge who sees two answers without names, and what the verdicts are worth.

A model judges every pair in both orders, which cancels its liking for the first. A person judges on a page that
names nobody. Strengths are Bradley and Terry's (1952), on the scale of Elo; with the difference in length as a
covariate they are what they would be between answers of equal length (after Dubois et al. 2024).
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from wingspan.errors import InputError
from wingspan.evaluate.measures import chosen
from wingspan.evaluate.stage import ask
from wingspan.evaluate.statistics import Floats, bootstrap_weights
from wingspan.evaluate.tasks import Task, answer_config, choice_config, choice_doc, prompt_text
from wingspan.model.chat import Message
from wingspan.progress import Progress

PAGE = "duel.html"
_ASKED = "Which answer is better: A, B or tie?"
_VERDICTS = ("A", "B", "tie")
_POINTS = (1.0, 0.0, 0.5)  # of the answer shown as A
_RESAMPLES = 500
_PRIOR = 0.1  # weight of a normal prior on strengths: who won everything stays finite
_ELO = 400 / math.log(10)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, in the order that a judge sees them."""

    prompt: int
    question: str
    left: str
    right: str
    answers: tuple[str, str]


@dataclass(frozen=True)
class Standing:
    """A model's strength with its 95% interval, and the same between answers of equal length."""

    model: str
    elo: tuple[float, float, float]
    equal_length: tuple[float, float, float]
    points: float  # share of its duels won, a tie as half
    empty: int


def read_prompts(path: Path) -> list[list[Message]]:
    """Prompts of JSON lines with `messages`, `turns` (the first is asked), `question` or `prompt`; else text lines."""
    prompts: list[list[Message]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line) if path.suffix == ".jsonl" else {"prompt": line}
            text = row.get("prompt") or row.get("question") or row.get("turns", [None])[0]
            alone: list[Message] = [{"role": "user", "content": str(text)}]
            prompts.append(row.get("messages") or alone)
        except (ValueError, AttributeError, IndexError) as error:
            raise InputError(f"this is no prompt: {error}", where=f"{path}:{number}", remedy="Mend the line") from error
    if not prompts:
        raise InputError("there are no prompts", where=path, remedy="Write a prompt a line")
    return prompts


def answered(
    contestants: dict[str, str], prompts: Sequence[Sequence[Message]], tokens: int, out: Path, progress: Progress
) -> dict[str, list[str]]:
    """Everybody's answers; contestants are folders or endpoints by name."""
    docs = [
        {"id": str(number), "messages": [*one], "prompt": prompt_text(one), "expected": ""}
        for number, one in enumerate(prompts)
    ]
    task = Task("prompts", answer_config(tokens), docs, [])
    task.write(out / "tasks")
    return {name: ask(name, spec, [task], out, progress)["prompts"] for name, spec in contestants.items()}


def pairs_of(answers: dict[str, list[str]], prompts: Sequence[Sequence[Message]], seed: int) -> list[Pair]:
    """Every two answers to every prompt, in an order that the seed decides."""
    pairs = []
    for number, prompt in enumerate(prompts):
        for two in combinations(answers, 2):
            left, right = random.Random(f"{seed} {number} {two}").sample(two, 2)
            both = (answers[left][number], answers[right][number])
            pairs.append(Pair(number, prompt[-1]["content"], left, right, both))
    return pairs


def judged(pairs: Sequence[Pair], judge: str, out: Path, progress: Progress) -> list[float]:
    """Points of the left answers by a model (a folder or an endpoint): the mean of both orders."""
    docs = []
    for number, pair in enumerate(pairs):
        for order in (1, -1):
            first, second = pair.answers[::order]
            parts = f"Question:\n{pair.question}", f"Answer A:\n{first}", f"Answer B:\n{second}", _ASKED
            messages: list[Message] = [{"role": "user", "content": "\n\n".join(parts)}]
            docs.append(choice_doc(f"{number} {order}", "", messages, _VERDICTS, 0))
    task = Task("verdicts", choice_config("acc"), docs, [])
    task.write(out / "tasks")
    said = ask("judge", judge, [task], out, progress)["verdicts"]
    points = [_POINTS[chosen(doc, one)] for doc, one in zip(docs, said, strict=True)]  # one that is unclear is a tie
    return [(ahead + 1 - behind) / 2 for ahead, behind in zip(points[::2], points[1::2], strict=True)]


def write_page(pairs: Sequence[Pair], out: Path) -> Path:
    """The page for a person; it names no model, and gives verdicts.json."""
    shown = [{"question": pair.question, "answers": pair.answers} for pair in pairs]
    pages = Environment(loader=PackageLoader("wingspan.evaluate", "sets"), autoescape=True)
    (out / PAGE).write_text(pages.get_template(PAGE).render(pairs=shown), encoding="utf-8")
    return out / PAGE


def read_verdicts(path: Path, pairs: Sequence[Pair]) -> tuple[list[Pair], list[float]]:
    """The pairs that a person judged on the page, and the points of their left answers."""
    try:
        given = {int(number): _POINTS[_VERDICTS.index(one)] for number, one in json.loads(path.read_text()).items()}
        return [pairs[number] for number in given], [*given.values()]
    except (ValueError, AttributeError, IndexError) as error:
        raise InputError(f"these are no verdicts: {error}", where=path, remedy="Save them on the page again") from error


def standings(pairs: Sequence[Pair], points: Sequence[float], seed: int) -> list[Standing]:
    """Who is how strong, strongest first; whole prompts are resampled for the intervals."""
    if not pairs:
        raise InputError("nothing was judged", remedy="Judge some pairs first")
    models = sorted({name for pair in pairs for name in (pair.left, pair.right)})
    sides = np.array([[(pair.left == name) - (pair.right == name) for name in models] for pair in pairs], np.float64)
    longer = np.array([len(pair.answers[0]) - len(pair.answers[1]) for pair in pairs], np.float64)
    longer /= longer.std() or 1.0
    won = np.asarray(points, np.float64)
    names, prompts = np.unique([pair.prompt for pair in pairs], return_inverse=True)
    draws = bootstrap_weights(len(names), _RESAMPLES, seed)[:, prompts]
    plain, level = (_with_intervals(columns, won, draws, len(models)) for columns in (sides, np.c_[sides, longer]))
    shares = [np.mean(0.5 + (side * (won - 0.5))[side != 0]) for side in sides.T]
    said = {
        (pair.prompt, name): text
        for pair in pairs
        for name, text in zip((pair.left, pair.right), pair.answers, strict=True)
    }
    empty = Counter(name for (_, name), text in said.items() if not text)
    found = [
        Standing(name, plain[place], level[place], float(shares[place]), empty[name])
        for place, name in enumerate(models)
    ]
    return sorted(found, key=lambda one: -one.elo[0])


def strengths(columns: Floats, won: Floats, weights: Floats) -> Floats:
    """The most likely coefficients of a logistic regression with a weak normal prior, by Newton's method."""
    beta = np.zeros(columns.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-columns @ beta))
        slope = columns.T @ (weights * (won - p)) - _PRIOR * beta
        curve = (columns.T * (weights * p * (1 - p))) @ columns + _PRIOR * np.eye(len(beta))
        step = np.linalg.solve(curve, slope)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta


def _with_intervals(columns: Floats, won: Floats, draws: Any, models: int) -> list[tuple[float, float, float]]:
    """Elo of each model around 1000, with percentiles of the resampled fits."""

    def elo(weights: Floats) -> Floats:
        beta = strengths(columns, won, weights)[:models]
        return np.asarray(1000 + _ELO * (beta - beta.mean()))

    value = elo(np.ones(len(won)))
    low, high = np.quantile([elo(one) for one in draws], [0.025, 0.975], axis=0)
    return [(float(a), float(b), float(c)) for a, b, c in zip(value, low, high, strict=True)]


def as_json(found: Sequence[Standing], pairs: Sequence[Pair], points: Sequence[float]) -> dict[str, Any]:
    """What duel.json holds: the standings, and every pair with the points of its left answer."""
    rows = [asdict(pair) | {"points_left": one} for pair, one in zip(pairs, points, strict=True)]
    return {"standings": [asdict(one) for one in found], "pairs": rows}
