"""One real rank: `python gloo_rank.py CASES.json RANK WORLD_SIZE STORE` tracks a real step of every case."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Train
from wingspan.rehearse.rank import track_step
from wingspan.train.parallel.build import build
from wingspan.train.parallel.layouts import compute_precision
from wingspan.train.parallel.mesh import make_mesh
from wingspan.train.parallel.weights import initial_value, materialise


def main(cases: list[dict], rank: int, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world_size, init_method=f"file://{store}")
    print(json.dumps([measure(case, world_size) for case in cases]))
    if world_size > 1:
        dist.destroy_process_group()


def measure(case: dict, world_size: int) -> dict:
    shape, layout, train = ModelShape(**case["shape"]), Layout(**case["layout"]), Train(**case["train"])
    device = torch.device("cpu")
    rows = train.global_batch // layout.data_parallel
    part = build(
        shape,
        layout,
        sequence=train.sequence,
        rows=rows,
        compute=compute_precision(layout, device),
        device=device,
        mesh=make_mesh(layout, "cpu") if world_size > 1 else None,
    )
    materialise(part, lambda name, size: initial_value(shape, 1, name, size))
    for _ in range(2):  # in the first, neighbouring stages also agree on shapes
        tracker = track_step(part, train, rows // layout.micro_batch)
    return {
        "peak_bytes": tracker.peak_bytes,
        "flops": sum(tracker.flops.values()),
        "calls": [[one.op, one.bytes, one.peer] for one in tracker.collectives],
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
