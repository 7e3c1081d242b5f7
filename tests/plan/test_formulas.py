"""Parameters, FLOPs, activations, bubbles and checkpoint intervals against published and hand-worked values."""

import math

import numpy as np
import pytest

from wingspan.model.shape import ModelShape
from wingspan.plan.devices.chips import chip_named
from wingspan.plan.step import steptime
from wingspan.plan.step.activations import in_flight_micro_batches, kept_bytes
from wingspan.plan.step.grid import Grid, Software, Workload
from wingspan.plan.step.network import Network, network_of
from wingspan.plan.whole.wholerun import daly_interval, goodput

GPT3 = Network(96, 12288, 96, 96, 128, 49152, 50257, gated=False, tied=True)
LLAMA3_8B = Network(32, 4096, 32, 8, 128, 14336, 128256)
LLAMA3_70B = Network(80, 8192, 64, 8, 128, 28672, 128256)
LLAMA3_405B = Network(126, 16384, 128, 8, 128, 53248, 128256)
MIXTRAL = Network(32, 4096, 32, 8, 128, 14336, 32000, experts=8, experts_per_token=2, expert_ffn=14336)
QWEN3_30B = Network(48, 2048, 32, 4, 128, 6144, 151936, qk_norm=True, experts=128, experts_per_token=8, expert_ffn=768)

DEEPSEEK_V3 = Network(
    61, 7168, 128, 128, 192, 18432, 129280, experts=256, experts_per_token=8, shared_experts=1, expert_ffn=2048,
    dense_layers=3, q_rank=1536, kv_rank=512, rope_dim=64, value_head_dim=128,
)  # fmt: skip


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (DEEPSEEK_V3, 671e9),
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


@pytest.mark.parametrize(("network", "published"), [(MIXTRAL, 12.9e9), (QWEN3_30B, 3.3e9), (DEEPSEEK_V3, 37e9)])
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


def test_deepseek_v3_takes_its_published_compute() -> None:
    """2.664M H800-hours for 14.8T tokens; 250 GFLOPs a token at 4k, causal (its technical report, table 4: 180K
    GPU-hours per trillion tokens, which is 39% of the bf16 peak)."""
    flops = DEEPSEEK_V3.training_flops_per_token(4096)
    assert flops == pytest.approx(250e9, rel=0.02)
    assert flops * 1e12 / (180e3 * 3600 * 989e12) == pytest.approx(0.39, rel=0.03)


@pytest.mark.parametrize(("network", "per_token"), [(LLAMA3_8B, 48.3e9), (LLAMA3_70B, 434e9), (MIXTRAL, 80e9)])
def test_flops_per_token_are_six_times_the_matrices_and_attention(network: Network, per_token: float) -> None:
    """By hand at 4,096 tokens: 6 (L (2 h d (a + k) + 3 h f) + h V) + 6 L s a d; Mixtral has two experts."""
    assert network.training_flops_per_token(4096) == pytest.approx(per_token, rel=0.005)


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


def test_activations_of_22b_to_1t_are_korthikantis() -> None:
    """Table 3's shapes, first stage, tensor and sequence parallel: s b h L (34 + 5 a s / h) / t (equation 5), without
    the ends; interleaving holds 1 + (p - 1) / (p v) times as much."""
    small, gpt3, large = (6144, 64, 48, 8, 1, 1, 4), (12288, 96, 96, 8, 8, 3, 1), (25600, 160, 128, 8, 64, 1, 1)
    for h, a, layers, tp, pp, v, b in (small, gpt3, large):
        network = Network(layers, h, a, a, h // a, 4 * h, 51200, gated=False)
        grid = Grid.product({"tp": [tp], "pp": [pp], "interleave": [v], "micro_batch": [b]})
        workload = Workload(2048, 512)
        layer = kept_bytes(network, grid, workload, A100, OLD, np.array([2.0]))[0] * 2048 * b
        held = layer * layers / pp * in_flight_micro_batches(grid, workload, np.zeros(1))[0]
        hand = 2048 * b * h * layers * (34 + 5 * a * 2048 / h) / tp * (1 + (pp - 1) / (pp * v) if v > 1 else 1)
        assert held == pytest.approx(hand)


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
