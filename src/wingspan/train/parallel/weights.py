"""First weights of a network that lies over the ranks: the same on any layout."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from wingspan.model.shape import ModelShape
from wingspan.train.parallel.part import Part


def materialise(part: Part, value: Callable[[str, torch.Size], Tensor]) -> None:
    """Give every parameter its memory and its value; `value(name, shape)` is the whole parameter.

    Each rank asks for whole parameters, one at a time, and keeps its shard.
    """
    part.model.to_empty(device=part.device)
    with torch.no_grad():
        for name, parameter in part.model.named_parameters():
            whole = value(name, parameter.shape).to(part.device, parameter.dtype)
            if whole.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(whole.shape)}, expected {tuple(parameter.shape)}")
            if isinstance(parameter, DTensor):
                whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.copy_(whole)


def initial_value(shape: ModelShape, seed: int, name: str, size: torch.Size) -> Tensor:
    """A parameter's random start, keyed by (seed, name): the same on any layout.

    Norms are 1. Embeddings and head have deviation 0.02 (Radford et al. 2019), matrices 1 / sqrt(inputs) (LeCun et
    al. 1998); those that write into the residual stream are divided by sqrt(2 layers) besides (Radford).
    """
    if len(size) == 1:
        return torch.ones(size)
    key = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    deviation = 0.02 if name.endswith(("embed_tokens.weight", "lm_head.weight")) else size[-1] ** -0.5
    if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
        deviation /= math.sqrt(2 * shape.layers)
    return torch.randn(size, generator=generator) * deviation
