"""The align stage: it learns, exports a chat model, and survives SIGKILL with the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from align.aligned import align, trained_run
from wingspan.errors import InputError
from wingspan.train.data.ledger import audit

TESTS = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS)}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    trained_run(folder)
    return folder / "runs" / "tiny" / "align", align(folder)


def test_held_out_conversations_are_predicted_better(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, summary = undisturbed
    assert summary["conversations"] == 60
    assert summary["loss"]["last"] < summary["loss"]["first"]
    assert summary["held_out_loss"]["after"] < 0.7 * summary["held_out_loss"]["before"]
    assert (summary["shortened"], summary["dropped"]) == (0, 0)


def test_every_sequence_was_used_exactly_once_per_epoch(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = undisturbed
    record = audit(folder / "ledger")
    assert record.steps == summary["steps"]
    assert record.samples == 4 * summary["steps"] >= 2 * summary["sequences"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(summary["steps"]))


def test_the_assistant_is_a_chat_model_for_transformers(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = undisturbed
    tokenizer = AutoTokenizer.from_pretrained(folder / "assistant")
    model = AutoModelForCausalLM.from_pretrained(folder / "assistant")
    messages = [{"role": "user", "content": "good tea"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>"), "it learned to stop"


def test_a_killed_run_ends_with_the_same_weights(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    whole, _ = undisturbed
    trained_run(tmp_path)
    command = [sys.executable, str(Path(__file__).parent / "aligned.py"), str(tmp_path)]
    process = subprocess.Popen(command, env=ENVIRONMENT)
    partial = tmp_path / "runs" / "tiny" / ".align.partial"
    deadline = time.monotonic() + 120
    while not (partial / "checkpoints" / "step-00000002").is_dir():
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
    assert audit(resumed / "ledger").samples == audit(whole / "ledger").samples


def test_conversations_that_are_all_too_long_are_refused(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    path = run.base / "wingspan.toml"
    path.write_text(path.read_text().replace("sequence = 96", "sequence = 8"))
    with pytest.raises(InputError, match=r"longer than align\.sequence"):
        align(tmp_path)
