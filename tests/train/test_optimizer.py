"""Schedules and the sharing-out of parameters among update rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train import muon_ranks
from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Optimizer
from wingspan.train.optimize.muon import Muon
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
    assert decayed == {"lm_head.weight", mlp + "gate.weight"}
    assert {name for name in plain if "norm" not in name} == {"model.embed_tokens.weight"}
    assert {names[id(one)] for one in muon.param_groups[0]["params"]} == {
        *(f"{mlp}experts.{matrix}_proj" for matrix in ("gate", "up", "down")),
        *(f"{block}self_attn.{matrix}_proj.weight" for matrix in "qkvo"),
    }


def test_muon_is_torchs_and_treats_a_stack_as_its_matrices() -> None:
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(size, generator=draw) for size in ((24, 16), (16, 16), (16, 40))]
    ours, theirs = ([torch.nn.Parameter(one.clone()) for one in start] for _ in range(2))
    stack = torch.nn.Parameter(torch.stack([start[1], start[1]]))
    muon = Muon([{"params": [*ours, stack], "weight_decay": 0.1}], lr=1e-2)
    torchs = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = other.grad = torch.randn(one.shape, generator=draw)
        stack.grad = torch.stack([ours[1].grad, ours[1].grad])
        muon.step()
        torchs.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    torch.testing.assert_close(stack, torch.stack([theirs[1], theirs[1]]), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_muon_steps_are_the_same_on_any_layout_and_go_on_from_another(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", muon_ranks.__file__]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == sum(len(layouts) for _, layouts in muon_ranks.LAYOUTS.values())
    assert max(differences.values()) < 1e-7


def test_a_step_uses_the_given_learning_rate_and_forgets_gradients() -> None:
    model = Decoder(SHAPE)
    torch.nn.init.ones_(model.model.layers["0"].mlp.experts.gate_proj)
    optimizers = make_optimizers(model, Optimizer(weight_decay=0.0))
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(0.5)
    weight = model.model.norm.weight
    torch.testing.assert_close(weight, before["model.norm.weight"] - 0.5)
    assert weight.grad is None
