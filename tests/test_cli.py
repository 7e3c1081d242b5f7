"""The command line as a person and a script meet it: help, exit codes, errors, init, status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wingspan.stages import STAGE_NAMES

PROJECT = '[project]\nname = "p"\n[model]\nstart = "scratch"\ndepth = 2\nhidden = 64\nvocab = 512\n'


def wingspan(
    *arguments: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wingspan", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1"} | environment,
        check=False,
    )


def test_help_reads_like_a_table_of_contents() -> None:
    text = wingspan("--help").stdout
    stages = ["plan", "rehearse", "prepare", "train", "align", "evaluate", "serve"]
    positions = [text.index(f"│ {stage} ") for stage in stages]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    "name", ["plan", "rehearse", "prepare", "train", "align", "evaluate", "serve", "run", "status", "report", "init"]
)
def test_every_command_has_an_example(name: str) -> None:
    result = wingspan(name, "--help")
    assert result.returncode == 0
    assert f"Example: wingspan {name}" in result.stdout


@pytest.mark.parametrize("name", [*STAGE_NAMES, "serve", "run", "status", "report", "init", "launch slurm"])
def test_every_command_speaks_to_machines(name: str) -> None:
    assert "--json" in wingspan(*name.split(), "--help").stdout


def test_the_front_door_loads_no_heavy_library() -> None:
    heavy = "('torch', 'polars', 'pyarrow', 'transformers')"
    program = f"import sys, wingspan.cli.main, wingspan.project; print([one for one in {heavy} if one in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_plan_needs_no_torch() -> None:
    program = "import sys, wingspan.plan.stage; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


def test_init_writes_a_project_that_plan_accepts(tmp_path: Path) -> None:
    result = wingspan("init", "my bird", folder=tmp_path)
    assert result.returncode == 0
    assert 'name = "my-bird"' in (tmp_path / "my bird" / "wingspan.toml").read_text()
    assert wingspan("status", "my bird", folder=tmp_path).returncode == 0
    again = wingspan("init", "my bird", folder=tmp_path)
    assert again.returncode == 2
    assert "already" in again.stderr


def test_wrong_input_ends_with_2_and_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "wingspan.toml").write_text(PROJECT + "[train]\ntokns = 4\n")
    result = wingspan("train", tmp_path)
    assert result.returncode == 2
    assert "unknown key 'train.tokns'" in result.stderr
    assert "wingspan.toml:9" in result.stderr
    assert "Did you mean 'tokens'?" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in wingspan("train", tmp_path, "--debug").stderr


def test_usage_errors_end_with_2() -> None:
    assert wingspan("trian").returncode == 2
    assert wingspan("run", "--until", "nowhere").returncode == 2


def test_a_stage_without_its_predecessor_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    result = wingspan("align", tmp_path, "--runs", tmp_path / "runs")
    assert result.returncode == 2
    assert "has not been run" in result.stderr
    assert "wingspan run" in result.stderr


def test_prepare_reads_nothing_before_rights_are_declared(tmp_path: Path) -> None:
    posts = tmp_path / "posts.jsonl"
    posts.write_text('{"id": "1", "text": "hello"}\n')
    (tmp_path / "wingspan.toml").write_text(
        PROJECT + '[[prepare.posts]]\nname = "x"\npath = "posts.jsonl"\nlicence = "own"\nreader = "jsonl"\n'
        'columns = { post_id = "id", text = "text" }\n'
    )
    result = wingspan("prepare", tmp_path, "--runs", tmp_path / "runs")
    assert result.returncode == 2
    assert "[rights]" in result.stderr
    assert not (tmp_path / "runs" / "p" / "prepare").exists()


def test_status_tells_the_state_of_every_stage(tmp_path: Path) -> None:
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    assert wingspan("plan", tmp_path, "--runs", tmp_path / "runs", "--json").returncode == 0
    records = json.loads(wingspan("status", tmp_path, "--runs", tmp_path / "runs", "--json").stdout)
    assert {one["stage"]: one["state"] for one in records} == {
        "plan": "done",
        "rehearse": "absent",
        "prepare": "absent",
        "train": "absent",
        "align": "absent",
        "evaluate": "absent",
    }
    stale = wingspan("status", tmp_path, "--runs", tmp_path / "runs", "--json", "--set", "train.sequence=64")
    assert json.loads(stale.stdout)[0]["state"] == "stale"
    victim = tmp_path / "runs" / "p" / "plan" / "layout.json"
    victim.write_text(victim.read_text() + " ")
    verified = wingspan("status", tmp_path, "--runs", tmp_path / "runs", "--json", "--verify")
    assert json.loads(verified.stdout)[0]["state"] == "damaged"
    assert "layout.json" in json.loads(verified.stdout)[0]["problem"]


def test_no_permission_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    result = wingspan("plan", tmp_path, "--runs", "/sys/runs")  # not even root may write there
    assert result.returncode == 2
    assert "permission denied" in result.stderr
    assert "/sys/runs" in result.stderr


def test_a_file_where_the_run_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "p").write_text("")
    result = wingspan("plan", tmp_path, "--runs", tmp_path / "runs")
    assert result.returncode == 2
    assert "a file stands where the run folder should be" in result.stderr
