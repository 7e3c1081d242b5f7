"""The align stage: it learns, exports a chat model, and survives SIGKILL with the same weights."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from align.aligned import align, trained_run
from wingspan.errors import InputError
from wingspan.train.data.ledger import audit

TESTS = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS)}

METHODS = ("sft", "dpo", "grpo")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    trained_run(folder, methods=METHODS)
    return folder / "runs" / "tiny" / "align", align(folder)


def test_each_step_learns_from_the_one_before(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = undisturbed
    assert summary["kinds"] == {"dialogue": 60, "refusal": 2}
    assert summary["loss"]["last"] < summary["loss"]["first"]
    assert summary["held_out_loss"]["after"] < 0.7 * summary["held_out_loss"]["before"]
    assert (summary["shortened"], summary["dropped"]) == (0, 0)
    dpo = summary["further"]["dpo"]
    assert dpo["loss"]["first"] == pytest.approx(math.log(2), abs=1e-5), "the policy starts as the reference"
    assert dpo["loss"]["last"] < 0.6
    reward = summary["further"]["grpo"]["reward"]
    assert 0 < reward["first"] < 1
    assert not (folder / "sft" / "model").exists()
    why = pq.read_table(folder / "dpo" / "preferences.parquet").to_pylist()
    assert {one["reason"] for one in why} == {"chosen over the other"}
    assert {one["consent"] for one in why} == {"own"}


def test_every_sequence_was_used_exactly_once_per_epoch(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = undisturbed
    for method in METHODS:
        record = audit(folder / method / "ledger")
        lines = [json.loads(line) for line in (folder / method / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(record.steps))
        assert record.samples == 4 * record.steps
    assert audit(folder / "sft" / "ledger").samples >= 2 * summary["sequences"]


def test_the_assistant_is_a_chat_model_for_transformers(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = undisturbed
    tokenizer = AutoTokenizer.from_pretrained(folder / "assistant")
    model = AutoModelForCausalLM.from_pretrained(folder / "assistant")
    messages = [{"role": "user", "content": "good tea"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>"), "it learned to stop"


def test_a_run_killed_in_later_steps_ends_with_the_same_weights(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole, _ = undisturbed
    trained_run(tmp_path, methods=METHODS)
    command = [sys.executable, str(Path(__file__).parent / "aligned.py"), str(tmp_path)]
    partial = tmp_path / "runs" / "tiny" / ".align.partial"
    for method in METHODS[1:]:  # sft: tests/test_pipeline.py
        process = subprocess.Popen(command, env=ENVIRONMENT)
        deadline = time.monotonic() + 120
        while not (partial / method / "checkpoints" / "step-00000002").is_dir():
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "runs" / "tiny" / "align").exists()
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    resumed = tmp_path / "runs" / "tiny" / "align"
    for file in sorted((whole / "assistant").iterdir()):
        assert (resumed / "assistant" / file.name).read_bytes() == file.read_bytes(), file.name
    for method in METHODS:
        assert audit(resumed / method / "ledger").samples == audit(whole / method / "ledger").samples


def test_two_ranks_end_where_one_does(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    whole, summary = undisturbed
    trained_run(tmp_path, methods=METHODS, layout={"dp_shard": 2})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(Path(__file__).parent / "aligned.py"), str(tmp_path)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr[-2000:]
    both = tmp_path / "runs" / "tiny" / "align"
    for method in ("sft", "dpo"):
        losses = [
            [json.loads(line)["loss"] for line in (folder / method / "metrics.jsonl").read_text().splitlines()]
            for folder in (whole, both)
        ]
        assert losses[1] == pytest.approx(losses[0], abs=2e-3)
    found = json.loads((both / "manifest.json").read_text())["summary"]
    first = found["further"]["grpo"]["reward"]["first"]
    assert first == pytest.approx(summary["further"]["grpo"]["reward"]["first"], abs=0.2), "the same draws, nearly"


def test_conversations_that_are_all_too_long_are_refused(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    path = run.base / "wingspan.toml"
    path.write_text(path.read_text().replace("sequence = 128", "sequence = 8"))
    with pytest.raises(InputError, match=r"longer than align\.sequence"):
        align(tmp_path)
