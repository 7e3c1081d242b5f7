"""Low-rank adapters: beside each matrix of the blocks a product of two thin ones learns, and is merged at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from wingspan.model.network import Decoder

DOWN, UP = "lora_down", "lora_up"
_SCALE = 2.0  # of the product, whatever the rank (alpha = 2 rank, Biderman et al. 2024)


def add_adapters(model: Decoder, rank: int) -> None:
    """Let W x become W x + 2 up (down x) (Hu et al. 2021); nothing but `down` (rank, in) and `up` (out, rank) learns.

    Routers and stacked experts get none. Call it before the network is parallelised.
    """
    model.requires_grad_(False)
    for name, module in model.model.layers.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("mlp.gate"):
            like = module.weight
            module.register_parameter(DOWN, nn.Parameter(like.new_empty(rank, module.in_features)))
            module.register_parameter(UP, nn.Parameter(like.new_empty(module.out_features, rank)))
            module.register_forward_hook(_adapted)


def _adapted(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    down, up = (getattr(module, name).to(output.dtype) for name in (DOWN, UP))
    return output + _SCALE * nn.functional.linear(nn.functional.linear(inputs[0], down), up)


def merged(parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Parameters as a model names them, one at a time -> those of the plain network: adapters follow their matrices."""
    waiting: tuple[str, Tensor] | None = None
    down: Tensor | None = None
    for name, value in parameters:
        if name.endswith(DOWN):
            down = value
        elif name.endswith(UP) and waiting and down is not None:
            waiting = waiting[0], waiting[1] + _SCALE * (value @ down)
        else:
            if waiting:
                yield waiting
            waiting = name, value
    if waiting:
        yield waiting
