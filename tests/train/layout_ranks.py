"""One rank of several layouts in turn, each held against the whole network in the same process.

    python layout_ranks.py CASES.json RANK WORLD_SIZE STORE

prints for each case the loss, the largest difference of a gradient from that of one process, and what else
every layout must agree on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from wingspan.model.loss import IGNORED
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.data.batches import Batch
from wingspan.train.parallel.balance import balance_experts, install_balances
from wingspan.train.parallel.build import build
from wingspan.train.parallel.gradients import gradient_norms, total_norm
from wingspan.train.parallel.part import Part
from wingspan.train.parallel.weights import initial_value, materialise
from wingspan.train.start import start_part

ROWS, SEQUENCE, SEED = 8, 32, 3


def packed(vocab: int) -> Batch:
    """Rows of three documents and padding, the targets of some tokens ignored."""
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab, (ROWS, SEQUENCE), generator=random)
    ends = torch.tensor([7, 20, 29])
    documents = torch.bucketize(torch.arange(SEQUENCE), ends, right=True).repeat(ROWS, 1)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), ends))
    positions = torch.arange(SEQUENCE) - starts[documents]
    documents[documents == len(ends)] = -1
    targets = tokens.roll(-1, 1).masked_fill(documents < 0, IGNORED)
    targets[::3, 4:9] = IGNORED
    return Batch(tokens, targets, positions, documents)


def whole_gradients(part: Part) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in part.model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in gradients.items()}


def alone(shape: ModelShape) -> Part:
    """The whole network in this process."""
    cpu, layout = torch.device("cpu"), Layout(micro_batch=4, precision="fp32")
    part = build(shape, layout, sequence=SEQUENCE, rows=ROWS, compute=torch.float32, device=cpu)
    materialise(part, lambda name, size: initial_value(shape, SEED, name, size))
    install_balances(part)
    return part


def balanced(part: Part, reference: Part) -> list[bool]:
    """Of each layer here with experts, whether its bias moved, and as it does on one process."""
    for one in (part, reference):
        balance_experts(one, 0.5, skipped=False)
    theirs = dict(reference.model.named_buffers())
    return [
        bool(buffer.any()) and torch.equal(buffer, theirs[name])
        for name, buffer in part.model.named_buffers()
        if name.endswith("bias")
    ]


def step(part: Part, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step."""
    layout = part.layout
    rows = ROWS // layout.data_parallel
    mine = Batch(*(field[part.data_rank * rows :][:rows] for field in vars(batch).values()))
    counted = torch.tensor(float(mine.predictions if part.counts else 0))
    predictions = round(part.sum_over_data(counted).item())
    assert predictions == batch.predictions
    before = part.sum_over_data(part.loss(mine)) / predictions
    loss = part.sum_over_data(part.backward(mine, predictions))
    torch.testing.assert_close(before, loss, atol=1e-5, rtol=1e-5)
    return loss.item(), whole_gradients(part)


def measure(case: dict[str, Any]) -> dict[str, Any]:
    shape, layout = ModelShape(**case["shape"]), Layout(**case["layout"], precision="fp32")
    batch = packed(shape.vocab)
    part = start_part(shape, layout, SEED, sequence=SEQUENCE, global_batch=ROWS, device=torch.device("cpu"))
    reference = alone(shape)
    loss, gradients = step(part, batch)
    expected, wanted = step(reference, batch)
    apart = {name: (one - wanted[name]).abs().max().item() for name, one in gradients.items()}
    return {
        "balanced": balanced(part, reference),
        "loss": loss,
        "expected": expected,
        "norm": total_norm(gradient_norms(part)),
        "expected_norm": total_norm(gradient_norms(reference)),
        "apart": max(apart.values()),
        "where": max(apart, key=lambda name: apart[name]),
    }


def main(cases: list[dict[str, Any]], rank: int, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, init_method=f"file://{store}")
    print(json.dumps([measure(case) for case in cases]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
