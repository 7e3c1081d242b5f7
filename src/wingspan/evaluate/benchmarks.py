"""Benchmarks on local files: a file's columns tell what is asked, so that a user's own set is one more file.

Questions are asked as plain text, as published scores of base models are, without examples before them.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wingspan.errors import InputError
from wingspan.evaluate import statistics
from wingspan.evaluate.measures import Measure, chosen, classes_measure, probabilities, share
from wingspan.evaluate.tasks import Task, answer_config, choice_config
from wingspan.knowledge.words import words

_Row = Mapping[str, Any]
_Form = Callable[[str, Sequence[_Row]], Task]

_NUMBER = re.compile(r"-?\d[\d,.]*")
_REASONING_TOKENS = 256


def benchmark_task(path: Path, count: int, seed: int) -> Task:
    """At most `count` items of a file; raises InputError for a file in none of the known forms."""
    rows = _read(path)
    for columns, form in _FORMS.items():
        if rows and set(columns.split(", ")) <= set(rows[0]):
            order = random.Random(f"{seed} {path.stem}")
            kept = [rows[at] for at in sorted(order.sample(range(len(rows)), min(count, len(rows))))]
            try:
                return form(path.stem, kept)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise InputError(f"an item is damaged: {error!r}", where=path, remedy="Mend the file") from error
    raise InputError(
        "the columns of this file are those of no benchmark",
        where=path,
        remedy=f"Known are: {'; '.join(_FORMS)}. Or name a task file (.yaml) of lm-evaluation-harness",
    )


def _read(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            if path.suffix == ".csv":
                return list(csv.DictReader(stream))
            if path.suffix == ".tsv":  # MGSM has no header
                return list(csv.DictReader(stream, ["question", "answer"], delimiter="\t", quoting=csv.QUOTE_NONE))
            return [json.loads(line) for line in stream if line.strip()]
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"the file cannot be read: {error}", where=path, remedy="Name JSON lines, CSV or TSV"
        ) from error


def _choices(name: str, rows: Sequence[_Row]) -> Task:
    """Choices of one word are compared by their likelihood, longer ones per byte (lm-eval's acc and acc_bytes).

    Where all rows have the same words to choose from (true, false, unclear; helpful, unhelpful), they are classes.
    """
    kinds = {tuple(row["choices"]) for row in rows}
    per_byte = any(" " in choice.strip() for choices in kinds for choice in choices)
    docs = [
        _doc(number, _asked(row["query"]), choices=row["choices"], gold=int(row["gold"]))
        | {"cluster": str(row.get("thread", number))}
        for number, row in enumerate(rows)
    ]
    metric = f"accuracy by log-likelihood{' per byte' if per_byte else ''}"
    classes = _classes(name, len(rows[0]["choices"])) if len(kinds) == 1 and not per_byte else []
    return Task(name, choice_config("acc", " "), docs, [_right(name, metric, per_byte), *classes])


def _classes(name: str, classes: int) -> list[Measure]:
    """Macro-F1, and whether the model knows how sure it is (Brier 1950)."""

    def squared_error(docs: Sequence[_Row], answers: Sequence[Any]) -> statistics.Floats:
        told = [probabilities(doc, one) for doc, one in zip(docs, answers, strict=True)]
        right = np.eye(classes)[[doc["gold"] for doc in docs]]
        return statistics.ratio_columns([*((np.asarray(told) - right) ** 2).sum(axis=1)])

    title, brier = name.replace("_", " "), "Brier score (0: sure and right; 2: sure and wrong)"
    return [
        classes_measure(f"{name}_f1", title, "macro-F1", statistics.macro_f1, classes, group="general"),
        Measure(
            f"{name}_brier", f"{title}, calibration", brier, "score", statistics.ratio, squared_error, False,
            group="general",
        ),
    ]  # fmt: skip


def _truthful(name: str, rows: Sequence[_Row]) -> Task:
    """TruthfulQA's MC1: the best answer against the incorrect ones (Lin et al. 2022), without their examples."""
    wrong = [[one.strip() for one in row["Incorrect Answers"].split(";") if one.strip()] for row in rows]
    asked = [
        {"query": f"Question: {row['Question']}", "choices": [row["Best Answer"].strip(), *others], "gold": 0}
        for row, others in zip(rows, wrong, strict=True)
    ]
    return _choices(name, asked)


def _contexts(name: str, rows: Sequence[_Row]) -> Task:
    """Which context makes the same continuation likelier (WinoGrande's partial scoring, Trinh & Le 2018)."""
    docs = [
        _doc(number, "Which makes more sense?", choices=row["context_options"], gold=int(row["gold"]))
        | {
            "continuation": row["continuation"],
            "own": f"{row['context_options'][0]} {row['continuation']}",
            "options": [f"{one} {row['continuation']}" for one in row["context_options"]],
        }
        for number, row in enumerate(rows)
    ]
    config = choice_config("acc", " ") | {"doc_to_text": "gold", "doc_to_target": "continuation"}
    return Task(name, config, docs, [_right(name, "accuracy by log-likelihood of the same end", False)])


def _continuations(name: str, rows: Sequence[_Row]) -> Task:
    """Whether greedy decoding says the continuation (LAMBADA)."""
    docs = [_doc(number, row["context"], expected=row["continuation"]) for number, row in enumerate(rows)]
    config = {
        "output_type": "loglikelihood",
        "doc_to_text": "prompt",
        "doc_to_target": "expected",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}],
    }

    def said(doc: _Row, answer: Any) -> bool:
        if not isinstance(answer, str):
            return bool(answer[1])
        return words(answer)[: len(words(doc["expected"]))] == words(doc["expected"])

    return Task(name, config, docs, [_general(name, "accuracy of the greedy continuation", said)])


def _sums(name: str, rows: Sequence[_Row]) -> Task:
    """Whether the last number of the answer is the right one (GSM8K, MGSM)."""
    docs = [
        _doc(number, _asked(f"Question: {row['question']}"), expected=str(row["answer"]))
        for number, row in enumerate(rows)
    ]

    def right(doc: _Row, answer: str) -> bool:
        said = _last_number(answer)
        return said is not None and said == _last_number(doc["expected"])

    config = answer_config(_REASONING_TOKENS, ["\n\n", "Question:"])
    return Task(name, config, docs, [_general(name, "share with the right last number", right)])


_FORMS: dict[str, _Form] = {
    "query, choices, gold": _choices,
    "context_options, continuation, gold": _contexts,
    "context, continuation": _continuations,
    "question, answer": _sums,
    "Question, Best Answer, Incorrect Answers": _truthful,
}


def _doc(number: int, prompt: str, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "cluster": str(number), "prompt": prompt, "own": prompt, **more}


def _asked(query: str) -> str:
    query = query.strip()
    return query if query.endswith(":") or "Question:" not in query else f"{query}\nAnswer:"


def _right(name: str, metric: str, per_byte: bool) -> Measure:
    return _general(name, metric, lambda doc, answer: bool(chosen(doc, answer, per_byte) == doc["gold"]))


def _general(name: str, metric: str, holds: Callable[[_Row, Any], bool]) -> Measure:
    return share(name, name.replace("_", " "), metric, holds, group="general")


def _last_number(text: str) -> float | None:
    found: list[str] = _NUMBER.findall(text)
    try:
        return float(found[-1].replace(",", "").rstrip(".")) if found else None
    except ValueError:
        return None
