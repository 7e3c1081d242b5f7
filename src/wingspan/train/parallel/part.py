"""A rank's part of the network, and what a training step asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.data.batches import Batch
from wingspan.train.parallel.pipeline import Schedule, sum_tied_gradients
from wingspan.train.torch_compat import forward_only


@dataclass(frozen=True)
class Part:
    """This rank's part of the network and its place in the fleet; without a mesh, all of it."""

    model: Decoder
    shape: ModelShape
    layout: Layout
    device: torch.device
    mesh: DeviceMesh | None = None
    pipeline: Schedule | None = None

    @property
    def data_rank(self) -> int:
        """Which of the layout.data_parallel slices of a batch this rank reads."""
        if self.mesh is None:
            return 0
        replica, shard = self.mesh.get_local_rank("dp_replicate"), self.mesh.get_local_rank("dp_shard")
        return int(replica * self.layout.dp_shard + shard)

    @property
    def holds_loss(self) -> bool:
        """Whether this rank's part ends in the loss."""
        return self.model.model.norm is not None

    @property
    def counts(self) -> bool:
        """Whether this rank's counts of a batch are summed: ranks of cp read the same rows, each for some tokens."""
        return self.holds_loss and (self.mesh is None or self.mesh.get_local_rank("cp") == 0)

    def sum_over_data(self, value: Tensor) -> Tensor:
        """Sum over the data-parallel ranks of a value that only the ranks with the loss have (others: 0)."""
        if self.mesh is None:
            return value
        dist.all_reduce(value)
        return value / self.layout.tp

    def summed_loss(self, batch: Batch) -> Tensor:
        """Sum of the losses of a micro-batch; what another objective than the next token replaces."""
        loss: Tensor = self.model(batch.tokens, batch.positions, batch.documents, batch.targets)
        return loss

    def backward(self, batch: Batch, weight: int) -> Tensor:
        """Accumulate the gradients of (sum of losses) / weight; returns that loss, 0 off the last stage."""
        micro = batch.split(self.layout.micro_batch)
        if self.pipeline is not None and self.mesh is not None:
            loss = self._through_pipeline(self.pipeline.step, batch, 1 / weight)
            sum_tied_gradients(self.model, self.layout, self.mesh)
            return loss
        total = torch.zeros((), device=self.device)
        for number, one in enumerate(micro, start=1):
            if isinstance(self.model, FSDPModule):
                self.model.set_requires_gradient_sync(number == len(micro))
            loss = self.summed_loss(one) / weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    @torch.no_grad()
    def loss(self, batch: Batch) -> Tensor:
        """Sum of the losses without gradients, 0 off the last stage; as many rows as a rank's share of a step."""
        if self.pipeline is not None:
            with forward_only(self.pipeline):
                return self._through_pipeline(self.pipeline.eval, batch, 1.0)
        total = torch.zeros((), device=self.device)
        with torch.compiler.set_stance("force_eager"):  # rows of any number, and not worth a compilation of their own
            for one in batch.split(self.layout.micro_batch):
                total += self.summed_loss(one)
        return total

    def _through_pipeline(self, run: Callable[..., Any], batch: Batch, weight: float) -> Tensor:
        tokens = (batch.tokens,) if self.model.first else ()
        weights = torch.full((len(batch.tokens) // self.layout.micro_batch,), weight, device=self.device)
        losses: list[Tensor] = []
        last: dict[str, Any] = {"target": weights, "losses": losses} if self.holds_loss else {}
        whole = {"positions": batch.positions, "documents": batch.documents, "targets": batch.targets}
        run(*tokens, return_outputs=False, **whole, **last)
        return torch.stack(losses).sum().detach() if losses else torch.zeros((), device=self.device)
