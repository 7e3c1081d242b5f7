"""One rank of a program that trains two steps, saves or restores in between, and prints the losses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Optimizer
from wingspan.train.checkpoint.checkpoints import Checkpoints, Position
from wingspan.train.data.batches import Batch
from wingspan.train.faults.health import Health
from wingspan.train.loop import take_step
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.processes import processes
from wingspan.train.start import start_part

SHAPE = ModelShape("qwen3", 2, 32, 4, 2, 8, 64, 101, tie_embeddings=False)


def main(folder: Path, layout: Layout) -> None:
    with processes(60) as device:
        part = start_part(SHAPE, layout, 3, sequence=16, global_batch=4, device=device)
        optimizers = make_optimizers(part.model, Optimizer())
        tokens = torch.randint(101, (4, 16), generator=torch.Generator().manual_seed(1))
        rows = 4 // layout.data_parallel
        mine = tokens[part.data_rank * rows : (part.data_rank + 1) * rows]
        positions = torch.arange(16).repeat(rows, 1)
        batch = Batch(mine, mine.roll(-1, 1), positions, torch.zeros_like(positions))
        with Checkpoints(folder, part, optimizers) as checkpoints:
            position = checkpoints.restore(print)
            losses = []
            for _ in range(3):
                losses.append(
                    take_step(part, optimizers, batch, clip=1.0, learning_rate=1e-2, health=Health(0, 0)).loss
                )
                position = Position(position.step + 1, position.samples + 4)
                if position.step == 3:
                    checkpoints.save(position)
    if os.environ.get("RANK", "0") == str(part.layout.world_size - 1):  # the last rank always holds the loss
        print(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Layout(**json.loads(sys.argv[2]), precision="fp32"))
