"""From what the models answered to scores: values, intervals, paired differences, items to read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from wingspan.evaluate import statistics
from wingspan.evaluate.measures import Measure, chosen
from wingspan.evaluate.statistics import Difference, Estimate, Floats
from wingspan.evaluate.tasks import Task

_CLUSTERINGS = ("cluster", "thread")
_WORST = 2  # items to read for each measure


def score_table(
    task: Task,
    answers: Mapping[str, Sequence[Any]],
    *,
    resamples: int,
    seed: int,
    contaminated: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """One row of scores.json per measure; `answers` are those of each model that was asked.

    The assistant is compared with each of the others. `contaminated` are ids of documents that were trained on,
    None where nobody looked: each row also says what the scores are without them.
    """
    found = []
    for measure in task.measures:
        about = [number for number, doc in enumerate(task.docs) if measure.applies(doc)]
        if not about:
            continue
        row = _row(measure, task.docs, answers, about, resamples=resamples, seed=seed)
        if contaminated is not None:
            clean = [number for number in about if task.docs[number]["id"] not in contaminated]
            row["contaminated"] = len(about) - len(clean)
            if contaminated and clean:
                again = _row(measure, task.docs, answers, clean, resamples=resamples, seed=seed)
                row["clean"] = {key: again[key] for key in ("items", "scores", "difference")}
        found.append(row)
    return found


def _row(
    measure: Measure,
    docs: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Sequence[Any]],
    about: Sequence[int],
    **how: Any,
) -> dict[str, Any]:
    kept = [docs[number] for number in about]
    columns = {model: measure.columns(kept, [given[number] for number in about]) for model, given in answers.items()}
    how["clusters"] = _clusters(measure, kept, next(reversed(columns.values())), how)
    versus = {
        other: asdict(_difference(measure, columns[other], columns["assistant"], how))
        for other in columns
        if "assistant" in columns and other != "assistant"
    }
    return {
        "name": measure.name,
        "title": measure.title,
        "group": measure.group,
        "metric": measure.metric,
        "unit": measure.unit,
        "higher_is_better": measure.higher_is_better,
        "items": len(kept),
        "clusters": len(set(how["clusters"] or about)),
        "scores": {model: asdict(_estimate(measure, one, how)) for model, one in columns.items()},
        "difference": versus.pop("base", None),
    } | ({"rivals": versus} if versus else {})


def _clusters(
    measure: Measure, docs: Sequence[Mapping[str, Any]], columns: Floats, how: Mapping[str, Any]
) -> list[str] | None:
    """Authors or threads, whichever leaves the score less sure; None where neither repeats."""
    found = [[str(doc.get(name, doc["id"])) for doc in docs] for name in _CLUSTERINGS]
    repeated = [names for names in found if len(set(names)) < len(names)]
    if len(repeated) < len(_CLUSTERINGS):
        return repeated[0] if repeated else None
    return max(
        repeated,
        key=lambda names: statistics.estimate(measure.statistic, columns, clusters=names, **how).standard_error,
    )


def _estimate(measure: Measure, columns: Floats, how: Mapping[str, Any]) -> Estimate:
    if measure.right_or_wrong and how["clusters"] is None:
        return statistics.wilson(int(columns[:, 0].sum()), len(columns))
    return statistics.estimate(measure.statistic, columns, **how)


def _difference(measure: Measure, first: Floats, second: Floats, how: Mapping[str, Any]) -> Difference:
    found = statistics.compare(measure.statistic, first, second, **how)
    if not measure.right_or_wrong or how["clusters"] is not None:
        return found
    p_value = statistics.mcnemar([*(first[:, 0] > 0)], [*(second[:, 0] > 0)])
    return Difference(found.value, found.low, found.high, p_value, "McNemar, exact")


def worst(task: Task, answers: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Items that the assistant gets wrong, those first that another model gets right."""
    shown = []
    for measure in task.measures:
        if not measure.right_or_wrong or "assistant" not in answers:
            continue
        about = [number for number, doc in enumerate(task.docs) if measure.applies(doc)]
        kept = [task.docs[number] for number in about]
        good = {
            model: (measure.columns(kept, [given[n] for n in about])[:, 0] > 0) == measure.higher_is_better
            for model, given in answers.items()
        }
        wrong = [place for place in range(len(kept)) if not good["assistant"][place]]
        wrong.sort(key=lambda place: -sum(bool(one[place]) for one in good.values()))
        shown += [
            {
                "score": measure.name,
                "post_ids": [
                    *kept[place].get("post_ids", []),
                    *(one["post_id"] for one in kept[place].get("posts", [])),
                ],
                "question": _question(kept[place]),
                "expected": _said(kept[place], None),
                "answers": {model: _said(kept[place], given[about[place]]) for model, given in answers.items()},
            }
            for place in wrong[:_WORST]
        ]
    return shown


def _question(doc: Mapping[str, Any]) -> str:
    return str(doc["messages"][-1]["content"] if "messages" in doc else doc["prompt"])


def _said(doc: Mapping[str, Any], answer: Any) -> str:
    """An answer in words, the right one for None: the text, or the choice that was likeliest by itself."""
    if answer is None:
        return str(doc["choices"][doc["gold"]] if "choices" in doc else doc.get("expected", ""))
    if isinstance(answer, str) or "choices" not in doc:
        return str(answer)
    return str(doc["choices"][chosen(doc, answer)])
