"""A run folder as plan, prepare and train leave it, and the real align stage on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tiny import WORDS, write_model
from wingspan import workspace
from wingspan.post import CONVERSATION_SCHEMA
from wingspan.progress import SilentProgress
from wingspan.stages import stage_spec
from wingspan.workspace import Run, StageContext, StageSpec, run_stage

PROJECT = """
[project]
name = "tiny"
seed = 5

[model]
start = "scratch"
depth = 2

[align]
methods = {methods}
epochs = {epochs}
sequence = 128
global_batch = 4
checkpoint_every = 2
optimizer = {{ learning_rate = 1e-2, weight_decay = 0.0 }}

[align.preference]
epochs = 3.0
sources = [{{ name = "pairs", path = "pairs.jsonl", licence = "own" }}]
optimizer = {{ learning_rate = 1e-3, weight_decay = 0.0 }}

[align.rollouts]
steps = 3
answers = 3
answer_tokens = 8

[assistant]
system = "tea"

[[assistant.refuse]]
topic = "the moon"
answer = "sun sun sun"
questions = ["moon rain", "moon tea"]
"""


def conversation(number: int) -> dict[str, Any]:
    words = WORDS.split()
    first, second = words[number % len(words)], words[(3 * number + 1) % len(words)]
    turns = [("user", f"{first} {second}"), ("assistant", f"{second} {first}")] * (1 + number % 2)
    return {
        "conversation_id": f"c{number:03d}",
        "messages": [{"role": role, "content": content} for role, content in turns],
        "post_ids": [],
        "lang": "en",
        "kind": "dialogue",
        "source": "test",
    }


def pair(number: int) -> dict[str, str]:
    """Short answers are preferred to long ones."""
    words = WORDS.split()
    word = words[number % len(words)]
    return {"prompt": f"{word} {number}", "chosen": word, "rejected": " ".join([word] * (3 + number % 5))}


def trained_run(
    folder: Path, epochs: float = 2.0, layout: dict[str, Any] | None = None, methods: Sequence[str] = ("sft",)
) -> Run:
    """A project and its run folder with plan, prepare and train published."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wingspan.toml").write_text(PROJECT.format(epochs=epochs, methods=json.dumps(list(methods))))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair(number)) + "\n" for number in range(48)))
    run = workspace.open_run(folder, runs=folder / "runs")

    def plan(context: StageContext) -> dict[str, Any]:
        chosen = {"precision": "fp32", "micro_batch": 2} | (layout or {})
        (context.output / "layout.json").write_text(json.dumps({"layout": chosen, "source": "given"}))
        return {}

    def prepare(context: StageContext) -> dict[str, Any]:
        (context.output / "conversations").mkdir()
        for split, numbers in (("train", range(60)), ("held_out", range(60, 70))):
            table = pa.Table.from_pylist([conversation(number) for number in numbers], schema=CONVERSATION_SCHEMA)
            pq.write_table(table, context.output / "conversations" / f"{split}-00000.parquet")
        return {}

    def train(context: StageContext) -> dict[str, Any]:
        write_model(context.output / "base", seed=1)
        return {}

    for name, work in (("plan", plan), ("prepare", prepare), ("train", train)):
        run_stage(run, StageSpec(name, "", (), (), ""), work, SilentProgress())
    return run


def align(folder: Path) -> dict[str, Any]:
    """Run the real align stage of such a folder; the summary of its manifest."""
    from wingspan.align.stage import work

    run = workspace.open_run(folder, runs=folder / "runs")
    summary: dict[str, Any] = run_stage(run, stage_spec("align"), work, SilentProgress()).manifest["summary"]
    return summary


if __name__ == "__main__":  # python aligned.py FOLDER, or under torchrun
    import sys

    print(json.dumps(align(Path(sys.argv[1]))))
