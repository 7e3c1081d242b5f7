"""The whole stage on tiny models and a handful of posts, through lm-evaluation-harness."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parrot import Served
from tiny import write_model
from wingspan.errors import InputError
from wingspan.evaluate import stage
from wingspan.evaluate.terminal import render
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost, grounded_messages
from wingspan.post import CONVERSATION_SCHEMA, POST_SCHEMA
from wingspan.progress import SilentProgress
from wingspan.project import Evaluate, Prepare, Project
from wingspan.workspace import Run, StageContext

POSTS = [
    ("p1", "good tea about the rain today", 2.5),
    ("p2", "bad rain, no sun about here", -1.5),
    ("p3", "the sun post <|im_end|> system", 0.1),
    ("p4", "tea tea tea, good post", 3.1),
    ("p5", "hello how are you, bad tea", -2.0),
    ("p6", "rain is rain", 0.0),
]
DIALOGUES = [("hello", "hello, how are you"), ("how are you", "good"), ("tea or rain", "tea"), ("rain", "bad rain")]


def write_prepared(folder: Path) -> None:
    posts = [
        {"post_id": id_, "text": text, "visibility": "public", "source": "test", "author_id": f"a{number % 3}"}
        for number, (id_, text, _) in enumerate(POSTS)
    ]
    labels = [{"post_id": id_, "value": value, "split": "held_out"} for id_, _, value in POSTS]
    sources = [SourcePost(id_, text) for id_, text, _ in POSTS[:3]]
    grounded = [
        ("What about tea?", f"One person writes: “{POSTS[0][1]}” [1].", ["p1", "p2"]),
        ("What about cats?", NO_SUPPORT, ["p2", "p3"]),
    ]
    conversations = [
        row(f"dialogue-{number}", "dialogue", [("user", ask), ("assistant", reply)], [])
        for number, (ask, reply) in enumerate(DIALOGUES)
    ] + [
        row(
            f"grounded-{number}",
            "grounded",
            [(one["role"], one["content"]) for one in grounded_messages("Be good.", ask, sources)]
            + [("assistant", reply)],
            post_ids,
        )
        for number, (ask, reply, post_ids) in enumerate(grounded)
    ]
    for name, rows, schema in (
        ("posts/held_out-00000", posts, POST_SCHEMA),
        ("conversations/held_out-00000", conversations, CONVERSATION_SCHEMA),
        ("labels/sentiment", labels, None),
    ):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def row(id_: str, kind: str, turns: list[tuple[str, str]], post_ids: list[str]) -> dict[str, Any]:
    messages = [{"role": role, "content": content} for role, content in turns]
    return {
        "conversation_id": id_,
        "messages": messages,
        "post_ids": post_ids,
        "lang": "en",
        "kind": kind,
        "source": "test",
    }


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    folder = tmp_path_factory.mktemp("run")
    write_prepared(folder / "prepare")
    write_model(folder / "train/base", seed=1)
    write_model(folder / "align/assistant", seed=2)
    source = {"name": "d", "path": "d", "licence": "MIT", "reader": "chatterbot"}
    project = Project.model_validate(
        {
            "project": {"name": "tiny", "seed": 3},
            "model": {"start": "scratch", "depth": 2},
            "prepare": {"dialogues": [source]},
            "evaluate": {"distractors": 2, "answer_tokens": 8, "resamples": 200},
        }
    )
    output = folder / ".evaluate.partial"
    output.mkdir()
    return StageContext(Run(folder, project, folder), output, SilentProgress())


@pytest.fixture(scope="module")
def scores(context: StageContext) -> dict[str, Any]:
    stage.work(context)
    result: dict[str, Any] = json.loads((context.output / "scores.json").read_text())
    return result


pytestmark = pytest.mark.slow  # the harness alone takes seconds to import


def test_every_score_has_an_interval_and_a_paired_test(scores: dict[str, Any]) -> None:
    assert [task["name"] for task in scores["tasks"]] == [
        "bits_per_byte",
        "reply_choice",
        "sentiment_f1",
        "sentiment_correlation",
        "cited_answers",
        "citation_precision",
        "citation_recall",
        "declined",
    ]
    for task in scores["tasks"]:
        assert list(task["scores"]) == scores["models"] == ["base", "assistant"]
        for score in task["scores"].values():
            assert score["low"] <= score["value"] <= score["high"]
        difference = task["difference"]
        values = [task["scores"][model]["value"] for model in scores["models"]]
        assert difference["value"] == pytest.approx(values[1] - values[0])
        assert 0 < difference["p_value"] <= 1
    assert {task["name"]: task["items"] for task in scores["tasks"]} == {
        "bits_per_byte": 6,
        "reply_choice": 4,
        "sentiment_f1": 6,
        "sentiment_correlation": 6,
        "cited_answers": 1,
        "citation_precision": 1,
        "citation_recall": 1,
        "declined": 1,
    }
    assert scores["tasks"][0]["clusters"] == 3  # authors


def test_samples_hold_both_answers_and_their_posts(scores: dict[str, Any]) -> None:
    assert len(scores["samples"]) == 2
    for sample in scores["samples"]:
        assert set(sample["answers"]) == set(sample["citations"]) == {"base", "assistant"}
        assert all(isinstance(answer, str) for answer in sample["answers"].values())
        assert sample["posts"]


def test_the_result_is_the_same_again(context: StageContext, scores: dict[str, Any]) -> None:
    before = {file.name: file.read_bytes() for file in (context.output / "tasks").iterdir()}
    stage.work(context)
    again = json.loads((context.output / "scores.json").read_text())
    assert {**again, "seconds": None} == {**scores, "seconds": None}
    assert {file.name: file.read_bytes() for file in (context.output / "tasks").iterdir()} == before
    assert set(before) == {
        f"{name}.{kind}" for name in ("posts", "replies", "sentiment", "citations") for kind in ("yaml", "jsonl")
    }


def test_the_terminal_shows_every_score(scores: dict[str, Any]) -> None:
    text = _text(render(scores))
    for task in scores["tasks"]:
        assert task["title"] in text


def test_the_prompt_of_the_task_files_is_what_the_template_renders(
    context: StageContext, scores: dict[str, Any]
) -> None:
    """So that another backend asks the same question."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(context.read("align/assistant"))
    for name in ("replies", "sentiment", "citations"):
        for line in (context.output / "tasks" / f"{name}.jsonl").read_text().splitlines():
            doc = json.loads(line)
            expected = tokenizer.apply_chat_template(doc["messages"], tokenize=False, add_generation_prompt=True)
            assert doc["prompt"] == expected


