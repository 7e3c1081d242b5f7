"""Hyper-parameters found at one size hold at another: the coordinate check of Yang et al. 2022."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Optimizer, TunedAt
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.optimize.transfer import initial_scale, update_scale
from wingspan.train.parallel.weights import initial_value

VOCAB, TOKENS = 64, 32


def shape(layers: int, hidden: int, *, tied: bool = True) -> ModelShape:
    return ModelShape("qwen3", layers, hidden, hidden // 16, hidden // 16, 16, 2 * hidden, VOCAB, tied)


def change_of_logits(sizes: ModelShape, tuned: TunedAt | None, rule: str, steps: int = 4) -> float:
    """Root mean square of what a few steps change in the logits."""
    model = Decoder(sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = initial_value(sizes, 1, name, parameter.shape)
            parameter.copy_(value * initial_scale(name, sizes, tuned))
    settings = Optimizer(name=rule, learning_rate=1e-2, weight_decay=0.0, tuned_at=tuned)
    optimizers = make_optimizers(model, settings)
    tokens = torch.randint(VOCAB, (4, TOKENS), generator=torch.Generator().manual_seed(2))
    positions = torch.arange(TOKENS).expand(4, TOKENS)
    with torch.no_grad():
        before = model.logits(model(tokens, positions))
    for _ in range(steps):
        (model(tokens, positions, targets=tokens.roll(-1, 1)) / tokens.numel()).backward()
        optimizers.step(settings.learning_rate)
    with torch.no_grad():
        return (model.logits(model(tokens, positions)) - before).square().mean().sqrt().item()


def growth(found: list[float]) -> float:
    """Mean exponent of growth from size to size, each twice the one before."""
    return sum(math.log2(after / before) for before, after in pairwise(found)) / (len(found) - 1)


@pytest.mark.parametrize(("rule", "tied"), [("adamw", True), ("adamw", False), ("muon", True)])
def test_steps_change_wide_models_as_much_as_narrow_ones(rule: str, tied: bool) -> None:
    models = [shape(2, hidden, tied=tied) for hidden in (32, 64, 128, 256)]
    tuned = TunedAt(depth=2, hidden=32)
    scaled = growth([change_of_logits(one, tuned, rule) for one in models])
    plain = growth([change_of_logits(one, None, rule) for one in models])
    assert abs(scaled) < 0.25
    assert plain > 0.45


def test_steps_change_deep_models_as_much_as_shallow_ones() -> None:
    tuned = TunedAt(depth=2, hidden=64)
    assert abs(growth([change_of_logits(shape(layers, 64), tuned, "adamw") for layers in (2, 4, 8, 16)])) < 0.1


def test_at_the_tuned_size_nothing_changes_and_decay_stays_what_it_was() -> None:
    sizes, tuned = shape(4, 64), TunedAt(depth=2, hidden=16)
    model = Decoder(sizes)
    for name, parameter in model.named_parameters():
        assert update_scale(name, parameter.ndim, sizes, TunedAt(depth=4, hidden=64)) == 1
        assert initial_scale(name, sizes, TunedAt(depth=4, hidden=64)) == 1
    block = "model.layers.0."
    assert update_scale(block + "self_attn.q_proj.weight", 2, sizes, tuned) == 1 / 4
    assert update_scale(block + "self_attn.q_proj.weight", 2, sizes, tuned, muon=True) == 1 / 2
    assert update_scale(block + "mlp.down_proj.weight", 2, sizes, tuned) == 1 / 8
    assert (
        update_scale("model.norm.weight", 1, sizes, tuned) == initial_scale("model.norm.weight", sizes, tuned) == 1 / 4
    )
    groups = make_optimizers(model, Optimizer(weight_decay=0.1, tuned_at=tuned)).parts[0].param_groups
    assert {round(group["scale"] * group["weight_decay"], 9) for group in groups} == {0.0, 0.1}
