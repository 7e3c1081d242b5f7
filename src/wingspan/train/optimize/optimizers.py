"""Update rules and learning-rate schedules.

Weight decay falls on matrices only: not on norms, which have a scale of their own to find, and not on
embeddings, whose rare rows it would erase. Muon (Jordan et al. 2024) updates the matrices inside the
blocks; embeddings, the head, norms, routers and stacked experts stay with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from wingspan.project import Optimizer as Settings


def schedule(settings: Settings, step: int, steps: int) -> float:
    """Learning rate of a step (counted from 0) out of `steps`."""
    return settings.learning_rate * (wsd if settings.schedule == "wsd" else cosine)(settings, step, steps)


def wsd(settings: Settings, step: int, steps: int) -> float:
    """Warm-up, stable, decay: linear up to 1, flat, linear down to `final` (Hu et al. 2024)."""
    warmup = _warmup_steps(settings, steps)
    decay = max(1, round(settings.decay * steps))
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    left = min(1.0, (steps - step) / decay) if settings.decay else 1.0
    return min(up, settings.final + (1 - settings.final) * left)


def cosine(settings: Settings, step: int, steps: int) -> float:
    """Linear warm-up to 1, then half a cosine down to `final` (Loshchilov & Hutter 2017)."""
    warmup = _warmup_steps(settings, steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * done))


def _warmup_steps(settings: Settings, steps: int) -> int:
    return math.ceil(settings.warmup * steps)


class Optimizers:
    """The update rules of one model, stepped together; `parts` are torch optimizers."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    def step(self, learning_rate: float) -> None:
        """Update all parameters and forget their gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
            part.zero_grad()

    def zero_grad(self) -> None:
        """Forget the gradients of a step that is skipped."""
        for part in self.parts:
            part.zero_grad()


def make_optimizers(model: nn.Module, settings: Settings, *, fused: bool = True) -> Optimizers:
    """The update rules of a model's parameters; `fused` false where kernels cannot run (meta and fake tensors)."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    hidden = [parameter for name, parameter in named if settings.name == "muon" and _is_block_matrix(name, parameter)]
    taken = {id(parameter) for parameter in hidden}
    rest = [(name, parameter) for name, parameter in named if id(parameter) not in taken]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for decay, parameters in (
            (settings.weight_decay, _only(rest, decayed=True)),
            (0.0, _only(rest, decayed=False)),
        )
        if parameters
    ]
    betas = (settings.beta1, settings.beta2)
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=fused, foreach=False)
    ]
    if hidden:
        parts.append(
            torch.optim.Muon(
                hidden,
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",  # one learning rate serves both rules (Liu et al. 2025)
            )
        )
    return Optimizers(parts)


def _only(named: Iterable[tuple[str, Tensor]], *, decayed: bool) -> list[Tensor]:
    return [parameter for name, parameter in named if (parameter.ndim > 1 and "embed_tokens" not in name) == decayed]


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and ".layers." in name and not name.endswith("mlp.gate.weight")
