"""A gate opens and shuts by its bounds, on the command line too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wingspan.cli.main import app
from wingspan.errors import InputError
from wingspan.evaluate.gate import check_gates


def scores(f1: float, bits: float) -> dict[str, Any]:
    def row(name: str, higher: bool, base: float, assistant: float) -> dict[str, Any]:
        by_model = {"base": {"value": base}, "assistant": {"value": assistant}}
        return {"name": name, "higher_is_better": higher, "scores": by_model}

    return {"models": ["base", "assistant"], "tasks": [row("f1", True, 0.5, f1), row("bits", False, 1.5, bits)]}


@pytest.mark.parametrize(
    ("text", "shut"),
    [
        ("[at_least]\nf1 = 0.6\n[at_most]\nbits = 1.4\n", []),
        ("[at_least]\nf1 = 0.61\n[at_most]\nbits = 1.39\n", ["f1", "bits"]),
        ("model = 'base'\n[at_least]\nf1 = 0.51\n", ["f1"]),
        ("[not_worse]\nthan = 'base'\n", []),
        ("[not_worse]\nthan = 'old.json'\n", ["f1", "bits"]),
        ("[not_worse]\nthan = 'old.json'\nwithin = 0.1\n", ["bits"]),
        ("[not_worse]\nthan = 'old.json'\nscores = ['f1']\n", ["f1"]),
    ],
)
def test_rules(tmp_path: Path, text: str, shut: list[str]) -> None:
    (tmp_path / "old.json").write_text(json.dumps(scores(0.65, 1.2)))
    (tmp_path / "gates.toml").write_text(text)
    checked = check_gates(tmp_path / "gates.toml", scores(0.6, 1.4))
    assert [one.score for one in checked if not one.holds] == shut


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[at_least]\nf2 = 0.6\n", "no score 'f2'. These were scored: f1, bits"),
        ("[at_lest]\nf1 = 0.6\n", "at_lest"),
        ("at_least = 3", "at_least"),
        ("what", "cannot be read"),
        ("", "has no gate"),
    ],
)
def test_a_gate_that_could_not_shut_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        check_gates(tmp_path / "gates.toml", scores(0.6, 1.4))


def test_the_command_ends_with_three_when_a_gate_is_shut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage itself has its own test: here its scores lie ready."""
    (tmp_path / "wingspan.toml").write_text("[project]\nname = 'tiny'\n[model]\ndepth = 2\n")
    (tmp_path / "runs/tiny/evaluate").mkdir(parents=True)
    (tmp_path / "runs/tiny/evaluate/scores.json").write_text(json.dumps(scores(0.6, 1.4)))
    monkeypatch.setattr("wingspan.cli.evaluate.one_stage", lambda *_: None)
    for bound, code in ((0.6, 0), (0.7, 3)):
        (tmp_path / "gates.toml").write_text(f"[at_least]\nf1 = {bound}\n")
        command = ["evaluate", str(tmp_path), "--runs", str(tmp_path / "runs"), "--gate", str(tmp_path / "gates.toml")]
        assert CliRunner().invoke(app, command).exit_code == code
    (tmp_path / "gates.toml").write_text("[at_least]\nnone = 1\n")
    assert CliRunner().invoke(app, command).exit_code == 2
