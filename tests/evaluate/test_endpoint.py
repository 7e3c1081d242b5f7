"""An endpoint that is slow, busy, wrong or silent: a real HTTP server, asked through the harness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parrot import Served
from wingspan.errors import InputError, WorkError
from wingspan.evaluate.endpoint import EndpointModel
from wingspan.evaluate.harness import run_tasks
from wingspan.evaluate.measures import REPLY_CHOICE
from wingspan.evaluate.scores import score_table
from wingspan.evaluate.tasks import Task, answer_config, choice_config, choice_doc, in_words

pytestmark = pytest.mark.slow  # the harness alone takes seconds to import


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.close()


def questions(count: int) -> Task:
    docs = [
        {
            "id": str(n),
            "cluster": "",
            "messages": [{"role": "user", "content": f"say word{n}"}],
            "expected": "",
            "prompt": "",
        }
        for n in range(count)
    ]
    return Task("open", answer_config(8), docs, [])


def ask(served: Served, task: Task, folder: Path, **how: Any) -> list[str]:
    task.write(folder)
    model = EndpointModel(served.spec, folder / "journal.jsonl", lambda count: None, **how)
    answers: list[str] = run_tasks([task], folder, model)[task.name]
    return answers


def test_busy_slow_and_broken_answers_are_asked_again(served: Served, tmp_path: Path) -> None:
    served.script = [429, 503, "late", 200]
    assert ask(served, questions(1), tmp_path, timeout_s=0.5) == ["word0"]
    assert len(served.asked) == 4
    assert served.asked[0]["temperature"] == 0


def test_an_endpoint_that_stays_silent_ends_the_work_and_what_was_said_is_kept(served: Served, tmp_path: Path) -> None:
    served.script = [200, *[500] * 100]
    with pytest.raises(WorkError, match=r"answers 500.*answers so far are kept"):
        ask(served, questions(5), tmp_path, retries=0)
    kept = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert len(kept) >= 1
    served.script, before = [], len(served.asked)
    (tmp_path / "journal.jsonl").write_text("\n".join(kept) + '\n["half a li')  # killed while writing
    assert ask(served, questions(5), tmp_path) == [f"word{n}" for n in range(5)]
    assert len(served.asked) - before == 5 - len(kept)


def test_a_wrong_request_and_an_answer_that_is_none_are_said(served: Served, tmp_path: Path) -> None:
    served.script = [404]
    with pytest.raises(InputError, match="answers 404"):
        ask(served, questions(1), tmp_path)
    served.script = ["garbage"]
    with pytest.raises(WorkError, match="does not answer as it should"):
        ask(served, questions(1), tmp_path, retries=0)
    with pytest.raises(InputError, match="names no model"):
        EndpointModel("http://127.0.0.1/v1", tmp_path / "j", lambda count: None)


def test_choices_are_asked_in_words_and_unclear_answers_are_wrong_not_lost(served: Served, tmp_path: Path) -> None:
    docs = [
        choice_doc(str(n), "", [{"role": "user", "content": "?"}], ["tea", word], 1) for n, word in enumerate("xyz")
    ]
    task = Task("choose", choice_config("acc"), docs, [REPLY_CHOICE])
    said = in_words(task)
    assert said is not None
    assert "A. tea\nB. x" in said.docs[0]["messages"][-1]["content"]
    served.script = ["empty"]
    answers = ask(served, said, tmp_path)  # the parrot repeats the last choice
    assert answers.count("") == 1
    (row,) = score_table(task, {"rival": answers}, resamples=50, seed=1)
    assert row["scores"]["rival"]["value"] == pytest.approx(2 / 3)


def test_posts_travel_in_the_question(served: Served, tmp_path: Path) -> None:
    task = questions(1)
    task.docs[0]["messages"] = [
        {"role": "system", "content": "Be good."},
        {"role": "posts", "content": "[1] tea"},
        {"role": "user", "content": "What?"},
    ]
    ask(served, task, tmp_path)
    assert served.asked[0]["messages"] == [
        {"role": "system", "content": "Be good."},
        {"role": "user", "content": "Posts:\n[1] tea\n\nWhat?"},
    ]
