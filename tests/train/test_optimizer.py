"""Schedules and the sharing-out of parameters among update rules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Optimizer
from wingspan.train.optimize.optimizers import cosine, make_optimizers, schedule, wsd

SHAPE = ModelShape("qwen3_moe", 1, 32, 2, 1, 16, 32, 50, False, experts=4, experts_per_token=2, expert_ffn=16)


@given(
    steps=st.integers(1, 2000),
    warmup=st.floats(0, 0.9),
    decay=st.floats(0, 1),
    final=st.floats(0, 0.9),
    rule=st.sampled_from([wsd, cosine]),
)
def test_factors_rise_to_one_at_most_and_never_below_final(steps, warmup, decay, final, rule) -> None:
    settings = Optimizer(warmup=warmup, decay=decay, final=final)
    factors = [rule(settings, step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 + 1e-12 or factor == final for factor in factors)
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_wsd_warms_up_stays_and_decays() -> None:
    settings = Optimizer(learning_rate=1.0, warmup=0.1, decay=0.4)
    rates = [schedule(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:61] == [1.0] * 52
    assert rates[99] == pytest.approx(1 / 40)


def test_cosine_ends_near_final() -> None:
    settings = Optimizer(learning_rate=2.0, warmup=0.0, schedule="cosine", final=0.1)
    assert schedule(settings, 0, 100) == 2.0
    assert schedule(settings, 50, 100) == pytest.approx(2 * 0.55)
    assert schedule(settings, 99, 100) == pytest.approx(0.2, abs=1e-3)


def test_only_matrices_decay_and_muon_gets_those_of_the_blocks() -> None:
    model = Decoder(SHAPE)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    adamw, muon = make_optimizers(model, Optimizer(name="muon", weight_decay=0.1)).parts
    decayed = {names[id(one)] for group in adamw.param_groups if group["weight_decay"] for one in group["params"]}
    plain = {names[id(one)] for group in adamw.param_groups if not group["weight_decay"] for one in group["params"]}
    block = "model.layers.0."
    mlp = block + "mlp."
    assert decayed == {
        "lm_head.weight", mlp + "gate.weight", mlp + "experts.gate_up_proj", mlp + "experts.down_proj"
    }  # fmt: skip
    assert {name for name in plain if "norm" not in name} == {"model.embed_tokens.weight"}
    assert {names[id(one)] for one in muon.param_groups[0]["params"]} == {
        f"{block}self_attn.{matrix}_proj.weight" for matrix in "qkvo"
    }


def test_a_step_uses_the_given_learning_rate_and_forgets_gradients() -> None:
    model = Decoder(SHAPE)
    torch.nn.init.ones_(model.model.layers["0"].mlp.experts.gate_up_proj)
    optimizers = make_optimizers(model, Optimizer(weight_decay=0.0))
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(0.5)
    weight = model.model.norm.weight
    torch.testing.assert_close(weight, before["model.norm.weight"] - 0.5)
    assert weight.grad is None
