"""wingspan's network behind lm-evaluation-harness: its Python API runs the task files, offline.

The harness owns what a task is; tokenising, scoring and generating are wingspan's. Any other task of the
harness whose data is at hand runs on the same model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read at import by what follows

import datasets
import numpy as np
from lm_eval import evaluate
from lm_eval.api import task as lm_eval_task
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from wingspan.engine.engine import Sampling
from wingspan.engine.torch_engine import generate
from wingspan.errors import InputError
from wingspan.evaluate import statistics
from wingspan.evaluate.measures import Measure
from wingspan.evaluate.scorer import Request, score
from wingspan.evaluate.tasks import Task
from wingspan.model.chat import ChatRenderer
from wingspan.model.network import Decoder

_GENERATED_AT_ONCE = 32  # answers that grow in step, of prompts about equally long
_GENERATED_TOKENS = 256  # where a task sets no limit; the harness's own default


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A network and its chat form as the harness asks them; `done` hears how many requests are finished."""

    def __init__(
        self, network: Decoder, renderer: ChatRenderer, end_of_document: int, done: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._network, self._renderer, self._end_of_document, self._done = network, renderer, end_of_document, done

    @property
    def eot_token_id(self) -> int:
        """What stands before a text that has no context: the end of the document before it."""
        return self._end_of_document

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a plain text task."""
        return self._renderer.encode(string)

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-likelihood, greedy) of each continuation; documents with `messages` are rendered as chat."""
        return [
            (one.log_likelihood, one.greedy)
            for one in score(self._network, [self._request(request) for request in requests], self._done)
        ]

    def _request(self, request: Instance) -> Request:
        context, continuation = request.args
        if "messages" in request.doc:
            return Request(self._renderer.prompt(request.doc["messages"]), self._renderer.encode(continuation))
        if not context:
            return Request([self.prefix_token_id], self._renderer.encode(continuation))
        return Request(*self._encode_pair(context, continuation))

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError  # the harness calls it from its own loglikelihood, which is replaced above

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each whole text, in windows where it is longer than the network's context."""
        windows = [self._windows(request.args[0]) for request in requests]
        parts = iter(score(self._network, [one for text in windows for one in text], self._done))
        return [sum(next(parts).log_likelihood for _ in text) for text in windows]

    def _windows(self, text: str) -> list[Request]:
        rolling = get_rolling_token_windows(
            token_list=self._renderer.encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self._network.shape.max_positions,
            context_len=1,
        )
        return [Request(*make_disjoint_window(window)) for window in rolling]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy answers, cut at the task's stop strings; an answer of no tokens is the empty string."""
        prompts = [self._prompt(request) for request in requests]
        limits = [request.args[1].get("max_gen_toks", _GENERATED_TOKENS) for request in requests]
        stops = [request.args[1].get("until", []) for request in requests]
        answers: dict[int, str] = {}
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        for start in range(0, len(order), _GENERATED_AT_ONCE):
            batch = order[start : start + _GENERATED_AT_ONCE]
            sampling = Sampling(
                max(limits[number] for number in batch),
                stop_ids=frozenset({self._renderer.stop_id, self._end_of_document}),
            )
            grown = generate(self._network, [prompts[number] for number in batch], sampling)
            for number, token_ids in zip(batch, grown, strict=True):
                answers[number] = _cut(self._renderer.decode(token_ids[: limits[number]]), stops[number])
            self._done(len(batch))
        return [answers[number] for number in range(len(requests))]

    def _prompt(self, request: Instance) -> list[int]:
        messages = request.doc.get("messages")
        if messages:
            return self._renderer.prompt(messages)
        start = [self.prefix_token_id] if request.doc.get("begins") else []  # as a post begins that was trained on
        return [*start, *self._renderer.encode(request.args[0])]


def run_tasks(tasks: Sequence[Task], folder: Path, model: LM) -> dict[str, list[Any]]:
    """What a model of the harness answered to each document of each task, in order.

    A document of a choice task has one (log-likelihood, greedy) per choice, of a rolling task its
    log-likelihood, of a generation task its text, of somebody else's task the metrics that the task gives it.
    `folder` holds the task files.
    """
    if not tasks:
        return {}
    with tempfile.TemporaryDirectory() as cache, _quiet():
        settings = [task.settings(folder) for task in tasks]
        for one in settings:
            if isinstance(one, dict):
                one["dataset_kwargs"]["cache_dir"] = cache
        asked = {task.name: list(range(len(task.docs))) for task in tasks}
        loaded = TaskManager(include_defaults=False).load(settings)
        results = evaluate(model, loaded, bootstrap_iters=0, samples=asked)
    return {task.name: _in_order(task, results["samples"][task.name]) for task in tasks}


def task_of_file(path: Path, count: int) -> Task:
    """A task file (YAML) of lm-evaluation-harness: its first `count` documents, scored as the file says.

    Raises InputError when the harness cannot load it or it has no metric of single answers.
    """
    try:
        with _quiet():
            ((name, found),) = TaskManager(include_defaults=False).load([str(path)])["tasks"].items()
            documents = min(count, len(found.eval_docs))
    except Exception as error:  # whatever a task file, its data and its Python raise
        raise InputError(
            f"the harness cannot load this task: {error}",
            where=path,
            remedy="Name a task file whose data is at hand (dataset_path: json, and dataset_kwargs.data_files)",
        ) from error
    measures = [
        Measure(
            f"{name}_{metric}",
            f"{name.replace('_', ' ')}, {metric}",
            metric,
            "share",
            statistics.ratio,
            partial(_given_metric, metric),
            higher_is_better=bool(higher),
            group="general",
        )
        for metric, higher in found.higher_is_better().items()
    ]
    docs = [{"id": str(number), "cluster": str(number), "prompt": ""} for number in range(documents)]
    return Task(name, {"output_type": found.OUTPUT_TYPE}, docs, measures, file=path)


def _given_metric(metric: str, docs: Sequence[Any], answers: Sequence[Any]) -> statistics.Floats:
    return statistics.ratio_columns([float(np.mean(answer[metric])) for answer in answers])


def _in_order(task: Task, samples: Sequence[dict[str, Any]]) -> list[Any]:
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    if task.file:
        return [{metric: sample[metric] for metric in sample["metrics"]} for sample in ordered]
    assert [sample["doc"]["id"] for sample in ordered] == [doc["id"] for doc in task.docs]
    single = task.config["output_type"] != "multiple_choice"
    return [sample["filtered_resps"][0] if single else sample["filtered_resps"] for sample in ordered]


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text.strip()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness logs and draws bars of its own; wingspan's progress says it once."""
    logger, bar = logging.getLogger("lm_eval"), lm_eval_task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval_task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval_task.tqdm = bar