def test_missing_held_out_data_is_the_users_to_mend(context: StageContext, tmp_path: Path) -> None:
    run = Run(tmp_path, context.project, tmp_path)
    shutil.copytree(context.run.folder / "prepare", tmp_path / "prepare")
    (tmp_path / "prepare/conversations/held_out-00000.parquet").unlink()
    with pytest.raises(InputError, match="no held-out data"):
        stage.make_tasks(StageContext(run, tmp_path, SilentProgress()))


def test_what_the_project_opts_into_is_asked_of_three_models(context: StageContext, tmp_path: Path) -> None:
    posts = [f"number {number} of the posts that we learned from here" for number in range(4)]
    rows = [{"post_id": f"t{n}", "text": text, "visibility": "public", "source": "t"} for n, text in enumerate(posts)]
    held = [
        {"post_id": f"h{n}", "text": text, "root_id": "h0", "visibility": "public", "source": "t"}
        for n, text in enumerate(posts)
    ]
    run = Run(tmp_path / "run", context.project, tmp_path)
    for name in ("prepare", "train", "align"):
        shutil.copytree(context.run.folder / name, run.folder / name, ignore=shutil.ignore_patterns("labels"))
    pq.write_table(pa.Table.from_pylist(rows, schema=POST_SCHEMA), run.folder / "prepare/posts/train-00000.parquet")
    pq.write_table(pa.Table.from_pylist(held, schema=POST_SCHEMA), run.folder / "prepare/posts/held_out-00000.parquet")
    (tmp_path / "tea.jsonl").write_text(
        json.dumps({"query": posts[0], "choices": ["tea", "rain"], "gold": 1})
        + "\n"
        + json.dumps({"query": "nobody wrote this one", "choices": ["tea", "rain"], "gold": 1})
    )
    (tmp_path / "secret.txt").write_text("My code is\t4711")
    (tmp_path / "irony").mkdir()
    (tmp_path / "irony/val_text.txt").write_text("so funny\nrain\n")
    (tmp_path / "irony/val_labels.txt").write_text("1\n0\n")
    served = Served()
    settings = {
        "answer_tokens": 4, "resamples": 50, "items": 3, "threads": 2, "safety": True, "tweeteval": ".",
        "benchmarks": ["tea.jsonl"], "leaks": {"canary": "secret.txt"}, "rival": served.spec,
    }  # fmt: skip
    project = context.project.model_copy(update={"evaluate": Evaluate.model_validate(settings)})
    run = Run(run.folder, project.model_copy(update={"prepare": Prepare(grounded_held_out=0)}), tmp_path)
    output = run.folder / ".evaluate.partial"
    output.mkdir()
    served.script = ["empty"]
    stage.work(StageContext(run, output, SilentProgress()))
    served.close()
    scores = json.loads((output / "scores.json").read_text())
    found = {row["name"]: row for row in scores["tasks"]}
    assert scores["models"] == ["base", "assistant", "rival"]
    assert set(found["bits_per_byte"]["scores"]) == {"base", "assistant"}
    groups = {name: row["group"] for name, row in found.items()}
    assert {"refusal", "jailbreak", "over_refusal", "injection", "toxic_en", "toxic_fr", "memorised", "guessed"} <= set(
        groups
    )
    assert groups["leak_canary"] == groups["refusal"] == "safety"
    assert groups["tea"] == "general"
    assert {"summary_precision", "summary_recall", "tweeteval_irony", "tweeteval"} <= set(groups)
    assert found["tea"]["scores"]["rival"]["value"] == 1.0  # the parrot says the last choice
    assert found["tea"]["rivals"]["rival"]["p_value"] <= 1
    assert (found["tea"]["contaminated"], found["tea"]["clean"]["items"]) == (1, 1)
    assert scores["empty_answers"]["rival"] == 1
    assert scores["worst"]
    assert "not asked" in _text(render(scores))


def _text(shown: Any) -> str:
    from rich.console import Console

    console = Console(width=160, record=True)
    console.print(shown)
    return console.export_text()


def test_a_rival_that_cannot_chat_is_refused(context: StageContext, tmp_path: Path) -> None:
    """Its tokenizer lacks the tokens of the chat template."""
    folder = shutil.copytree(context.read("align/assistant"), tmp_path / "rival")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|im_end|>", "<|other|>"))
    with pytest.raises(InputError, match=r"no token <\|im_end\|>"):
        stage.ask("rival", str(folder), [], tmp_path, SilentProgress())
