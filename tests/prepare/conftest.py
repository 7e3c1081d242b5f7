"""A small platform on disk, and the prepare stage run on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from wingspan.prepare.stage import work
from wingspan.progress import SilentProgress
from wingspan.project import Project
from wingspan.workspace import Run, StageContext

SUBJECTS = ("coffee", "weather", "garden", "movie", "train", "orchestra", "bakery", "library")
OPINIONS = (
    "The {} in {} made my whole morning, I could not stop smiling about it.",
    "Nobody in {1} understands why the {0} costs twice as much since spring.",
    "My neighbour from {1} complains about the {0} every single evening.",
    "We drove to {1} only for the {0} and it was absolutely worth it.",
    "If you ever visit {1}, skip the {0}; terribly disappointing experience!",
)
TOWNS = ("Oslo", "Lyon", "Porto", "Gdansk", "Bergen", "Turin", "Ghent", "Malaga")

Prepare = Callable[..., tuple[Path, dict[str, Any]]]

PROJECT: dict[str, Any] = {
    "project": {"name": "little", "seed": 4},
    "rights": {"basis": "public-domain", "statement": "All of it was made up for a test."},
    "model": {"start": "scratch", "depth": 2, "vocab": 400},
    "prepare": {
        "held_out": 0.2,
        "grounded_dialogues": 30,
        "label_dialogues": 30,
        "posts": [{"name": "posts", "path": "posts.jsonl", "licence": "made up", "reader": "jsonl"}],
        "dialogues": [{"name": "talk", "path": "talk.jsonl", "licence": "made up", "reader": "messages"}],
        "labels": [{"name": "sentiment", "path": "labels.tsv", "licence": "made up", "posts": "posts"}],
    },
}


def platform_posts() -> list[dict[str, Any]]:
    """Posts of many authors, some of them replies."""
    posts = []
    for number in range(320):
        subject, town = SUBJECTS[number % 8], TOWNS[number // 40]
        text = OPINIONS[number // 8 % 5].format(subject, town)
        posts.append({"post_id": str(1000 + number), "text": f"{text} {number * 7919}", "author_id": f"a{number % 60}"})
        if number % 5 == 4:
            posts[-1]["parent_id"] = str(1000 + number - 1)
    return posts


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """A folder with posts.jsonl, talk.jsonl and labels.tsv."""
    folder = tmp_path / "platform"
    folder.mkdir()
    write_lines(folder / "posts.jsonl", platform_posts())
    turns = [(f"What is {number} and {number}?", str(2 * number)) for number in range(60)]
    talk = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in turns
    ]
    write_lines(folder / "talk.jsonl", talk)
    ratings = "".join(f"{post['post_id']}\t{(number % 9) - 4}\n" for number, post in enumerate(platform_posts()))
    (folder / "labels.tsv").write_text(ratings)
    return folder


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def prepare(platform: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Run the stage with some settings of [prepare] changed; returns the output folder and report.json."""
    monkeypatch.setenv("WINGSPAN_PSEUDONYM_KEY", "a key of the tests")

    def run(name: str = "out", project: Mapping[str, Any] = PROJECT, **prepare: Any) -> tuple[Path, dict[str, Any]]:
        settings = {**project, "prepare": {**project["prepare"], **prepare}}
        output = tmp_path / name
        output.mkdir()
        work(StageContext(Run(tmp_path, Project.model_validate(settings), platform), output, SilentProgress()))
        return output, json.loads((output / "report.json").read_text(encoding="utf-8"))

    return run
