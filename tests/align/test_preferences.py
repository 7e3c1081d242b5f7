"""Preferences from files and feedback; the losses by hand; what the loop is given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from align.test_examples import RENDERER
from wingspan.align.answers import PackedAnswers
from wingspan.align.objectives import Answers, preference_objective, reward_objective
from wingspan.align.preferences import as_served, read_preferences, split_preferences, units_of
from wingspan.align.rewards import Question, rewards
from wingspan.errors import InputError
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost
from wingspan.model.loss import IGNORED
from wingspan.project import Preference, Rollouts

ASKED = [{"role": "user", "content": "why?"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def read(folder: Path, *records: Any) -> Any:
    path = folder / "p.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in records))
    return read_preferences(path, "file", "MIT")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "why?", "chosen": "so", "rejected": "no"},
        {"prompt": ASKED, "chosen": said("so"), "rejected": said("no")},
        {"chosen": ASKED + said("so"), "rejected": ASKED + said("no")},
        {"chosen": "\n\nHuman: why?\n\nAssistant: so", "rejected": "\n\nHuman: why?\n\nAssistant: no"},
        {"messages": ASKED, "answer": "no", "feedback": "edit", "better": "so", "consent": True},
        {"messages": ASKED, "answer": "no", "feedback": "regenerate", "better": "so", "consent": True},
    ],
)
def test_every_form_of_a_pair(tmp_path: Path, record: dict[str, Any]) -> None:
    [one] = read(tmp_path, record).preferences
    assert (one.messages[-1]["content"], one.chosen, one.rejected) == ("why?", "so", "no")
    assert one.source == "file 1"
    assert one.reason
    assert one.consent == ("MIT" if "feedback" not in record else "the user's consent")


def test_single_answers_and_what_is_left_out(tmp_path: Path) -> None:
    thumb = {"messages": ASKED, "answer": "so", "feedback": "up", "consent": True, "user": "ann", "post_ids": ["7"]}
    found = read(
        tmp_path,
        thumb,
        thumb | {"consent": False},
        {name: value for name, value in thumb.items() if name != "consent"},
        {"prompt": "why?", "completion": "no", "label": False},
        {"prompt": "why?", "chosen": "so", "rejected": "so"},
        {"chosen": ASKED + said("so"), "rejected": [{"role": "user", "content": "how?"}, *said("no")]},
        "{broken",
        {"prompt": "why?"},
    )
    assert [(one.chosen, one.rejected) for one in found.preferences] == [("so", None), (None, "no")]
    assert found.preferences[0].post_ids == ("7",)
    assert found.refused == {"without consent": 2, "the same answer twice": 1, "not understood": 3}
    with pytest.raises(InputError, match="no preference"):
        read(tmp_path, {"prompt": "why?"})


def test_one_user_counts_only_so_often_and_their_last_word_holds(tmp_path: Path) -> None:
    thumbs = [
        {"messages": ASKED, "answer": f"{number}", "feedback": "up", "consent": True, "user": "ann"}
        for number in range(30)
    ]
    found = read(tmp_path, *thumbs[:3], thumbs[0] | {"feedback": "down"}, *thumbs[3:])
    assert found.refused == {"too much of one user": 11}
    assert found.preferences[0].rejected == "0"


def test_feedback_is_learned_as_it_was_served_and_goes_with_its_posts(tmp_path: Path) -> None:
    thumb = {"messages": ASKED, "answer": "so", "feedback": "up", "consent": True, "post_ids": ["7"]}
    (tmp_path / "posts").mkdir()
    pl.DataFrame({"post_id": ["7"], "text": ["because"]}).write_parquet(tmp_path / "posts/train-00000.parquet")
    read_ = read(
        tmp_path,
        thumb,
        thumb | {"answer": "gone", "post_ids": ["8"]},
        {"prompt": "why?", "chosen": "a", "rejected": "b"},
    )
    served, plain = as_served(read_.preferences, tmp_path / "posts", "rules")
    assert [(turn["role"], turn["content"]) for turn in served.messages] == [
        ("system", "rules"),
        ("posts", "[1] because"),
        ("user", "why?"),
    ]
    assert plain.messages == ({"role": "user", "content": "why?"},)


def test_rows_predict_only_the_answers_and_keep_pairs_together(tmp_path: Path) -> None:
    pairs = read(tmp_path, *({"prompt": f"q{n}", "chosen": "c" * n, "rejected": "r"} for n in range(1, 6))).preferences
    units, used = units_of(pairs, RENDERER, 64, paired=True)
    batches = PackedAnswers(units, 64, 0)
    batch = batches.batch(np.arange(len(batches)))
    assert (batch.weight, len(used)) == (5, 5)
    for row, targets, documents in zip(batches.rows, batch.targets, batch.documents, strict=True):
        answers = [answer for unit in row for answer in unit]
        assert [answer.label for answer in answers] == [1.0, -1.0] * len(row)
        for number, answer in enumerate(answers):
            learned = targets[documents == number]
            words = learned[learned != IGNORED].tolist()
            assert words == answer.piece[1][answer.piece[1] != IGNORED].tolist()
            assert words[-1] == RENDERER.stop_id
    short, _ = units_of(pairs, RENDERER, 3, paired=True)
    assert short == []
    train, held_out = split_preferences(pairs * 2, 0.5, 1)
    assert len(train) + len(held_out) == 10
    assert not {one.messages for one in train if one in held_out}


def test_losses_by_hand() -> None:
    log_prob = torch.tensor([[-4.0, -6.0, -3.0, -9.0], [-2.0, -8.0, 0.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[-5.0, -5.0, -4.0, -8.0], [-3.0, -6.0, 0.0, 0.0]])
    tokens = torch.tensor([[2.0, 3.0, 1.0, 3.0], [4.0, 4.0, 0.0, 0.0]])
    label = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, -1.0, 0.0, 0.0]])
    answers = Answers(log_prob, tokens, label, reference)
    lead = [2.0, 2.0, 3.0]  # of h+ over h- in each pair

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def loss(method: str, **settings: Any) -> float:
        return preference_objective(method, Preference(**settings))(answers).item()

    assert loss("dpo") == pytest.approx(sum(-math.log(sigmoid(0.1 * one)) for one in lead))
    normalised = [1 / 2 + 1 / 3, 1 + 1 / 3, 1 / 4 + 2 / 4]
    assert loss("dpo", length_normalised=True) == pytest.approx(
        sum(-math.log(sigmoid(0.1 * one)) for one in normalised)
    )
    assert loss("ipo") == pytest.approx(sum((one - 5) ** 2 for one in lead))
    means = [(-2, -2), (-3, -3), (-0.5, -2)]
    assert loss("simpo") == pytest.approx(sum(-math.log(sigmoid(2 * (c - r) - 1)) for c, r in means), rel=1e-5)
    odds = [tuple(m - math.log(1 - math.exp(m)) for m in pair) for pair in means]
    orpo = sum(-c - 0.1 * math.log(sigmoid(up - down)) for (c, _), (up, down) in zip(means, odds, strict=True))
    assert loss("orpo") == pytest.approx(orpo, rel=1e-5)
    ratios = [[1.0, -1.0, 1.0, -1.0], [1.0, -2.0]]
    kto = sum(
        1 - sigmoid(sign * 0.1 * (ratio - max(0.0, sum(row) / len(row))))
        for row in ratios
        for ratio, sign in zip(row, [1, -1, 1, -1], strict=False)
    )
    assert loss("kto") == pytest.approx(kto)


def test_policy_gradient_raises_what_beats_its_row() -> None:
    log_prob = torch.zeros(1, 3, requires_grad=True)
    answers = Answers(log_prob, torch.tensor([[2.0, 2.0, 0.0]]), torch.tensor([[1.0, 0.5, 0.0]]), torch.zeros(1, 3))
    loss = reward_objective(Rollouts(answer_tokens=10))(answers)
    assert loss.item() == pytest.approx(-1.5), "minus the rewards"
    loss.backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [pytest.approx([-0.025, 0.025, 0.0])]


def test_rewards_check_what_code_can_check() -> None:
    posts = [SourcePost("1", "the new bakery on main street sells great bread")]
    question = Question("What do people say about the bakery?", posts, None)
    right = "One person writes: “the new bakery on main street sells great bread” [1]."
    assert rewards(question, right, ended=True) == dict.fromkeys(rewards(question, right, ended=True), 1.0)
    assert rewards(question, right.replace("[1]", "[2]"), ended=True)["citations"] == 0
    assert rewards(question, right, ended=False)["format"] == 0
    assert rewards(question, NO_SUPPORT, ended=True)["refusal"] == 0
    assert rewards(question, "word " * 160, ended=True)["length"] == 0.5
    french = rewards(question, "Une personne écrit que la boulangerie vend du pain dans la rue principale.", ended=True)
    assert (french["language"], french["citations"]) == (0, 0)
    unanswered = Question("What do people say about the harbour?", posts, NO_SUPPORT)
    assert rewards(unanswered, NO_SUPPORT, ended=True)["refusal"] == 1
    assert rewards(unanswered, NO_SUPPORT, ended=True)["citations"] == 1
    assert rewards(unanswered, right, ended=True)["refusal"] == 0
