"""How much of one GPU a training step uses: 1.5 billion parameters in bf16 and in fp8, wingspan's own step, compiled.

python benchmarks/train_gpu.py [--quick] [--json]

Where there is no GPU it says so, measures nothing and ends with code 0. torchtitan's figures are those it publishes for
Llama 3 8B on 8 H100 with FSDP and compilation (benchmarks/llama3_h100_202412), scaled by FLOPs per token.
"""

from __future__ import annotations

import statistics
import time

import torch

from targets import Figures, Targets, finish, parser, say
from wingspan.errors import InputError
from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Optimizer
from wingspan.train.data.batches import Batch
from wingspan.train.faults.health import Health
from wingspan.train.loop import take_step
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.start import start_part

SHAPE = ModelShape("llama", 28, 2048, 16, 8, 128, 5632, 32768, tie_embeddings=False)  # 1.5 billion
SEQUENCE, ROWS, BATCH = 4096, 4, 16  # tokens of a sequence, sequences of a micro-batch and of a step
PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}  # bf16 FLOP/s, dense, from the data sheets
LLAMA_8B = ModelShape("llama", 32, 4096, 32, 8, 128, 14336, 128256, tie_embeddings=False)
TORCHTITAN = {"bf16": 6667.0, "fp8": 8532.0}  # tokens/s of a GPU, sequences of 8,192


def main() -> None:
    options = parser(__doc__).parse_args()
    figures: Figures = {}
    targets: Targets = {}
    not_measured: dict[str, str] = {}
    if torch.cuda.is_available():
        for precision in ("bf16", "fp8"):
            try:
                _measure(precision, 3 if options.quick else 10, figures)
            except InputError as error:
                not_measured[precision] = str(error)
        _compare(figures, targets)
    else:
        not_measured = dict.fromkeys(("bf16", "fp8"), "there is no GPU that torch can use")
    for precision, why in not_measured.items():
        say(f"{precision} was not measured: {why}")
    finish(figures, targets, "torch", options.json, not_measured=not_measured)


def _measure(precision: str, steps: int, figures: Figures) -> None:
    """Tokens a second of whole steps: forward, backward, clipping, AdamW."""
    device = torch.device("cuda", 0)
    torch.cuda.reset_peak_memory_stats()
    layout = Layout(micro_batch=ROWS, precision=precision)
    began = time.perf_counter()
    part = start_part(SHAPE, layout, 1, sequence=SEQUENCE, global_batch=BATCH, device=device, compiled=True)
    optimizers, health = make_optimizers(part.model, Optimizer()), Health(0.0, 0)
    tokens = torch.randint(SHAPE.vocab, (BATCH, SEQUENCE + 1))
    positions = torch.arange(SEQUENCE).repeat(BATCH, 1)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], positions, torch.zeros_like(positions)).to(device)
    times = []
    for step in range(steps + 2):
        begin = time.perf_counter()
        take_step(part, optimizers, batch, 1.0, 1e-4, health)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        if step == 0:
            figures[f"first_step_s_{precision}"] = time.perf_counter() - began
    speed = BATCH * SEQUENCE / statistics.median(times[2:])
    figures[f"tokens_per_s_{precision}"] = speed
    figures[f"peak_gib_{precision}"] = torch.cuda.max_memory_allocated() / 2**30
    say(f"{precision}: {speed:,.0f} tokens/s, {figures[f'peak_gib_{precision}']:.1f} GiB at the peak")


def _compare(figures: Figures, targets: Targets) -> None:
    flops = SHAPE.training_flops_per_token(SEQUENCE)
    scale = LLAMA_8B.training_flops_per_token(8192) / flops
    name = torch.cuda.get_device_name(0)
    peak = next((value for chip, value in PEAKS.items() if chip in name), None)
    bf16, fp8 = figures.get("tokens_per_s_bf16"), figures.get("tokens_per_s_fp8")
    if bf16 is not None and peak is not None:
        targets["mfu_bf16"] = (bf16 * flops / peak, 0.55, False)
    if bf16 is not None and "H100" in name:
        targets["times_torchtitan_bf16"] = (bf16 / (TORCHTITAN["bf16"] * scale), 1.0, False)
    if fp8 is not None and bf16 is not None:
        targets["fp8_gain"] = (fp8 / bf16, 1.25, False)
    if fp8 is not None and "H100" in name:
        targets["times_torchtitan_fp8"] = (fp8 / (TORCHTITAN["fp8"] * scale), 1.0, False)


if __name__ == "__main__":
    main()
