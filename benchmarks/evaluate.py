"""Questions with choices scored a second on SmolLM2-135M, beside lm-eval's hf backend on the same task files, in turns.

python benchmarks/evaluate.py [--quick] [--json]

Both compute in bfloat16, as the hf backend does by default, and take the whole time of `evaluate`, without loading the
model. The peer runs in its own environment (`make bench-peers`), by default with its own default, one request at a
time; unless --quick also eight at a time. `plain` are questions without examples; `shots` have the same four examples
before each question, the shared prefix of few-shot tasks. That the scores are equal is shown in float32, answer by
answer: in bfloat16 two choices about equally likely may change places by rounding.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from targets import Figures, Targets, finish, parser, say
from wingspan.evaluate.benchmarks import benchmark_task
from wingspan.evaluate.harness import HarnessModel, run_tasks
from wingspan.evaluate.tasks import Task
from wingspan.model.chat import ChatRenderer
from wingspan.model.checkpoint import load
from wingspan.model.gguf import open_model_folder

HERE = Path(__file__).parent
PEER = HERE / ".venvs/lm-eval/bin/python"
WORDS = ["good", "bad", "day", "sun", "rain", "tea", "people", "like", "new", "house", "great", "work", "time", "week"]

Answers = list[list[float]]
Ask = Callable[[], tuple[float, float, Answers]]  # wall and CPU seconds, log-likelihoods


def main() -> None:
    options = parser(__doc__).parse_args()
    figures: Figures = {}
    targets: Targets = {}
    model = open_model_folder("asset:smollm2-135m-instruct")
    count, rounds = (12, 1) if options.quick else (120, 3)
    say(f"SmolLM2-135M, {torch.get_num_threads()} threads, {count} questions of 4 choices, {rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _equal(model, _task(folder, "exact", 6, 0), folder, figures, targets)
        for kind, shots in (("plain", 0), ("shots", 4)):
            ask = _own(model, _task(folder, kind, count // 2 if shots else count, shots), folder, torch.bfloat16)
            for batch in ("1",) if options.quick else ("1", "8"):
                _faster(ask, [str(model), name, kind, "bfloat16", batch], rounds, figures, targets)
    finish(figures, targets, "torch", options.json)


def _task(folder: Path, name: str, count: int, shots: int) -> Task:
    """Made-up questions of about 25 words and choices of about five."""
    random = np.random.default_rng(1)

    def text(low: int, high: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(low, high)))

    examples = "".join(f"Question: {text(15, 35)}?\nAnswer: {text(3, 8)}\n\n" for _ in range(shots))
    rows = [
        {
            "query": f"{examples}Question: {text(15, 35)}?",
            "choices": [text(3, 8) for _ in range(4)],
            "gold": int(random.integers(4)),
        }
        for _ in range(count)
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = benchmark_task(file, count, 1)
    task.write(folder)
    return task


def _own(model: Path, task: Task, folder: Path, dtype: torch.dtype) -> Ask:
    network, renderer = load(model, dtype), ChatRenderer.from_folder(model)

    def ask() -> tuple[float, float, Answers]:
        wall, cpu = time.perf_counter(), time.process_time()
        answers = run_tasks([task], folder, HarnessModel(network, renderer, 0, lambda count: None))[task.name]
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        return *seconds, [[float(given[0]) for given in one] for one in answers]

    return ask


def _equal(model: Path, task: Task, folder: Path, figures: Figures, targets: Targets) -> None:
    ours, theirs = _in_turns(
        _own(model, task, folder, torch.float32), [str(model), str(folder), task.name, "float32", "1"], 1
    )
    if theirs:
        difference = np.abs(np.array(ours[0][2]) - np.array(theirs[0]["answers"])).max()
        targets["largest_difference_nats"] = (float(difference), 0.001, True)


def _faster(ask: Ask, command: list[str], rounds: int, figures: Figures, targets: Targets) -> None:
    *_, kind, _, batch = command
    ours, theirs = _in_turns(ask, command, rounds)
    if not theirs:
        return
    wall, cpu = statistics.median(one[0] for one in ours), statistics.median(one[1] for one in ours)
    their_wall = statistics.median(one["seconds"] for one in theirs)
    their_cpu = statistics.median(one["cpu"] for one in theirs)
    mine, others = np.array(ours[0][2]), np.array(theirs[0]["answers"])
    name, same = f"{kind}_over_hf_batch_{batch}", float((mine.argmax(axis=1) == others.argmax(axis=1)).mean())
    figures |= {
        f"{kind}_questions_per_s": len(mine) / wall,
        f"{name}_cpu": their_cpu / cpu,
        f"{name}_same_choice": same,
    }
    targets[name] = (their_wall / wall, 2.0, False)
    say(
        f"{kind}: {len(mine) / wall:.1f} questions/s, hf backend (batch {batch}) {len(mine) / their_wall:.1f}: "
        f"{their_wall / wall:.2f} times the wall, {their_cpu / cpu:.2f} times the CPU time; same choice in {same:.0%}"
    )


def _in_turns(
    ask: Ask, command: list[str], rounds: int
) -> tuple[list[tuple[float, float, Answers]], list[dict[str, Any]]]:
    """What each round of ours and of the peer took and found; of several rounds the first only warms up."""
    ours: list[tuple[float, float, Answers]] = []
    theirs: list[dict[str, Any]] = []
    if not PEER.is_file():
        say("lm-eval's hf backend is not installed: make bench-peers")
        return ours, theirs
    with subprocess.Popen(
        [str(PEER), str(HERE / "peer_lm_eval.py"), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as other:  # fmt: skip
        assert other.stdin is not None
        assert other.stdout is not None
        for _ in range(rounds + (rounds > 1)):
            other.stdin.write("go\n")
            other.stdin.flush()
            line = next((line for line in other.stdout if line.startswith('{"seconds')), None)
            if line is None:
                sys.exit("lm-eval's hf backend failed; run benchmarks/peer_lm_eval.py by itself to see why")
            theirs.append(json.loads(line))
            ours.append(ask())
        other.kill()
    return (ours[1:], theirs[1:]) if rounds > 1 else (ours, theirs)


if __name__ == "__main__":
    main()
