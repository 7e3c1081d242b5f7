"""Update rules and learning-rate schedules.

Weight decay falls on matrices only: not on norms, which have a scale of their own to find, and not on
embeddings, whose rare rows it would erase. Muon (Jordan et al. 2024) updates the matrices inside the
blocks, experts too; embeddings, the head, norms and routers stay with AdamW.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wingspan.model.network import Decoder
from wingspan.project import Optimizer as Settings
from wingspan.train.optimize.muon import Muon
from wingspan.train.optimize.transfer import update_scale


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
                group["lr"] = learning_rate * group["scale"]
            part.step()
            part.zero_grad()

    def zero_grad(self) -> None:
        """Forget the gradients of a step that is skipped."""
        for part in self.parts:
            part.zero_grad()


def make_optimizers(model: Decoder, settings: Settings) -> Optimizers:
    """The update rules of a model's parameters."""
    rules: dict[bool, dict[tuple[float, float], list[Tensor]]] = {False: {}, True: {}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            muon = settings.name == "muon" and _is_block_matrix(name, parameter)
            scale = update_scale(name, parameter.ndim, model.shape, settings.tuned_at, muon=muon)
            decay = settings.weight_decay if parameter.ndim > 1 and "embed_tokens" not in name else 0.0
            rules[muon].setdefault((scale, decay / scale), []).append(parameter)
    adamw, muons = (
        [{"params": some, "weight_decay": decay, "scale": scale} for (scale, decay), some in groups.items()]
        for groups in rules.values()
    )
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            adamw, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True, foreach=False
        )
    ]
    if muons:
        parts.append(Muon(muons, lr=settings.learning_rate))
    return Optimizers(parts)


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and ".layers." in name and not name.endswith("mlp.gate.weight")
