"""Parameters, FLOPs, activations, bubbles and checkpoint intervals against published and hand-worked values."""

import math

import numpy as np
import pytest

from wingspan.model.shape import ModelShape
from wingspan.plan import steptime
from wingspan.plan.activations import in_flight_micro_batches, kept_bytes
from wingspan.plan.chips import chip_named
from wingspan.plan.grid import Grid, Software, Workload
from wingspan.plan.network import Network, network_of
from wingspan.plan.wholerun import daly_interval, goodput

GPT3 = Network(96, 12288, 96, 96, 128, 49152, 50257, gated=False, tied=True)
LLAMA3_8B = Network(32, 4096, 32, 8, 128, 14336, 128256)
LLAMA3_70B = Network(80, 8192, 64, 8, 128, 28672, 128256)
LLAMA3_405B = Network(126, 16384, 128, 8, 128, 53248, 128256)
MIXTRAL = Network(32, 4096, 32, 8, 128, 14336, 32000, experts=8, experts_per_token=2, expert_ffn=14336)
QWEN3_30B = Network(48, 2048, 32, 4, 128, 6144, 151936, qk_norm=True, experts=128, experts_per_token=8, expert_ffn=768)


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (GPT3, 175e9),
        (LLAMA3_8B, 8.03e9),
        (LLAMA3_70B, 70.6e9),
        (LLAMA3_405B, 405.9e9),
        (MIXTRAL, 46.7e9),
        (QWEN3_30B, 30.5e9),
    ],
)
def test_parameters_are_the_published_ones(network: Network, published: float) -> None:
    assert network.parameters == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(("network", "published"), [(MIXTRAL, 12.9e9), (QWEN3_30B, 3.3e9)])
def test_active_parameters_are_the_published_ones(network: Network, published: float) -> None:
    active = network.matmul_parameters + network.embedding_parameters
    assert active == pytest.approx(published, rel=0.02)


def test_network_counts_what_the_model_builds() -> None:
    shape = ModelShape("qwen3_moe", 4, 256, 4, 2, 64, 0, 1000, False, experts=8, experts_per_token=2, expert_ffn=96)
    network = network_of(shape)
    assert network.parameters == shape.parameters
    assert network.matmul_parameters == shape.matmul_parameters
    assert network.training_flops_per_token(512) == shape.training_flops_per_token(512)


def test_flops_of_gpt3_follow_narayanan() -> None:
    """72 B s L h^2 (1 + s/6h + V/12Lh) with full attention; ours halves attention for causal kernels."""
    s, h, L, V = 2048, 12288, 96, 50257
    published = 72 * s * L * h**2 * (1 + s / (6 * h) + V / (12 * L * h))
    half_of_attention = 6 * L * s * s * h
    ours = GPT3.training_flops_per_token(s) * s
    assert ours + half_of_attention == pytest.approx(published, rel=1e-6)


def test_llama_405b_takes_its_published_compute() -> None:
    """3.8e25 FLOPs for 15.6T tokens (Llama 3 paper)."""
    assert LLAMA3_405B.training_flops_per_token(8192) * 15.6e12 == pytest.approx(3.8e25, rel=0.06)


A100 = chip_named("A100-80GB SXM")
OLD = Software("Megatron 2022", flash=False)


@pytest.mark.parametrize("tp", [1, 8])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_activations_follow_korthikanti(tp: int, recompute: str) -> None:
    """Table 2 of Korthikanti et al. 2022, tensor and sequence parallel: bytes per layer of one micro-batch."""
    s, b, h, a = 2048, 4, 12288, 96
    grid = Grid.product({"tp": [tp], "micro_batch": [b], "recompute": [["none", "selective", "full"].index(recompute)]})
    word = np.array([2.0])
    ours = kept_bytes(GPT3, grid, Workload(s, b), A100, OLD, word)[0] * s * b
    hand = {
        "none": s * b * h / tp * (34 + 5 * a * s / h),
        "selective": 34 * s * b * h / tp,
        "full": 2 * s * b * h / tp,
    }
    assert ours == pytest.approx(hand[recompute])


@pytest.mark.parametrize(
    ("pp", "interleave", "m", "first"),
    [(1, 1, 16, 1), (8, 1, 16, 8), (8, 1, 4, 4), (8, 2, 64, 8 * (1 + 7 / 16))],
)
def test_first_stage_holds_the_micro_batches_of_1f1b(pp: int, interleave: int, m: int, first: float) -> None:
    grid = Grid.product({"pp": [pp], "interleave": [interleave]})
    assert in_flight_micro_batches(grid, Workload(128, m), np.zeros(1))[0] == pytest.approx(first)


def test_bubble_fractions_are_narayanans() -> None:
    grid = Grid.product({"pp": [1, 4, 8], "interleave": [1, 2]})
    fractions = steptime.bubble_fraction(grid, np.full(6, 16.0))
    assert list(fractions) == pytest.approx([0, 0, 3 / 16, 3 / 32, 7 / 16, 7 / 32])


def test_daly_interval_beats_its_neighbours() -> None:
    stall, apart, restart = 30.0, 4 * 3600.0, 600.0
    best = daly_interval(stall, apart)
    assert best == pytest.approx(math.sqrt(2 * stall * apart), rel=0.05)  # Young's first order
    assert goodput(stall, best, apart, restart) >= max(
        goodput(stall, best * factor, apart, restart) for factor in (0.6, 1.6)
    )


def test_daly_interval_of_a_machine_that_breaks_faster_than_it_saves() -> None:
    assert daly_interval(100.0, 40.0) == 40.0
