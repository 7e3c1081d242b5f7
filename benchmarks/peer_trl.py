"""TRL's half of benchmarks/align.py, in its own environment: one training step for each line on stdin.

python benchmarks/peer_trl.py sft|dpo|dpo-cached MODEL BATCH.json

Prints a JSON line {"seconds", "loss"} for each step. BATCH.json holds the batch as token ids.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


class Paced(TrainerCallback):
    """Waits for a line before each step and says how long it took; ends when there are no more."""

    def on_step_begin(self, args, state, control, **kwargs):
        if not sys.stdin.readline():
            sys.exit()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.began

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"seconds": self.seconds, "loss": logs["loss"], "peak_gib": memory}), flush=True)


def main() -> None:
    method, folder, batch = sys.argv[1:4]
    with open(batch, encoding="utf-8") as stream:
        rows = json.load(stream)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": len(rows),
        "max_steps": 1000,
        "learning_rate": 1e-5,
        "bf16": True,  # autocast over float32 weights, as wingspan's
        "use_cpu": True,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "max_length": None,
        "disable_tqdm": True,
    }
    callbacks = [Paced()]
    data = Dataset.from_list(rows)
    if method == "sft":
        args = SFTConfig(**common, completion_only_loss=True)
        trainer = SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer, callbacks=callbacks)
    else:
        args = DPOConfig(**common, precompute_ref_log_probs=method == "dpo-cached")
        trainer = DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=callbacks)
    trainer.train()


if __name__ == "__main__":
    main()
