"""Serving: the roofline against published measurements, and its limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.plan.devices.chips import catalogue, chip_named
from wingspan.plan.step.network import Network
from wingspan.plan.whole.serving import SERVING_ERROR, replica, serving
from wingspan.project import Traffic

LLAMA_8B = Network(32, 4096, 32, 8, 128, 14336, 128256)
LLAMA_70B = Network(80, 8192, 64, 8, 128, 28672, 128256)
LLAMA_405B = Network(126, 16384, 128, 8, 128, 53248, 128256)
# Output tokens/s of TensorRT-LLM 1.0 in fp8 by prompt and answer tokens (github.com/NVIDIA/TensorRT-LLM, performance
# overview). The constants were fitted to the H100; the H200 was held out.
MEASURED = [
    (LLAMA_8B, "H100 SXM", 1, {(128, 128): 28312, (500, 2000): 17660, (1000, 1000): 15220, (2048, 128): 3450}),
    (LLAMA_70B, "H100 SXM", 2, {(128, 2048): 6651, (1000, 1000): 4205, (2048, 2048): 3082, (5000, 500): 898}),
    (LLAMA_405B, "H100 SXM", 8, {(128, 2048): 4340, (1000, 1000): 2919, (2048, 2048): 2296, (5000, 500): 610}),
    (LLAMA_8B, "H200 SXM", 1, {(128, 128): 27911, (500, 2000): 20770, (1000, 1000): 17744, (2048, 128): 3538}),
    (LLAMA_70B, "H200 SXM", 1, {(128, 2048): 4336, (1000, 1000): 2909, (2048, 2048): 2003, (5000, 500): 566}),
    (LLAMA_405B, "H200 SXM", 8, {(128, 2048): 5348, (1000, 1000): 3330, (2048, 2048): 2948, (5000, 500): 650}),
]


@pytest.mark.parametrize(("network", "chip", "devices", "rows"), MEASURED)
def test_throughput_at_full_load_is_within_the_band(
    network: Network, chip: str, devices: int, rows: dict[tuple[int, int], float]
) -> None:
    for (prompt, answer), measured in rows.items():
        traffic = Traffic(prompt_tokens=prompt, answer_tokens=answer, tokens_per_s=0.01)
        found = replica(network, chip_named(chip), devices, traffic, weight_bytes=1.0)
        assert found is not None
        assert found.tokens_per_s == pytest.approx(measured, rel=SERVING_ERROR)


def test_memory_of_weights_and_cache() -> None:
    """Llama 3 8B in bf16: 16 GB of weights; 2 x 2 x 32 layers x 8 heads x 128 = 128 KiB of cache per token."""
    found = replica(LLAMA_8B, chip_named("H100 SXM"), 1, Traffic(), weight_bytes=2.0)
    assert found is not None
    assert found.weights_bytes == pytest.approx(16.06e9, rel=0.01)
    assert found.cache_bytes_per_token == 128 * 1024


@given(pace=st.floats(0.1, 500), devices=st.sampled_from([1, 2, 4, 8]))
def test_a_faster_pace_never_serves_more(pace: float, devices: int) -> None:
    slow, fast = (
        replica(LLAMA_8B, chip_named("H100 SXM"), devices, Traffic(tokens_per_s=one), 1.0) for one in (pace, 2 * pace)
    )
    assert slow is not None or fast is None
    if slow and fast:
        assert fast.tokens_per_s <= slow.tokens_per_s * (1 + 1e-9)
        assert fast.tokens_per_s_per_user >= 2 * pace * (1 - 1e-9)


def test_what_does_not_fit_or_is_unknown_says_so() -> None:
    assert "unfit" in serving(LLAMA_405B, chip_named("A100-40GB SXM"), Traffic(), 8, 2.0)
    assert "unknown" in serving(LLAMA_8B, chip_named("Cerebras WSE-3"), Traffic(), 8, 1.0)
    for chip in catalogue():
        assert serving(LLAMA_8B, chip, Traffic(), 8, 1.0)["device"] == chip.name


def test_twice_the_users_take_twice_the_replicas_and_one_spare() -> None:
    one, two = (
        serving(LLAMA_70B, chip_named("H100 SXM"), Traffic(daily_users=users), 8, 1.0) for users in (10**7, 2 * 10**7)
    )
    assert two["replicas"]["value"] - 1 == pytest.approx(2 * (one["replicas"]["value"] - 1), abs=1)
    assert one["cost_per_1000_answers"]["value"] > 0
