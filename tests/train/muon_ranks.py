"""Four ranks that take Muon steps on gradients everybody knows, in several layouts; rank 0 prints how far they are off.

The steps are taken, saved, restored in the next layout and gone on with there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Optimizer
from wingspan.train.checkpoint.checkpoints import Checkpoints, Position
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.parallel.weights import initial_value
from wingspan.train.processes import is_first_rank, processes
from wingspan.train.start import start_part

DENSE = ModelShape("qwen3", 2, 36, 4, 2, 9, 50, 101, tie_embeddings=False)
SPARSE = ModelShape("qwen3_moe", 2, 32, 4, 2, 8, 64, 101, False, experts=6, experts_per_token=2, expert_ffn=24)
LAYOUTS = {
    "dense": (DENSE, [{"dp_shard": 4}, {"dp_replicate": 2, "dp_shard": 2}, {"dp_shard": 2, "tp": 2}]),
    "sparse": (
        SPARSE,
        [
            {"dp_shard": 4},
            {"dp_replicate": 2, "dp_shard": 2},
            {"dp_shard": 4, "ep": 2},
            {"dp_shard": 2, "tp": 2},
        ],
    ),
}
SETTINGS = Optimizer(name="muon", weight_decay=0.1)


def gradient(name: str, size: torch.Size, step: int) -> torch.Tensor:
    seed = sum(map(ord, name)) + 1000 * step
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def take_steps(model: Decoder, optimizers, steps: range) -> None:
    for step in steps:
        for name, parameter in model.named_parameters():
            whole = gradient(name, parameter.shape, step)
            if isinstance(parameter, DTensor):
                whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.grad = whole
        optimizers.step(1e-2)


def alone(shape: ModelShape, steps: int) -> dict[str, torch.Tensor]:
    model = Decoder(shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_value(shape, 3, name, parameter.shape))
    take_steps(model, make_optimizers(model, SETTINGS), range(steps))
    return dict(model.named_parameters())


def main(folder: Path) -> None:
    worst = {}
    with processes(60) as device:
        for kind, (shape, layouts) in LAYOUTS.items():
            for number, fields in enumerate(layouts):
                layout = Layout(**fields, precision="fp32")
                part = start_part(shape, layout, 3, sequence=16, global_batch=4, device=device)
                optimizers = make_optimizers(part.model, SETTINGS)
                with Checkpoints(folder / kind, part, optimizers, keep=1) as checkpoints:
                    done = checkpoints.restore(print).step
                    take_steps(part.model, optimizers, range(done, done + 2))
                    checkpoints.save(Position(done + 2, done + 2))
                expected = alone(shape, 2 * (number + 1))
                worst[f"{kind} {json.dumps(fields)}"] = max(
                    (parameter.full_tensor() - expected[name]).abs().max().item()
                    for name, parameter in part.model.named_parameters()
                )
        if is_first_rank():
            print(json.dumps(worst))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
