"""Answers drawn from the network as it learns, rewarded by checks: what grpo's steps are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from wingspan.align.answers import Answer, AnswerBatch, AnswerPart, answer_of, answer_rows
from wingspan.align.examples import Example
from wingspan.align.rewards import Question, rewards, total
from wingspan.engine.engine import Sampling
from wingspan.engine.torch_engine import generate
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost
from wingspan.model.chat import ChatRenderer
from wingspan.model.network import Decoder
from wingspan.project import Rollouts
from wingspan.train.checkpoint.export import whole_parameters
from wingspan.train.data.ledger import JsonLines
from wingspan.train.data.order import Indices
from wingspan.train.parallel.part import Part
from wingspan.train.processes import is_first_rank

_POST = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """A question as token ids, up to where the assistant speaks, and what its answers are checked against."""

    prompt: list[int]
    question: Question


def questions_of(examples: Iterable[Example], renderer: ChatRenderer) -> list[Asked]:
    """The questions whose answers can be checked: about posts, and what the policy refuses."""
    found = []
    for one in examples:
        if one.kind not in ("grounded", "refusal"):
            continue
        said = one.messages[-1]["content"]
        shown = [message["content"] for message in one.messages if message["role"] == "posts"]
        posts = [SourcePost(number, text) for number, text in _POST.findall("\n".join(shown))]
        refusal = said if one.kind == "refusal" or said == NO_SUPPORT else None
        question = Question(one.messages[-2]["content"], posts, refusal)
        found.append(Asked(renderer.prompt(one.messages[:-1]), question))
    return found


class Drawn:
    """Batches of answers that the part as it now is gives to questions; one question is one sample, and one row.

    What is drawn depends on the weights, the seed and the question alone: a killed run draws it again. Each batch
    adds a line to `log`: the mean of every reward.
    """

    def __init__(
        self, part: AnswerPart, asked: list[Asked], settings: Rollouts, renderer: ChatRenderer, seed: int, log: Path
    ) -> None:
        self._part, self._asked, self._settings, self._seed = part, asked, settings, seed
        self._renderer, self._log = renderer, log

    def __len__(self) -> int:
        return len(self._asked)

    def batch(self, samples: Indices) -> AnswerBatch:
        """Draw, check and pack answers to these questions."""
        model = whole_copy(self._part)
        rows: list[list[list[Answer]]] = []
        found: list[dict[str, float]] = []
        for sample in samples.tolist():
            asked, row = self._asked[sample], []
            for words, text, ended in self._answers(model, asked.prompt, sample):
                found.append(rewards(asked.question, text, ended))
                row.append([answer_of(asked.prompt, words, total(found[-1]))])
            rows.append(row)
        self._note({name: round(fmean(one[name] for one in found), 4) for name in found[0]})
        tp = self._part.layout.tp
        longest = -(-max(sum(len(answer) for [answer] in row) for row in rows) // tp) * tp
        return answer_rows(rows, [[0.0] * len(row) for row in rows], longest, self._renderer.stop_id)

    def _answers(self, model: Decoder, prompt: list[int], sample: int) -> Iterable[tuple[list[int], str, bool]]:
        """Token ids to learn from, text, and whether it ended of its own accord."""
        stop, longest = self._renderer.stop_id, self._settings.answer_tokens
        seed = self._seed * 1_000_003 + sample
        sampling = Sampling(longest, temperature=1.0, seed=seed, stop_ids=frozenset({stop}))
        for words in generate(model, [prompt] * self._settings.answers, sampling):
            ended = len(words) < longest
            yield [*words, stop] if ended else words, self._renderer.decode(words), ended

    def _note(self, means: dict[str, float]) -> None:
        if is_first_rank():
            lines = JsonLines(self._log)
            lines.append(means)
            lines.close()


@torch.no_grad()
def whole_copy(part: Part) -> Decoder:
    """The network as it now is, whole on this rank and in the precision it computes in; every rank calls this."""
    with torch.device("meta"):
        model = Decoder(part.shape)
    for name, whole in whole_parameters(part):
        owner, _, attribute = name.rpartition(".")
        value = nn.Parameter(whole.to(part.model.compute or whole.dtype), requires_grad=False)
        setattr(model.get_submodule(owner), attribute, value)
    return model.eval()
