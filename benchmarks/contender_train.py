"""One trainer of benchmarks/train.py in a process of its own: a training step for each line on stdin.

python benchmarks/contender_train.py NAME SIZES.json

Prints a JSON line {"cpu_s", "loss", ...} for each step. NAME is wingspan, wingspan-eager, transformers,
transformers-compiled, litgpt (in its own environment) or nanogpt. nanoGPT is no package: its recipe is written out here
from what its README and GPT-2's paper say (learned positions, LayerNorm, GELU, no biases, fused AdamW, clipping at 1),
with the bf16 autocast that it uses where a device has it.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

BEGAN = time.perf_counter()
LEARNING_RATE, DECAY, BETAS = 1e-3, 0.1, (0.9, 0.95)


def main() -> None:
    name, sizes = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokens = torch.randint(sizes["vocab"], (4 * sizes["batch"], sizes["sequence"] + 1))
    run = {"nanogpt": _nanogpt, "litgpt": _litgpt}.get(name)
    if run is not None:
        _plain_loop(*run(sizes), tokens, sizes["batch"])
    elif name.startswith("wingspan"):
        _wingspan(sizes, tokens, compiled=name == "wingspan")
    else:
        _transformers(sizes, tokens, compiled=name.endswith("compiled"))


class Pace:
    """Waits for a line before each step, and tells what the step before it took."""

    def __init__(self) -> None:
        self.began, self.loss, self.extra = 0.0, math.nan, {}

    def begin(self) -> None:
        if not sys.stdin.readline():
            sys.exit()
        self.began, self.wall = time.process_time(), time.perf_counter()

    def end(self, loss: float, **extra: float) -> None:
        now = time.perf_counter()
        took = {"cpu_s": time.process_time() - self.began, "wall_s": now - self.wall, "since_start_s": now - BEGAN}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print("STEP " + json.dumps(took | {"loss": loss, "peak_gib": memory} | extra), flush=True)


def _plain_loop(model: nn.Module, loss_of: Callable, tokens: torch.Tensor, batch: int) -> None:
    """The loop that nanoGPT and litgpt have in common: autocast, clip, fused AdamW."""
    decayed = [one for one in model.parameters() if one.ndim > 1]
    plain = [one for one in model.parameters() if one.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    pace, step = Pace(), 0
    while True:
        pace.begin()
        rows = tokens[batch * (step % 4) : batch * (step % 4 + 1)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(rows[:, :-1], rows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        pace.end(loss.item())


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.between(x))))


class _NanoGPT(nn.Module):
    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        width = sizes["hidden"]
        self.tokens, self.places = nn.Embedding(sizes["vocab"], width), nn.Embedding(sizes["sequence"], width)
        self.blocks = nn.ModuleList(_Block(width, sizes["heads"]) for _ in range(sizes["layers"]))
        self.norm = nn.LayerNorm(width, bias=False)
        for one in self.parameters():
            if one.ndim > 1:
                nn.init.normal_(one, std=0.02)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(F.linear(self.norm(x), self.tokens.weight).flatten(0, 1), targets.flatten())


def _nanogpt(sizes: dict[str, int]) -> tuple[nn.Module, Callable]:
    model = _NanoGPT(sizes)
    return model, model


def _litgpt(sizes: dict[str, int]) -> tuple[nn.Module, Callable]:
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    model = GPT(
        Config(
            name="benchmark",
            block_size=sizes["sequence"],
            vocab_size=sizes["vocab"],
            padded_vocab_size=sizes["vocab"],
            n_layer=sizes["layers"],
            n_head=sizes["heads"],
            n_embd=sizes["hidden"],
            intermediate_size=sizes["ffn"],
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
        )
    )
    model.lm_head.weight = model.transformer.wte.weight  # tied, as the others: equally many parameters
    for one in model.parameters():
        if one.ndim > 1:
            nn.init.normal_(one, std=0.02)
    return model, lambda ids, targets: chunked_cross_entropy(model(ids), targets, chunk_size=0)


def _transformers(sizes: dict[str, int], tokens: torch.Tensor, *, compiled: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Paced(TrainerCallback, Pace):
        def on_step_begin(self, args, state, control, **kwargs):
            self.begin()

        def on_step_end(self, args, state, control, **kwargs):
            self.took = time.process_time() - self.began

        def on_log(self, args, state, control, logs, **kwargs):
            if "loss" in logs:
                self.end(logs["loss"])

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sizes["vocab"],
            hidden_size=sizes["hidden"],
            intermediate_size=sizes["ffn"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            max_position_embeddings=sizes["sequence"],
            tie_word_embeddings=True,
        )
    )
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=sizes["batch"],
        max_steps=1000,
        learning_rate=LEARNING_RATE,
        weight_decay=DECAY,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=True,
        torch_compile=compiled,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = [{"input_ids": row[:-1], "labels": row[:-1]} for row in tokens]
    Trainer(model, arguments, train_dataset=rows, callbacks=[Paced()]).train()


def _wingspan(sizes: dict[str, int], tokens: torch.Tensor, *, compiled: bool) -> None:
    """The real loop: ledger, metrics, health, watch, and checkpoints that are never due."""
    from wingspan.model.shape import ModelShape
    from wingspan.progress import SilentProgress
    from wingspan.project import Layout, Optimizer
    from wingspan.train import loop
    from wingspan.train.data.batches import PackedPieces
    from wingspan.train.optimize.optimizers import Optimizers
    from wingspan.train.parallel.part import Part
    from wingspan.train.start import start_part
    from wingspan.train.telemetry.record import Record

    spent = {"model": 0.0, "data": 0.0, "record": 0.0}

    def timed(owner: object, name: str, kind: str) -> None:
        work = getattr(owner, name)

        def clocked(*args, **kwargs):
            began = time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                spent[kind] += time.process_time() - began

        setattr(owner, name, clocked)

    for owner, name, kind in (
        (Part, "backward", "model"),
        (Optimizers, "step", "model"),
        (loop, "gradient_norms", "model"),
        (loop, "scale_gradients", "model"),
        (PackedPieces, "batch", "data"),
        (Record, "step", "record"),
    ):
        timed(owner, name, kind)
    pace = Pace()

    class Paced(PackedPieces):
        steps = 0

        def batch(self, samples):
            if self.steps:
                pace.end(losses[-1], **spent)
            self.steps += 1
            spent.update(model=0.0, data=0.0, record=0.0)
            pace.begin()
            return super().batch(samples)

    losses = [math.nan]
    took = loop.take_step

    def take_step(*args, **kwargs):
        step = took(*args, **kwargs)
        losses.append(step.loss)
        return step

    loop.take_step = take_step
    shape = ModelShape(
        "llama", sizes["layers"], sizes["hidden"], sizes["heads"], sizes["heads"], sizes["hidden"] // sizes["heads"],
        sizes["ffn"], sizes["vocab"], tie_embeddings=True,
    )  # fmt: skip
    part = start_part(
        shape,
        Layout(micro_batch=sizes["batch"]),
        1,
        sequence=sizes["sequence"],
        global_batch=sizes["batch"],
        device=torch.device("cpu"),
        compiled=compiled,
    )
    lengths = torch.full((len(tokens),), sizes["sequence"]).numpy()
    data = tokens.numpy()
    batches = Paced(lengths, lambda row: (data[row, :-1], data[row, 1:]), sizes["sequence"], 0)
    recipe = loop.Recipe("train", 1000, sizes["batch"], Optimizer(learning_rate=LEARNING_RATE), 1, 10**9, 1)
    loop.fit(part, batches, recipe, Path(tempfile.mkdtemp()), SilentProgress())


if __name__ == "__main__":
    main()
