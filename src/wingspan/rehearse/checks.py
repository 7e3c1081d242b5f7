"""What kills a run on its first day and no tracked step shows: data order, the scale of gradients, timeouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Train
from wingspan.rehearse.findings import Finding, Severity
from wingspan.train import torch_compat
from wingspan.train.data.batches import Batch
from wingspan.train.data.order import sample_indices
from wingspan.train.parallel.build import build
from wingspan.train.parallel.mesh import make_mesh
from wingspan.train.parallel.part import Part
from wingspan.train.parallel.weights import materialise
from wingspan.units import duration

_CPU = torch.device("cpu")
_TINY = ModelShape("qwen3", 1, 32, 2, 2, 16, 64, 64, tie_embeddings=False)
_TOKENS = 8  # of a row of the tiny network
_STEPS_PATIENCE = 3.0  # steps that a healthy rank may take before it is said to hang


@dataclass(frozen=True)
class _At:
    """The place of a rank on the mesh, as far as it decides what data the rank reads."""

    dp_replicate: int
    dp_shard: int

    def get_local_rank(self, axis: str) -> int:
        return int(getattr(self, axis, 0))


def check_samples(layout: Layout, train: Train, seed: int) -> list[Finding]:
    """Whether all data ranks of the fleet together read each sample once, across the border of an epoch too."""
    rows, size = train.global_batch // layout.data_parallel, train.global_batch * 3 // 2
    places = [_At(replica, shard) for replica in range(layout.dp_replicate) for shard in range(layout.dp_shard)]
    ranks = [Part(cast(Decoder, None), _TINY, layout, _CPU, cast(DeviceMesh, place)).data_rank for place in places]
    firsts = [step * train.global_batch + rank * rows for step in range(3) for rank in ranks]
    read = np.concatenate([sample_indices(first, rows, size, seed) for first in firsts])
    times = np.bincount(read, minlength=size)
    if times.min() == times.max():  # three steps are two epochs
        return []
    problem = (
        f"the data ranks read {(times > 2).sum():,} of {size:,} samples too often and {(times < 2).sum():,} too seldom"
    )
    return [Finding("stops", problem, "A rank's share of a batch must follow from its place on the mesh alone")]


def check_timeouts(train: Train, plan: Mapping[str, Any]) -> list[Finding]:
    """A rank is said to hang after `hang_timeout_s`: a healthy step must be well over by then."""
    step_s = plan["step_s"]["value"] if "step_s" in plan else 0.0
    if train.hang_timeout_s >= _STEPS_PATIENCE * step_s:
        return []
    problem = f"a step takes {duration(step_s)}, and a rank is said to hang after {duration(train.hang_timeout_s)}"
    severity: Severity = "stops" if train.hang_timeout_s <= step_s else "warns"
    return [Finding(severity, problem, f"Set train.hang_timeout_s = {round(10 * step_s)}")]


def check_scale(layout: Layout) -> list[Finding]:
    """Whether gradients of the fleet are those of one process; needs a process of its own, as a rank does."""
    times = gradient_scale(layout)
    if abs(times - 1) < 1e-3:
        return []
    problem = f"gradients come out {times:.3g} times those of one process on the same batch"
    return [
        Finding("stops", problem, "Losses are divided by the tokens of all ranks: reduce by sums, without a factor")
    ]


def gradient_scale(layout: Layout) -> float:
    """A gradient of the layout's data-parallel ranks, over that of one process.

    A tiny network is stepped for real on the whole fleet, whose other ranks all hold and do what this one does: so
    a sum over n ranks is n times its own.
    """
    data_parallel = Layout(dp_replicate=layout.dp_replicate, dp_shard=layout.dp_shard, precision="fp32")
    alone = _head_gradient(Layout(precision="fp32"), None)
    if data_parallel.world_size == 1:
        return 1.0
    torch_compat.start_fake_process_group(0, data_parallel.world_size)
    try:
        with _echoes():
            together = _head_gradient(data_parallel, make_mesh(data_parallel, "cpu"))
    finally:
        dist.destroy_process_group()
    return float(together.norm() / alone[: len(together)].norm())


def _head_gradient(layout: Layout, mesh: DeviceMesh | None) -> Tensor:
    """This rank's rows of the gradient of the output matrix; all weights alike, so that all shards are."""
    part = build(_TINY, layout, sequence=_TOKENS, rows=1, compute=torch.float32, device=_CPU, mesh=mesh)
    materialise(part, lambda name, size: torch.full(size, 0.02 if len(size) > 1 else 1.0))
    row = torch.arange(_TOKENS).unsqueeze(0)
    batch = Batch(row, row, row, torch.zeros_like(row))
    predictions = part.sum_over_data(torch.tensor(float(batch.predictions)))
    part.backward(batch, int(predictions))
    gradient = part.model.get_parameter("lm_head.weight").grad
    assert gradient is not None
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


@contextmanager
def _echoes() -> Iterator[None]:
    """Collectives as they come out where every rank brings what this one brings."""

    def times(op: Any, group: Any) -> int:
        return 1 if op == dist.ReduceOp.AVG else dist.get_world_size(group)

    def all_reduce(tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False) -> None:
        tensor *= times(op, group)

    def reduce_scatter(output: Tensor, input: Tensor, op: Any, group: Any, async_op: bool = False) -> None:
        output.copy_(input[: len(output)] * times(op, group))

    def all_gather(output: Tensor, input: Tensor, group: Any, async_op: bool = False) -> None:
        output.copy_(input.repeat(len(output) // len(input)))

    with (
        patch.object(dist, "all_reduce", all_reduce),
        patch.object(dist, "reduce_scatter_single", reduce_scatter),
        patch.object(dist, "all_gather_single", all_gather),
    ):
        yield
