"""Context parallel: each rank works on some tokens of a sequence and looks at the keys and values of all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard


@dataclass(frozen=True)
class Context:
    """The ranks that share each sequence: of 2 n equal pieces, rank r works on pieces r and 2 n - 1 - r.

    So each has one early piece and one late one, which together look at equally many tokens (Llama 3, section 3.3.2).
    """

    mesh: DeviceMesh  # of one axis

    def starts(self, length: int) -> tuple[int, int]:
        """Where this rank's two pieces begin in a sequence of that length."""
        rank, pieces = self.mesh.get_local_rank(), 2 * self.mesh.size()
        return rank * (length // pieces), (pieces - 1 - rank) * (length // pieces)

    def own(self, whole: Tensor) -> Tensor:
        """This rank's tokens of (B, S): (B, S / n)."""
        size = whole.shape[1] // (2 * self.mesh.size())
        return torch.cat([whole[:, start : start + size] for start in self.starts(whole.shape[1])], dim=1)

    def gather(self, own: Tensor) -> Tensor:
        """All ranks' (..., S / n, D) as one (..., S, D) in the order of the sequence; gradients are summed back."""
        shares = DTensor.from_local(own[None], self.mesh, [Shard(0)]).redistribute(placements=[Replicate()])
        early, late = shares.to_local(grad_placements=[Partial()]).chunk(2, dim=-2)
        return torch.cat((early, late.flip(0))).movedim(0, -3).flatten(-3, -2)
