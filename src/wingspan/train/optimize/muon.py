"""Muon over any layout: each matrix is made orthogonal by one of the ranks that hold it, all in two exchanges.

A matrix is a parameter of two dimensions, or each of a stack of them (experts). Ranks send their pieces of
a matrix to its owner, and get back their pieces of what it makes of it: two all-to-alls per step however
many matrices there are, in bf16 where the device multiplies in it. Work is spread by its cost; copies of a
model (HSDP) share it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from wingspan.train.torch_compat import cpu_multiplies_bf16, flat_group, shard_of

_A, _B, _C = 3.4445, -4.7750, 2.0315  # of Newton-Schulz in Jordan et al. 2024
_ROUNDS = 5
_MOMENTUM = 0.95
_EPS = 1e-7

Box = tuple[tuple[int, ...], tuple[int, ...]]  # offsets and sizes of a rank's shard of a parameter


@dataclass(frozen=True)
class _Matrix:
    """A matrix of a parameter: its index in a stack (0 for one alone), who owns it, the ranks that hold pieces.

    `givers` are the holders whose pieces make it once: those of the owner's copy of the model.
    """

    parameter: Tensor
    index: int
    owner: int
    holders: Sequence[int]
    givers: Sequence[int]
    boxes: Sequence[Box]

    @property
    def shape(self) -> tuple[int, int]:
        return self.parameter.shape[-2], self.parameter.shape[-1]

    def at(self, rank: int) -> tuple[slice, slice]:
        """Where in the matrix a rank's piece lies."""
        offset, size = self.boxes[rank]
        return slice(offset[-2], offset[-2] + size[-2]), slice(offset[-1], offset[-1] + size[-1])

    def size(self, rank: int) -> int:
        """Numbers in a rank's piece."""
        return math.prod(self.boxes[rank][1][-2:])

    def of(self, local: Tensor, rank: int) -> Tensor:
        """This matrix's piece in a rank's shard of the parameter."""
        return local if local.ndim == 2 else local[self.index - self.boxes[rank][0][0]]


