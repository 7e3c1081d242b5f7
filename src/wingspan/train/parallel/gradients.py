"""The gradient of the whole network, which no rank holds: its norm, and how to scale it."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from wingspan.train.parallel.part import Part
from wingspan.train.parallel.pipeline import ties_stages


def gradient_norms(part: Part) -> Tensor:
    """Each rank's share of the squared norm of the whole network's gradient, (ranks,), the same on every rank."""
    square = torch.zeros(1, device=part.device)
    for copies, gradients in _gradients_by_copies(part).items():
        square += nn.utils.get_total_norm(gradients) ** 2 / copies
    if part.mesh is None:
        return square
    squares = torch.empty(dist.get_world_size(), device=part.device)
    dist.all_gather_single(squares, square)
    return squares


def total_norm(norms: Tensor) -> float:
    """The Euclidean norm of the gradient of the whole network."""
    return math.sqrt(norms.sum().item())


def most_changed(first: Tensor, second: Tensor) -> int:
    """The rank whose share of a gradient differs most between two computations of it."""
    return int((first - second).abs().nan_to_num(nan=torch.inf).argmax().item())


def scale_gradients(model: nn.Module, factor: float) -> None:
    """Multiply all gradients by a number."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            _local(parameter.grad).mul_(factor)


def _gradients_by_copies(part: Part) -> dict[int, list[Tensor]]:
    """This rank's shards of the gradients, by the number of ranks that hold the same shard."""
    found: dict[int, list[Tensor]] = {}
    for name, parameter in part.model.named_parameters():
        gradient, copies = parameter.grad, 1
        if gradient is None:
            continue
        if isinstance(gradient, DTensor):
            sizes = zip(gradient.placements, gradient.device_mesh.shape, strict=True)
            copies = math.prod(size for placement, size in sizes if placement.is_replicate())
        if name.endswith("embed_tokens.weight") and ties_stages(part.model, part.layout):
            copies *= 2
        found.setdefault(copies, []).append(_local(gradient))
    return found


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
