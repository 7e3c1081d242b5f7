"""Tokens a second of SFT and DPO on SmolLM2-135M, beside TRL on the same batches, in turns.

python benchmarks/align.py [--quick] [--json]

Both keep float32 weights and compute in bfloat16; neither recomputes activations. The peer runs in its own environment
(`make bench-peers`) and takes one step whenever this one has. Its DPO is timed as it comes, with a reference model in
every step, and unless --quick with its references computed beforehand, as wingspan's always are.
"""

from __future__ import annotations

import json
import resource
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
from wingspan.align.answers import AnswerPart, PackedAnswers, answer_of, log_probs
from wingspan.align.objectives import preference_objective
from wingspan.model.chat import STOP, load_tokenizer
from wingspan.model.checkpoint import open_folder
from wingspan.model.gguf import open_model_folder
from wingspan.project import Layout, Optimizer, Preference
from wingspan.train.data.batches import Batch, PackedPieces
from wingspan.train.faults.health import Health
from wingspan.train.loop import take_step
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.start import start_part

HERE = Path(__file__).parent
PEER = HERE / ".venvs/trl/bin/python"
WORDS = ["good", "bad", "day", "sun", "rain", "tea", "people", "like", "new", "house", "great", "work", "time", "week"]
ANSWER = 0.25  # share of a sequence that is learned


def main() -> None:
    options = parser(__doc__).parse_args()
    figures: Figures = {}
    targets: Targets = {}
    model = open_model_folder("asset:smollm2-135m-instruct")
    rows, length, steps = (1, 256, 3) if options.quick else (4, 512, 6)
    say(f"SmolLM2-135M, {torch.get_num_threads()} threads, {rows} x {length} tokens, in dpo as {rows} pairs")
    for method, peers in (("sft", ["sft"]), ("dpo", ["dpo"] if options.quick else ["dpo", "dpo-cached"])):
        batch, posed = (_conversations if method == "sft" else _pairs)(model, rows, length)
        for peer in peers:
            step = _own(model, method, batch, length)
            ours, theirs = _in_turns(step, peer, model, posed, steps)
            tokens = rows * length
            figures |= {f"{method}_tokens_per_s": tokens / ours, f"trl_{peer}_tokens_per_s": tokens / theirs}
            name = f"{peer.replace('-', '_')}_over_trl"
            if peer == method:
                targets[name] = (theirs / ours, 1.5, False)
            else:
                figures[name] = theirs / ours
            say(f"{peer}: {tokens / ours:.0f} tokens/s, TRL {tokens / theirs:.0f}: {theirs / ours:.2f} times")
    figures["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    finish(figures, targets, "torch", options.json)


def _text(random: np.random.Generator, tokens: int) -> str:
    """As many words of one token each, the space before them included."""
    return "".join(f" {WORDS[at]}" for at in random.integers(len(WORDS), size=tokens))


def _conversations(model: Path, rows: int, length: int) -> tuple[Any, list[dict[str, Any]]]:
    """Rows of so many tokens, of which the last quarter is learned: for the loop, and for the peer."""
    tokenizer, random = load_tokenizer(model), np.random.default_rng(1)
    stop, answer = tokenizer.token_to_id(STOP), round(length * ANSWER)
    ids = [[*tokenizer.encode(_text(random, length - 1)).ids, stop] for _ in range(rows)]
    pieces = [answer_of(one[:-answer], one[-answer:], 0.0).piece for one in ids]
    lengths = np.array([len(inputs) for inputs, _ in pieces])
    packed = PackedPieces(lengths, lambda number: pieces[number], length, stop)
    posed = [{"input_ids": one, "completion_mask": [0] * (length - answer) + [1] * answer} for one in ids]
    return packed, posed


def _pairs(model: Path, rows: int, length: int) -> tuple[Any, list[dict[str, Any]]]:
    """Pairs of two answers behind one question, each half a row with it."""
    tokenizer, random = load_tokenizer(model), np.random.default_rng(2)
    stop, answer = tokenizer.token_to_id(STOP), round(length // 2 * ANSWER)
    posed = [
        {
            "prompt": _text(random, length // 2 - answer),
            "chosen": _text(random, answer - 1),
            "rejected": _text(random, answer - 1),
        }
        for _ in range(rows)
    ]

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text).ids
        return found

    units = [
        [
            answer_of(ids(one["prompt"]), [*ids(one[side]), stop], label)
            for side, label in (("chosen", 1.0), ("rejected", -1.0))
        ]
        for one in posed
    ]
    return PackedAnswers(units, length, stop), posed


def _own(model: Path, method: str, batches: Any, length: int) -> Callable[[], float]:
    """A step of wingspan's loop; the call returns its seconds."""
    rows = len(batches)
    folder, layout = open_folder(model), Layout(micro_batch=rows)
    part = start_part(folder.shape, layout, folder, sequence=length, global_batch=rows, device=torch.device("cpu"))
    if method == "dpo":
        part = AnswerPart.of(part, preference_objective("dpo", Preference()))
        batches.references = log_probs(part, batches)
    settings = Optimizer(learning_rate=1e-5, weight_decay=0.0)
    optimizers, health = make_optimizers(part.model, settings), Health(0.0, 0, ())
    batch: Batch = batches.batch(np.arange(rows))

    def step() -> float:
        began = time.perf_counter()
        take_step(part, optimizers, batch, settings.clip, settings.learning_rate, health)
        return time.perf_counter() - began

    return step


def _in_turns(
    step: Callable[[], float], peer: str, model: Path, posed: list[dict[str, Any]], steps: int
) -> tuple[float, float]:
    """Median seconds of a step of ours and of the peer's, after one of each to warm up; nan without the peer."""
    if not PEER.is_file():
        say("TRL is not installed: make bench-peers")
        return statistics.median([step() for _ in range(steps + 1)][1:]), float("nan")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(posed, file)
        file.flush()
        command = [str(PEER), str(HERE / "peer_trl.py"), peer, str(model), file.name]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            times = []
            for _ in range(steps + 1):
                other.stdin.write("go\n")
                other.stdin.flush()
                line = next(line for line in other.stdout if line.startswith('{"seconds'))
                times.append((step(), json.loads(line)["seconds"]))
            other.kill()
    return statistics.median(ours for ours, _ in times[1:]), statistics.median(theirs for _, theirs in times[1:])


if __name__ == "__main__":
    main()