class _Ranks:
    """The matrices that lie on the same mesh, and the exchange of their pieces among its ranks."""

    def __init__(self, mesh: DeviceMesh | None, parameters: Iterable[Tensor]) -> None:
        self.group: ProcessGroup | None = None if mesh is None else flat_group(mesh)
        self.me, self.size = (0, 1) if self.group is None else (self.group.rank(), self.group.size())
        self.matrices = list(self._share_out(parameters, (1,) if mesh is None else mesh.shape))

    def _share_out(self, parameters: Iterable[Tensor], sizes: tuple[int, ...]) -> Iterable[_Matrix]:
        """Matrices with owners, dearest first: each goes to the holder with the least to do."""
        places = [tuple(int(at) for at in np.unravel_index(rank, sizes)) for rank in range(self.size)]
        work = np.zeros(self.size)
        shards: dict[Any, list[Box]] = {}
        for one in sorted(parameters, key=_cost, reverse=True):
            placements = one.placements if isinstance(one, DTensor) else ()
            if (one.shape, placements) not in shards:
                shards[one.shape, placements] = [shard_of(one.shape, sizes, place, placements) for place in places]
            boxes = shards[one.shape, placements]
            alike = [number for number, placement in enumerate(placements) if placement.is_replicate()]
            for index in range(one.shape[0] if one.ndim == 3 else 1):
                holders = [rank for rank, box in enumerate(boxes) if _holds(box, index, one.ndim)]
                owner = holders[int(work[holders].argmin())]
                work[owner] += _cost(one)
                givers = [rank for rank in holders if all(places[rank][n] == places[owner][n] for n in alike)]
                yield _Matrix(one, index, owner, holders, givers, boxes)

    def whole(self, piece: Callable[[_Matrix], Tensor], dtype: torch.dtype) -> list[tuple[_Matrix, Tensor]]:
        """The matrices that this rank owns, put together from all pieces."""
        sending: list[list[Tensor]] = [[] for _ in range(self.size)]
        counts = [0] * self.size
        for matrix in self.matrices:
            if self.me in matrix.givers:
                sending[matrix.owner].append(piece(matrix))
            if matrix.owner == self.me:
                for rank in matrix.givers:
                    counts[rank] += matrix.size(rank)
        take = self._exchange(sending, counts, dtype)
        found = []
        for matrix in self.matrices:
            if matrix.owner == self.me:
                whole = torch.empty(matrix.shape, dtype=dtype, device=matrix.parameter.device)
                for rank in matrix.givers:
                    whole[matrix.at(rank)] = take(matrix, rank, rank)
                found.append((matrix, whole))
        return found

    def pieces(self, whole: Iterable[tuple[_Matrix, Tensor]], dtype: torch.dtype) -> Iterable[tuple[_Matrix, Tensor]]:
        """This rank's pieces of all matrices, from those that own them."""
        sending: list[list[Tensor]] = [[] for _ in range(self.size)]
        for matrix, made in whole:
            for rank in matrix.holders:
                sending[rank].append(made[matrix.at(rank)])
        held = [matrix for matrix in self.matrices if self.me in matrix.holders]
        counts = [0] * self.size
        for matrix in held:
            counts[matrix.owner] += matrix.size(self.me)
        take = self._exchange(sending, counts, dtype)
        for matrix in held:
            yield matrix, take(matrix, matrix.owner, self.me)

    def _exchange(
        self, sending: list[list[Tensor]], counts: list[int], dtype: torch.dtype
    ) -> Callable[[_Matrix, int, int], Tensor]:
        """Send each rank its list; returns `take(matrix, sender, rank)`: the next piece, the rank's, from a sender."""
        flat = [part.reshape(-1).to(dtype) for parts in sending for part in parts]
        device = self.matrices[0].parameter.device
        sent = torch.cat(flat) if flat else torch.empty(0, dtype=dtype, device=device)
        received = sent
        if self.group is not None:
            received = torch.empty(sum(counts), dtype=dtype, device=device)
            out = [sum(part.numel() for part in parts) for parts in sending]
            dist.all_to_all_single(received, sent, counts, out, group=self.group)
        begins = list(np.cumsum([0, *counts[:-1]]))

        def take(matrix: _Matrix, sender: int, rank: int) -> Tensor:
            begin = int(begins[sender])
            begins[sender] += matrix.size(rank)
            rows, columns = matrix.boxes[rank][1][-2:]
            return received[begin : begin + rows * columns].view(rows, columns)

        return take


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix (Jordan et al. 2024), at the root mean square of an AdamW update.

    Updates have a root mean square of 0.2 times the learning rate (Liu et al. 2025), so that one learning
    rate serves both rules. State, named as torch.optim.Muon names it, lies as its parameter does.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self._ranks: list[_Ranks] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all matrices; every rank calls this."""
        settings = {id(one): group for group in self.param_groups for one in group["params"]}
        if self._ranks is None:
            by_mesh: dict[DeviceMesh | None, list[Tensor]] = {}
            for group in self.param_groups:
                for one in group["params"]:
                    by_mesh.setdefault(one.device_mesh if isinstance(one, DTensor) else None, []).append(one)
            self._ranks = [_Ranks(mesh, parameters) for mesh, parameters in by_mesh.items()]
        for ranks in self._ranks:
            for matrix, update in self._updates(ranks):
                group = settings[id(matrix.parameter)]
                piece = matrix.of(_local(matrix.parameter), ranks.me)
                piece.mul_(1 - group["lr"] * group["weight_decay"])
                piece.add_(update.to(piece.dtype), alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))

    def _updates(self, ranks: _Ranks) -> Iterable[tuple[_Matrix, Tensor]]:
        """This rank's pieces of the orthogonal momenta."""
        device = ranks.matrices[0].parameter.device
        dtype = torch.float32 if device.type == "cpu" and not cpu_multiplies_bf16() else torch.bfloat16
        momenta = {id(one.parameter): self._momentum(one.parameter) for one in ranks.matrices if one.index == 0}
        owned = ranks.whole(lambda matrix: matrix.of(momenta[id(matrix.parameter)], ranks.me), dtype)
        return ranks.pieces(_orthogonal(owned), dtype)

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Nesterov's momentum of this rank's shard of a gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        gradient, buffer = _local(parameter.grad), _local(state["momentum_buffer"])
        buffer.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(buffer, _MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Five rounds of Newton-Schulz towards U V' of each matrix's U S V', (count, rows, columns)."""
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    for _ in range(_ROUNDS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), wide, beta=_A)
    return wide.mT if matrices.shape[-2] > matrices.shape[-1] else wide


def _orthogonal(owned: list[tuple[_Matrix, Tensor]]) -> list[tuple[_Matrix, Tensor]]:
    """The same matrices, orthogonal, in the same order; those of one shape at once."""
    by_shape: dict[tuple[int, int], list[Tensor]] = {}
    for matrix, whole in owned:
        by_shape.setdefault(matrix.shape, []).append(whole)
    made = {shape: iter(orthogonal(torch.stack(some))) for shape, some in by_shape.items()}
    return [(matrix, next(made[matrix.shape])) for matrix, _ in owned]


def _cost(parameter: Tensor) -> float:
    """Multiplications to make one of its matrices orthogonal, in proportion."""
    rows, columns = parameter.shape[-2:]
    return float(rows * columns * min(rows, columns))


def _holds(box: Box, index: int, dimensions: int) -> bool:
    offset, size = box
    return math.prod(size) > 0 and (dimensions == 2 or offset[0] <= index < offset[0] + size[0])


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
