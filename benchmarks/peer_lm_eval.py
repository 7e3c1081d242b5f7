"""lm-eval's own hf backend on task files; benchmarks/evaluate.py runs it in lm-eval's environment.

python benchmarks/peer_lm_eval.py MODEL FOLDER TASK DTYPE BATCH  ->  for each line on stdin one of
{"seconds": wall, "cpu": CPU seconds, "answers": [[log-likelihood of each choice], ...]}
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main() -> None:
    model, folder, task, dtype, batch = sys.argv[1:]
    os.chdir(folder)
    logging.disable(logging.INFO)
    network = HFLM(pretrained=model, device="cpu", dtype=dtype, batch_size=int(batch))
    tasks = TaskManager(include_defaults=False)
    for _ in sys.stdin:
        loaded = tasks.load([str(Path(f"{task}.yaml"))])
        wall, cpu = time.perf_counter(), time.process_time()
        samples = evaluate(network, loaded, bootstrap_iters=0)["samples"][task]
        seconds = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        samples.sort(key=lambda one: one["doc_id"])
        answers = [[float(given[0]) for given in one["filtered_resps"]] for one in samples]
        print(json.dumps(seconds | {"answers": answers}), flush=True)


if __name__ == "__main__":
    main()
