"""The tracker counts what a person can count by hand, alike on real tensors and on fakes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

from wingspan.rehearse.trackers import Tracker, optimizer_tensors

FLOAT = 4


@pytest.fixture(params=["real", "fake"])
def tensors(request):  # type: ignore[no-untyped-def]
    with FakeTensorMode() if request.param == "fake" else nullcontext():
        yield


@pytest.mark.usefixtures("tensors")
def test_the_peak_counts_storages_once_and_forgets_the_dead() -> None:
    with Tracker() as tracker:
        first = torch.zeros(100)
        view = first.view(10, 10)
        second = torch.zeros(50)
        del second
        third = torch.zeros(20)
    assert tracker.peak_bytes == 150 * FLOAT
    assert sum(tracker.alive().values()) == 120 * FLOAT
    del first, view, third
    assert sum(tracker.alive().values()) == 0


@pytest.mark.usefixtures("tensors")
def test_a_resized_storage_counts_with_its_new_size() -> None:
    with Tracker() as tracker:
        gathered = torch.zeros(100)
        gathered.untyped_storage().resize_(0)
        other = torch.zeros(60)
        gathered.untyped_storage().resize_(50 * FLOAT)
    assert tracker.peak_bytes == 110 * FLOAT
    assert tracker.at_peak()["gathered"] == 50 * FLOAT
    assert tracker.alive()["activations"] == other.numel() * FLOAT


@pytest.mark.usefixtures("tensors")
def test_flops_of_a_training_step_are_six_per_weight_and_row() -> None:
    first, second = nn.Linear(32, 16, bias=False), nn.Linear(16, 8, bias=False)
    with Tracker() as tracker:
        second(first(torch.ones(10, 32, requires_grad=True))).sum().backward()
    assert sum(tracker.flops.values()) == 6 * 10 * (32 * 16 + 16 * 8)


@pytest.mark.usefixtures("tensors")
@pytest.mark.parametrize("causal", [False, True])
def test_flops_of_fused_attention(causal: bool) -> None:
    query, key, value = (torch.ones(2, 3, 64, 16, requires_grad=True) for _ in range(3))
    with Tracker() as tracker:
        F.scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward()
    one_product = 2 * 2 * 3 * 64 * 64 * 16 // (2 if causal else 1)
    assert sum(tracker.flops.values()) == (2 + 5) * one_product


@pytest.mark.usefixtures("tensors")
def test_the_peak_says_what_it_is_made_of() -> None:
    layer = nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters(), foreach=True)
    weights = 1_000_000 * FLOAT

    def step() -> None:
        layer(torch.ones(10, 1000)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    tracker = Tracker()
    tracker.own(layer.parameters(), "parameters")
    tracker.own(optimizer_tensors(optimizer), "optimizer")
    tracker.follow(optimizer)
    with tracker:
        step()
    made_of = tracker.at_peak()
    assert made_of["parameters"] == weights
    assert made_of["gradients"] == weights
    assert made_of["optimizer"] == 2 * weights + FLOAT  # two moments and a step counter
    assert sum(made_of.values()) == tracker.peak_bytes
