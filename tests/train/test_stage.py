"""The stage as a user runs it: from prepared tokens to a folder that transformers loads, through any accident."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from train import prepared
from wingspan import workspace
from wingspan.errors import InputError
from wingspan.progress import SilentProgress
from wingspan.stages import stage_spec
from wingspan.train.data.ledger import audit
from wingspan.train.stage import work
from wingspan.train.telemetry.goodput import read_lines, total

SCRIPT = [prepared.__file__]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


class Listening(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def train(folder: Path, progress: SilentProgress | None = None) -> dict[str, Any]:
    run = workspace.open_run(folder, runs=folder / "runs")
    return workspace.run_stage(run, stage_spec("train"), work, progress or SilentProgress()).manifest["summary"]


def weights(folder: Path) -> bytes:
    return (folder / "runs/tiny/train/base/model.safetensors").read_bytes()


def losses(folder: Path) -> list[float]:
    lines = (folder / "runs/tiny/train/metrics.jsonl").read_text().splitlines()
    found = {line["step"]: line["loss"] for line in map(json.loads, lines)}
    return [found[step] for step in sorted(found)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 40 steps, several epochs long."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prepared.prepared_run(folder, tokens=40 * 256)
    train(folder)
    return folder


def test_training_learns_and_transformers_loads_the_result(undisturbed: Path) -> None:
    stage = undisturbed / "runs/tiny/train"
    summary = json.loads((stage / "manifest.json").read_text())["summary"]
    assert summary["steps"] == 40
    assert summary["loss"]["last"] < summary["loss"]["first"] - 1
    assert summary["held_out_bits_per_byte"]["after"] < summary["held_out_bits_per_byte"]["before"] - 1
    proof = audit(stage / "ledger")
    assert (proof.steps, proof.samples, proof.repeated) == (40, 320, 0)
    assert proof.tokens == summary["tokens"]
    assert not (stage / "checkpoints").exists()
    model = AutoModelForCausalLM.from_pretrained(stage / "base")
    tokenizer = AutoTokenizer.from_pretrained(stage / "base")
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == [
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
        tokenizer.convert_tokens_to_ids(prepared.END),
    ]
    ids = tokenizer(prepared.END + "the bird sang over", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()


def test_training_twice_gives_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    prepared.prepared_run(tmp_path, tokens=40 * 256)
    train(tmp_path)
    assert weights(tmp_path) == weights(undisturbed)


def interrupted(folder: Path, checkpoint: str, **options: Any) -> Path:
    """A run killed with SIGKILL once that checkpoint is there; its partial stage folder."""
    prepared.prepared_run(folder, **options)
    partial = folder / "runs/tiny/.train.partial"
    process = subprocess.Popen([sys.executable, *SCRIPT, str(folder)], stdout=subprocess.DEVNULL)
    while not (partial / "checkpoints" / checkpoint).is_dir():
        assert process.poll() is None, "it ended before the kill"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return partial


def test_after_sigkill_the_weights_are_those_of_an_undisturbed_run(undisturbed: Path, tmp_path: Path) -> None:
    began = time.time_ns()
    interrupted(tmp_path, "step-00000012", tokens=40 * 256)
    train(tmp_path)
    ended = time.time_ns()
    assert weights(tmp_path) == weights(undisturbed)
    assert losses(tmp_path) == losses(undisturbed)
    assert audit(tmp_path / "runs/tiny/train/ledger").samples == 320
    lines = read_lines(tmp_path / "runs/tiny/train")
    spent = total(lines)
    assert began < lines[-1]["until"] - spent.wall_ns < lines[-1]["until"] < ended
    assert 0 < spent.goodput < 1
    assert spent.shares["restart"].ns > spent.shares["start"].ns > 0


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(undisturbed: Path, tmp_path: Path) -> None:
    partial = interrupted(tmp_path, "step-00000012", tokens=40 * 256)
    newest = max((partial / "checkpoints").glob("step-*"))
    shard = next(newest.glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    progress = Listening()
    train(tmp_path, progress)
    assert progress.lines == [f"checkpoint {newest.name} is damaged ({shard.name} has changed); trying an older one"]
    assert weights(tmp_path) == weights(undisturbed)


def test_muon_resumes_to_the_same_weights(tmp_path: Path) -> None:
    prepared.prepared_run(tmp_path / "whole", tokens=40 * 256, optimizer="muon")
    train(tmp_path / "whole")
    interrupted(tmp_path / "cut", "step-00000012", tokens=40 * 256, optimizer="muon")
    train(tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0] - 1


def test_training_goes_on_from_a_hugging_face_folder(undisturbed: Path, tmp_path: Path) -> None:
    start = undisturbed / "runs/tiny/train/base"
    prepared.prepared_run(tmp_path, start=str(start))
    summary = train(tmp_path)
    before = json.loads((start.parent / "manifest.json").read_text())["summary"]
    assert summary["loss"]["first"] < before["loss"]["last"] + 0.5
    assert summary["parameters"] == before["parameters"]


UNTIED = "tie_embeddings = false"
EXPERTS = 'architecture = "qwen3_moe"\nexperts = 4\nexperts_per_token = 2\nexpert_ffn = 32\ntie_embeddings = false'
LAYOUTS = {
    "dp2": ({"dp_shard": 2}, ""),
    "hsdp2x2": ({"dp_replicate": 2, "dp_shard": 2}, ""),
    "tp2": ({"tp": 2}, ""),
    "dp2 tp2": ({"dp_shard": 2, "tp": 2}, ""),
    "pp2": ({"pp": 2}, UNTIED),
    "pp2 dp2": ({"pp": 2, "dp_shard": 2}, UNTIED),
    "pp2 dp2 tp2": ({"pp": 2, "dp_shard": 2, "tp": 2}, UNTIED),
    "dp2 experts": ({"dp_shard": 2}, EXPERTS),
    "dp2 recompute": ({"dp_shard": 2, "recompute": "full"}, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_no_layout_changes_the_loss(name: str, tmp_path: Path) -> None:
    layout, model = LAYOUTS[name]
    ranks = 1
    for size in (value for value in layout.values() if isinstance(value, int)):
        ranks *= size
    prepared.prepared_run(tmp_path / "one", tokens=1280, model=model)
    prepared.prepared_run(tmp_path / "many", layout, tokens=1280, model=model)
    one = train(tmp_path / "one")
    command = [*TORCHRUN, f"--nproc-per-node={ranks}", *SCRIPT, str(tmp_path / "many")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=2e-5)
    many = json.loads((tmp_path / "many/runs/tiny/train/manifest.json").read_text())["summary"]
    assert many["held_out_bits_per_byte"] == pytest.approx(one["held_out_bits_per_byte"], abs=2e-5)
    assert many["tokens"] == one["tokens"]
    theirs, ours = (
        AutoModelForCausalLM.from_pretrained(tmp_path / which / "runs/tiny/train/base") for which in ("one", "many")
    )
    for (_, a), (_, b) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-2)  # bf16


@pytest.mark.parametrize(
    ("layout", "model", "where"),
    [
        ({"dp_shard": 2}, "", "layout"),
        ({"cp": 1, "precision": "fp8"}, "", "layout.precision"),
    ],
)
def test_a_layout_that_cannot_be_says_what_to_change(
    layout: dict[str, Any], model: str, where: str, tmp_path: Path
) -> None:
    prepared.prepared_run(tmp_path, layout, model=model)
    with pytest.raises(InputError) as caught:
        train(tmp_path)
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    prepared.prepared_run(tmp_path, vocab=100)
    with pytest.raises(InputError, match="the tokenizer has 290 tokens, the model only 100"):
        train(tmp_path)
