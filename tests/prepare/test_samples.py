"""What a person sees of prepare: the screen, and samples of what each rule dropped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from wingspan.cli.main import app
from wingspan.prepare.terminal import note_of_reading, note_of_settling, render

PROJECT = """
[project]
name = "tiny"
[rights]
basis = "public-domain"
statement = "All of it was made up for a test."
[model]
depth = 2
vocab = 300
[[prepare.posts]]
name = "posts"
path = "posts.jsonl"
licence = "made up"
reader = "jsonl"
[prepare]
grounded_dialogues = 0
grounded_held_out = 0
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINGSPAN_PSEUDONYM_KEY", "a key of the tests")
    monkeypatch.setenv("WINGSPAN_WORKERS", "1")
    monkeypatch.chdir(tmp_path)
    texts = [f"The {word} was late again this morning" for word in ("tram", "bus", "train", "milk", "mail", "paper")]
    texts += [f"@bob@x.example #a #b #c #d #e #f{number} hey" for number in range(9)]
    texts += ["The tram was late again, this morning!"]
    rows = [{"post_id": str(number), "text": text, "author_id": f"a{number}"} for number, text in enumerate(texts)]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    return tmp_path


def ask(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["prepare", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_samples_are_shown_by_rule_without_personal_data(project: Path) -> None:
    screen = ask(str(project))
    assert "hashtag flood" in screen
    assert "wingspan prepare sample" in screen
    rows = json.loads(ask("sample", str(project), "--dropped-by", "hashtag flood", "--count", "4", "--json"))
    assert [row["rule"] for row in rows] == ["hashtag flood"] * 4
    assert all(row["text"].startswith("@user_") and "bob" not in row["text"] for row in rows)
    shown = ask("sample", str(project))
    assert "duplicate (dropped)" in shown
    assert "repeats: The tram was late again this morning" in shown
    drawn = pl.read_parquet(project / "runs/tiny/prepare/samples.parquet")
    assert drawn.filter(pl.col("rule") == "hashtag flood").height == 9


def test_a_rule_without_samples_is_said(project: Path) -> None:
    ask(str(project))
    wrong = CliRunner().invoke(app, ["prepare", "sample", str(project), "--dropped-by", "spam"])
    assert wrong.exit_code == 2
    assert "Name one of: duplicate, hashtag flood" in wrong.stderr


def test_the_screen_adds_up_the_long_tail() -> None:
    report = {
        "read": 100, "damaged": 1, "kept": 90, "refused": {"spam": 9}, "tags": {}, "split": {"train": 90},
        "languages": {f"l{number}": 20 - number for number in range(15)}, "personal_data": {}, "tokens": {"train": 5},
    }  # fmt: skip
    console = Console(width=160, file=io.StringIO())
    console.print(render(report))
    text = console.file.getvalue()
    assert "3 others 21" in text
    assert "90.00%" in text


def test_notes_say_the_counts_so_far() -> None:
    assert note_of_reading({"sources": {"a": {"read": 5, "refused": {"x": 2}, "damaged": 1}, "b": {"read": 1}}}) == (
        "6 read, 2 refused, 1 damaged"
    )
    tally = {"kept": {"a": 3, "b": 1}, "refused": {"a": {"spam": 1, "duplicate": 2}, "b": {"spam": 2}}}
    assert note_of_settling(tally) == "4 kept; spam 3, duplicate 2"
