"""Tokens a second of wingspan's training loop beside others', on the same model and tokens, in one run.

python benchmarks/train.py [--quick] [--json] [--rounds N] [--batch ROWS]

34 million parameters: 12 layers, 384 wide, 32,768 tokens, sequences of 512; one thread each, processor time, bf16. The
trainers take turns, one step each. litgpt and transformers' Trainer need `make bench-peers`, and are left out without.
nanochat is left out: it is no package, and its model of this size has value embeddings that make it 122 million
parameters. --quick takes two layers and 8,192 tokens, and three rounds: its figures are another model's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="0")

import torch

from targets import Figures, Targets, finish, parser, say

HERE = Path(__file__).parent
PEERS = {"litgpt": "litgpt", "transformers": "trl", "transformers-compiled": "trl"}  # and their environments
WHOLE = {"layers": 12, "hidden": 384, "heads": 6, "ffn": 1024, "vocab": 32768, "sequence": 512}
QUICK = WHOLE | {"layers": 2, "vocab": 8192}
WARM_UP = 2  # steps that are not counted
STEP_S = 0.3  # of the step that the overhead is a share of

Steps = list[dict[str, float]]


class Contender:
    """A trainer in its process, stepped by a line."""

    def __init__(self, name: str, python: str, sizes: Path) -> None:
        self.name = name
        command = [python, str(HERE / "contender_train.py"), name, str(sizes)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.steps: Steps = []

    def step(self) -> dict[str, float] | None:
        """One step of it; None when it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if line.startswith("STEP "):
                self.steps.append(json.loads(line.removeprefix("STEP ")))
                return self.steps[-1]
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def median(self, what: str) -> float:
        return statistics.median(step[what] for step in self.steps[WARM_UP:])


def main() -> None:
    options = _options()
    sizes = (QUICK if options.quick else WHOLE) | {"batch": options.batch}
    rounds = 3 if options.quick else options.rounds
    figures: Figures = {}
    targets: Targets = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sizes.json"
        path.write_text(json.dumps(sizes))
        found = _race(_names(options.quick), path, rounds)
    _speeds(found, sizes, figures, targets)
    _overhead(found["wingspan"], figures, targets)
    finish(figures, targets, "torch", options.json)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=5, help="steps of each that are counted")
    made.add_argument("--batch", type=int, default=4, help="sequences per step")
    return made.parse_args()


def _names(quick: bool) -> dict[str, str]:
    """The contenders and the Python that each runs in."""
    names = ["wingspan", "nanogpt", "transformers", "litgpt"]
    if not quick:
        names += ["wingspan-eager", "transformers-compiled"]
    pythons = {}
    for name in names:
        python = Path(sys.executable) if name not in PEERS else HERE / ".venvs" / PEERS[name] / "bin/python"
        if python.is_file():
            pythons[name] = str(python)
        else:
            say(f"{name} is not installed: make bench-peers")
    return pythons


def _race(names: dict[str, str], sizes: Path, rounds: int) -> dict[str, Contender]:
    """All of them step in turn, and machine's own speed is taken between."""
    running = [Contender(name, python, sizes) for name, python in names.items()]
    try:
        for number in range(WARM_UP + rounds):
            for one in list(running):
                began = time.perf_counter()
                step = one.step()
                if step is None:
                    running.remove(one)
                    say(f"{one.name} ended with code {one.process.wait()}: left out")
                elif number == 0:
                    say(f"{one.name:<22} first step {time.perf_counter() - began:.1f} s after its turn came")
            RATES.append(_product_rate(json.loads(sizes.read_text())))
    finally:
        for one in running:
            one.end()
    return {one.name: one for one in running}


RATES: list[float] = []


def _product_rate(sizes: dict[str, int]) -> float:
    """FLOP a second of this network's bf16 products alone, forward and backward, each weighed by its share."""
    rows = sizes["batch"] * sizes["sequence"]
    width, ffn = sizes["hidden"], sizes["ffn"]
    torch.set_num_threads(1)
    operations = seconds = 0.0
    for inputs, outputs, count in ((width, width, 4), (width, ffn, 2), (ffn, width, 1), (width, sizes["vocab"], 0)):
        times = sizes["layers"] * count or 1
        x, w, y = (torch.randn(*size).bfloat16() for size in ((rows, inputs), (outputs, inputs), (rows, outputs)))
        began = time.process_time()
        _ = x @ w.T, y @ w, y.T @ x
        seconds += times * (time.process_time() - began)
        operations += times * 6 * rows * inputs * outputs
    return operations / seconds


def _speeds(found: dict[str, Contender], sizes: dict[str, int], figures: Figures, targets: Targets) -> None:
    tokens = sizes["batch"] * sizes["sequence"]
    speed = {name: tokens / one.median("cpu_s") for name, one in found.items()}
    for name, one in found.items():
        loss, memory = one.steps[-1]["loss"], one.steps[-1]["peak_gib"]
        say(f"{name:<22} {speed[name]:6.0f} tokens/CPU-s   loss {loss:.3f}   peak {memory:.2f} GiB")
        figures[f"tokens_per_cpu_s_{name}"] = speed[name]
        figures[f"first_step_s_{name}"] = one.steps[0]["since_start_s"]
    width, layers = sizes["hidden"], sizes["layers"]
    matrices = layers * (4 * width**2 + 3 * width * sizes["ffn"]) + sizes["vocab"] * width
    flops = 6 * matrices + 6 * layers * sizes["sequence"] * width  # causal attention, as ModelShape counts
    rate = statistics.median(RATES)
    others = {name: value for name, value in speed.items() if not name.startswith("wingspan")}
    figures |= {"products_gflops": rate / 1e9, "allowed_tokens_per_cpu_s": rate / flops}
    say(f"{'products alone':<22} {rate / flops:6.0f} tokens/CPU-s would be {rate / 1e9:.0f} GFLOP/s")
    targets["times_best_peer"] = (speed["wingspan"] / max(others.values()), 1.3, False)
    targets["share_of_products"] = (speed["wingspan"] * flops / rate, 0.75, False)


def _overhead(own: Contender, figures: Figures, targets: Targets) -> None:
    """What a step takes outside the model: all of it, and the loader's and the record's parts."""
    rest = statistics.median(step["cpu_s"] - step["model"] for step in own.steps[WARM_UP:])
    figures |= {f"step_{kind}_ms": 1e3 * own.median(kind) for kind in ("data", "record")}
    figures["step_overhead_ms"] = 1e3 * rest
    targets["overhead_share_of_300_ms"] = (rest / STEP_S, 0.01, True)


if __name__ == "__main__":
    main()
