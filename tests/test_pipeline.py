"""The whole pipeline on a made-up platform: it ends with an assistant, survives SIGKILL, finds damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from generate import write_project
from wingspan.stages import STAGE_NAMES

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]

# Records of time and of this machine's speed differ from run to run; everything else must not.
MEASUREMENTS = {"plan.json", "plan.html", "rehearsal.json", "scores.json"} | {
    "metrics.jsonl", "goodput.jsonl", "ledger", "summary.json"
}  # fmt: skip


def wingspan(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "wingspan", *map(str, arguments)]


def run_to_the_end(project: Path, runs: Path) -> None:
    result = subprocess.run(wingspan("run", project, "--runs", runs), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an undisturbed run."""
    runs = tmp_path_factory.mktemp("whole")
    run_to_the_end(project, runs)
    return runs / "tiny"


def manifest(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / stage / "manifest.json").read_text())


def results(run: Path) -> dict[str, Any]:
    """Every artefact's hash, and the content of the records that hold times."""
    hashes = {
        f"{stage}/{name}": record["sha256"]
        for stage in STAGE_NAMES
        for name, record in manifest(run, stage)["outputs"].items()
        if not MEASUREMENTS.intersection(Path(name).parts)
    }
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    steps = {
        f"{stage} {record['step']}": record["loss"]  # a step repeated after a kill: the last one counts
        for stage in ("train", "align/sft")
        for record in map(json.loads, (run / stage / "metrics.jsonl").read_text().splitlines())
        if "loss" in record
    }
    rehearsal = json.loads((run / "rehearse" / "rehearsal.json").read_text())
    return hashes | {"scores": scores["tasks"], "losses": steps, "kinds": rehearsal["kinds"]}


def test_a_run_ends_with_an_assistant_a_report_and_scores(whole: Path) -> None:
    assert (whole / "align" / "assistant" / "model.safetensors").is_file()
    assert (whole / "report.html").is_file()
    assert (whole / "plan" / "plan.html").is_file()
    scores = json.loads((whole / "evaluate" / "scores.json").read_text())
    assert {task["name"] for task in scores["tasks"]} >= {
        "bits_per_byte",
        "reply_choice",
        "sentiment_f1",
        "citation_precision",
    }
    learned = manifest(whole, "train")["summary"]["held_out_bits_per_byte"]
    assert learned["after"] < 0.8 * learned["before"]


def test_posts_alone_are_enough(project: Path, tmp_path: Path) -> None:
    """No dialogues, no labels: fewer things are taught and measured, and nothing fails."""
    alone = tmp_path / "alone"
    shutil.copytree(project, alone)
    text = (alone / "wingspan.toml").read_text()
    for table in ("prepare.labels", "prepare.dialogues"):
        start = text.index(f"[[{table}]]")
        text = text[:start] + text[text.index("\n[", start + 1) + 1 :]
    (alone / "wingspan.toml").write_text(text)
    run_to_the_end(alone, tmp_path)
    names = {task["name"] for task in json.loads((tmp_path / "tiny/evaluate/scores.json").read_text())["tasks"]}
    assert "bits_per_byte" in names
    assert "citation_precision" in names
    assert "reply_choice" not in names


def test_a_second_run_does_nothing_again(project: Path, whole: Path) -> None:
    before = {stage: manifest(whole, stage)["finished_at"] for stage in STAGE_NAMES}
    run_to_the_end(project, whole.parent)
    assert {stage: manifest(whole, stage)["finished_at"] for stage in STAGE_NAMES} == before


def test_the_model_folders_load_in_transformers(whole: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for folder in (whole / "train" / "base", whole / "align" / "assistant"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello, what is 2 plus 3?"}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        assert (
            model.generate(**prompt, min_new_tokens=4, max_new_tokens=4, do_sample=False).shape[1]
            == prompt["input_ids"].shape[1] + 4
        )


def _inside(process: subprocess.Popen[bytes], partial: Path, evidence: str) -> Iterator[bool]:
    """Whether the stage has come as far as `evidence`, asked again and again."""
    while process.poll() is None:
        yield any(partial.glob(evidence)) if evidence else partial.is_dir()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("stage", "evidence"),
    [
        ("plan", ""),
        ("rehearse", ""),
        ("prepare", ""),
        ("prepare", "posts/*"),
        ("train", ""),
        ("train", "checkpoints/*"),
        ("align", "sft/checkpoints/*"),
        ("evaluate", ""),
    ],
)
def test_a_kill_inside_a_stage_changes_nothing(
    project: Path, whole: Path, tmp_path: Path, stage: str, evidence: str
) -> None:
    run = tmp_path / "tiny"
    run.mkdir()
    for earlier in STAGE_NAMES[: STAGE_NAMES.index(stage)]:
        shutil.copytree(whole / earlier, run / earlier)
    with subprocess.Popen(
        wingspan("run", project, "--runs", tmp_path),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        seen = any(_inside(process, run / f".{stage}.partial", evidence))
        os.killpg(process.pid, signal.SIGKILL)
    assert seen, "the stage ended before it could be killed inside"
    assert not (run / stage).exists()
    run_to_the_end(project, tmp_path)
    assert results(run) == results(whole)
    assert not list(run.glob(".*.partial"))


def test_ctrl_c_ends_with_1_and_says_that_the_command_continues(project: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    for earlier in ("plan", "rehearse", "prepare"):
        shutil.copytree(whole / earlier, run / earlier)
    with subprocess.Popen(wingspan("train", project, "--runs", tmp_path), stderr=subprocess.PIPE) as process:
        assert any(_inside(process, run / ".train.partial", "checkpoints/*"))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"the same command continues" in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("victim", "stage"),
    [("prepare/tokens/train-00000.bin", "train"), ("train/base/model.safetensors", "align")],
)
def test_a_flipped_byte_is_named_before_anything_is_built_on_it(
    project: Path, whole: Path, tmp_path: Path, victim: str, stage: str
) -> None:
    run = tmp_path / "tiny"
    for earlier in STAGE_NAMES[: STAGE_NAMES.index(stage)]:
        shutil.copytree(whole / earlier, run / earlier)
    content = bytearray((run / victim).read_bytes())
    content[len(content) // 2] ^= 1
    (run / victim).write_bytes(content)
    result = subprocess.run(wingspan(stage, project, "--runs", tmp_path), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert victim.rpartition("/")[2] in result.stderr
    assert "damaged" in result.stderr


@pytest.mark.parametrize("stage", ["prepare", "train", "align"])
def test_a_full_disk_is_said_and_leaves_no_stage_folder(project: Path, whole: Path, tmp_path: Path, stage: str) -> None:
    """A real small file system in a mount namespace of its own, filled by the stage."""
    earlier = [one for one in STAGE_NAMES[: STAGE_NAMES.index(stage)] if one != "rehearse"]
    used = sum(file.stat().st_size for one in earlier for file in (whole / one).rglob("*") if file.is_file())
    disk = tmp_path / "disk"
    disk.mkdir()
    copies = " && ".join(["mkdir -p disk/tiny", *(f"cp -r {whole / one} disk/tiny/" for one in earlier)])
    command = " ".join(wingspan(stage, project, "--runs", disk))
    script = (
        f"mount -t tmpfs -o size={used + 150_000} none disk && {copies} && {command}; code=$?; "
        f"test -e disk/tiny/{stage} && echo half-written; exit $code"
    )
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 1, result.stderr
    assert "disk is full" in result.stderr
    assert "half-written" not in result.stdout
