"""A small run folder as plan and prepare leave it, made of invented posts."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from wingspan import workspace
from wingspan.errors import WingspanError
from wingspan.progress import SilentProgress
from wingspan.stages import stage_spec
from wingspan.workspace import LAUNCH, Run, StageContext, StageSpec, run_stage

END = "<|endoftext|>"
WORDS = "the a bird sang over hills while seven boats drifted home and nobody knew why it rained so long".split()  # noqa: SIM905

PROJECT = """
[project]
name = "tiny"
seed = 5

[model]
start = "{start}"
depth = 2
hidden = 32
heads = 4
kv_heads = 2
head_dim = 8
ffn = 64
vocab = {vocab}
{model}

[train]
tokens = {tokens}
sequence = 32
global_batch = 8
checkpoint_every = 3
optimizer = {{ name = "{optimizer}", learning_rate = 1e-2 }}
"""


def posts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 30))) for _ in range(count)]


def write_tokens(folder: Path, tokenizer: Tokenizer, splits: dict[str, list[str]], shards: int = 2) -> None:
    """tokens/ as prepare writes it."""
    end = tokenizer.token_to_id(END)
    index: dict[str, Any] = {
        "format": 1,
        "dtype": "uint16",
        "vocab": tokenizer.get_vocab_size(),
        "end_of_document": end,
    }
    index["splits"] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for split, texts in splits.items():
        index["splits"][split] = []
        for number in range(shards):
            mine = texts[number::shards]
            documents = [[*tokenizer.encode(text).ids, end] for text in mine]
            lengths = np.array([len(one) for one in documents], dtype=np.int64)
            stream = np.array([token for one in documents for token in one], dtype="<u2")
            file = folder / f"{split}-{number:05d}.bin"
            file.write_bytes(stream.tobytes())
            table = {
                "post_id": [f"{split}{number}-{i}" for i in range(len(mine))],
                "offset": np.cumsum(lengths) - lengths,
                "length": lengths,
                "bytes": [len(text.encode()) for text in mine],
            }
            pq.write_table(pa.table(table), folder / f"{split}-{number:05d}.documents.parquet")
            index["splits"][split].append(
                {
                    "file": file.name,
                    "tokens": len(stream),
                    "documents": len(mine),
                    "bytes": sum(table["bytes"]),
                    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                }
            )
    (folder / "index.json").write_text(json.dumps(index))


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[END, "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(posts(200, 0), trainer)
    return tokenizer


def prepared_run(
    folder: Path,
    layout: dict[str, Any] | None = None,
    *,
    tokens: int = 2560,
    model: str = "",
    optimizer: str = "adamw",
    start: str = "scratch",
    vocab: int = 300,
    more: str = "",
) -> Run:
    """A project and its run folder with plan and prepare published."""
    folder.mkdir(parents=True, exist_ok=True)
    project = folder / "wingspan.toml"
    project.write_text(PROJECT.format(tokens=tokens, model=model, optimizer=optimizer, start=start, vocab=vocab) + more)
    run = workspace.open_run(folder, runs=folder / "runs")

    def prepare(context: StageContext) -> dict[str, Any]:
        tokenizer = make_tokenizer()
        (context.output / "tokenizer").mkdir()
        tokenizer.save(str(context.output / "tokenizer" / "tokenizer.json"))
        (context.output / "tokenizer" / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END})
        )
        write_tokens(context.output / "tokens", tokenizer, {"train": posts(300, 1), "held_out": posts(40, 2)})
        names = [f"held_out{number % 2}-{number // 2}" for number in range(40)]
        whose = {"source": ["tern" if number % 3 else "gull" for number in range(40)], "lang": ["en"] * 40}
        (context.output / "posts").mkdir()
        pq.write_table(pa.table({"post_id": names, **whose}), context.output / "posts/held_out-00000.parquet")
        return {}

    arrange(run, layout or {})
    run_stage(run, StageSpec("prepare", "", (), (), ""), prepare, SilentProgress())
    return run


def arrange(run: Run, layout: dict[str, Any]) -> None:
    """Publish a plan with this layout, instead of the one before."""

    def plan(context: StageContext) -> dict[str, Any]:
        chosen = {"precision": "fp32", "micro_batch": 4} | layout
        (context.output / "layout.json").write_text(json.dumps({"layout": chosen, "source": "given"}))
        return {}

    run_stage(run, StageSpec("plan", "", (), (), ""), plan, SilentProgress(), force=True)


def train(folder: Path) -> dict[str, Any]:
    """Run the real train stage of a prepared project folder; the summary of its manifest."""
    from wingspan.train.stage import work

    run = workspace.open_run(folder, runs=folder / "runs")
    return run_stage(run, stage_spec("train"), work, SilentProgress()).manifest["summary"]


def rank(folder: Path, rank: int, ranks: int, port: int, launch: str) -> None:
    """Train as one rank of several; exits with the code that the command would."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), LAUNCH: launch}
    try:
        train(folder)
    except WingspanError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":  # python prepared.py FOLDER, or under torchrun
    print(json.dumps(train(Path(sys.argv[1]))))
