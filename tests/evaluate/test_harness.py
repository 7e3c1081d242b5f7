"""The task files score the same through the harness's own tokenising and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.model import TemplateLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from wingspan.evaluate.harness import HarnessModel, run_tasks
from wingspan.evaluate.tasks import Task, label_task, posts_task, replies_task
from wingspan.model.chat import ChatRenderer
from wingspan.model.checkpoint import load

pytestmark = pytest.mark.slow  # the harness alone takes seconds to import

POSTS = [
    {"post_id": f"p{number}", "text": text, "author_id": None, "root_id": None, "value": value}
    for number, (text, value) in enumerate(
        [("good tea about the rain", 2.0), ("[1]", 0.0), ("42", -1.0), ("bad rain, no sun", -2.5), ("hello é 🌦", 1.0)]
    )
]
DIALOGUES = [
    {
        "conversation_id": f"d{number}",
        "kind": "dialogue",
        "lang": "en",
        "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}],
    }
    for number, (ask, reply) in enumerate(
        [("hello", "how are you"), ("tea?", "good tea"), ("rain?", "no"), ("sun", "yes")]
    )
]
PLAIN = Task(
    "plain",
    {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    },
    [{"id": "q", "cluster": "q", "question": "rain is", "choices": ["good", "bad tea"], "gold": 0}],
    [],
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Task]]:
    folder = tmp_path_factory.mktemp("tasks")
    posed = [
        posts_task(POSTS, 10, 1),
        replies_task(DIALOGUES, 10, 2, 1),
        label_task("sentiment", POSTS, 10, 1),
        PLAIN,
    ]
    for task in posed:
        task.write(folder)
    return folder, posed


class Reference(TemplateLM):
    """The harness's own way to a score: its tokenising of strings, transformers, one request at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.words = AutoTokenizer.from_pretrained(folder)

    @property
    def eot_token_id(self) -> int:
        return self.model.config.bos_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.words.encode(string, add_special_tokens=False)

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        return [self.one(context, continuation) for _, context, continuation in requests]

    def one(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        with torch.inference_mode():
            logits = self.model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
        predicted = logits[len(context) - 1 : -1]
        targets = torch.tensor(continuation)
        greedy = bool((predicted.argmax(-1) == targets).all())
        return float(predicted.gather(1, targets[:, None]).sum()), greedy

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        return [self.one([self.eot_token_id], self.tok_encode(request.args[0]))[0] for request in requests]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError


def test_scores_equal_the_harness_on_transformers(tasks: tuple[Path, list[Task]], tiny_model: Path) -> None:
    """The harness counts the newline after `assistant` as part of each choice: a constant per question."""
    folder, posed = tasks
    finished: list[int] = []
    ours = run_tasks(
        posed, folder, HarnessModel(load(tiny_model), ChatRenderer.from_folder(tiny_model), 0, finished.append)
    )
    expected = run_tasks(posed, folder, Reference(tiny_model))
    assert ours["posts"] == pytest.approx(expected["posts"], abs=1e-3)
    for name in ("replies", "sentiment", "plain"):
        for mine, other in zip(ours[name], expected[name], strict=True):
            newline = 0.0 if name == "plain" else other[0][0] - mine[0][0]
            assert [one[0] + newline for one in mine] == pytest.approx([one[0] for one in other], abs=1e-3)
    assert [one[1] for one in ours["plain"][0]] == [one[1] for one in expected["plain"][0]]
    assert sum(finished) == sum(len(doc.get("choices", [0])) for task in posed for doc in task.docs)


def test_an_answer_that_ends_at_once_is_the_empty_string(tiny_model: Path, tmp_path: Path) -> None:
    """Also when the task sets no limit and no stop."""
    network = load(tiny_model)
    renderer = ChatRenderer.from_folder(tiny_model)
    with torch.no_grad():  # every hidden state now points at the end of the turn
        network.model.norm.weight.zero_()
        network.model.embed_tokens.weight.zero_()
    config = {
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "question",
        "generation_kwargs": {"max_gen_toks": 3},
        "metric_list": [{"metric": "exact_match"}],
    }
    task = Task("open", config, [{"id": "q", "cluster": "q", "question": "rain is"}], [])
    task.write(tmp_path)
    harness = HarnessModel(network, renderer, end_of_document=0, done=lambda count: None)
    assert run_tasks([task], tmp_path, harness) == {"open": [""]}
