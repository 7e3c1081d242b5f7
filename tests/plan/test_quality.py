"""Scaling laws against the papers' own numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.plan.whole.quality import (
    CHINCHILLA,
    REFIT,
    effective_parameters,
    effective_tokens,
    llama3_optimum,
    predicted_loss,
    quality,
)


def test_llama_3_chose_its_flagship_by_its_law() -> None:
    """402B parameters on 16.55T tokens for 3.8e25 FLOPs (arXiv 2407.21783, section 3.2.1)."""
    parameters, tokens = llama3_optimum(3.8e25)
    assert parameters == pytest.approx(402e9, rel=0.05)
    assert tokens == pytest.approx(16.55e12, rel=0.05)


def test_the_refit_asks_for_about_twenty_tokens_per_parameter() -> None:
    """Besiroglu et al. 2024: consistent with the 20 of Hoffmann et al.'s other approaches, at Chinchilla's budget."""
    parameters, tokens = REFIT.optimum(5.76e23)
    assert 15 < tokens / parameters < 27
    assert parameters == pytest.approx(70e9, rel=0.15)
    assert CHINCHILLA.optimum(5.76e23)[0] < parameters


@given(flops=st.floats(1e18, 1e27), other=st.floats(0.2, 5))
def test_the_optimum_is_one(flops: float, other: float) -> None:
    for law in (REFIT, CHINCHILLA):
        parameters, tokens = law.optimum(flops)
        assert 6 * parameters * tokens == pytest.approx(flops)
        assert law.loss(parameters * other, tokens / other) >= law.loss(parameters, tokens) - 1e-12


def test_chinchilla_s_loss() -> None:
    """70B on 1.4T by approach 3: 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28 = 1.94."""
    assert CHINCHILLA.loss(70e9, 1.4e12) == pytest.approx(1.936, abs=0.01)
    figure = predicted_loss(70e9, 1.4e12)
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.value < figure.high


def test_four_passes_are_nearly_new_and_forty_are_not() -> None:
    """Muennighoff et al. 2023: up to four epochs change little; returns vanish past about sixteen (R* = 15.4)."""
    assert effective_tokens(1e9, 1e9) == 1e9
    assert effective_tokens(0.5e9, 1e9) == 0.5e9
    assert effective_tokens(4e9, 1e9) > 0.9 * 4e9
    assert effective_tokens(44e9, 1e9) < 0.36 * 44e9
    assert effective_tokens(1e15, 1e9) == pytest.approx(16.39e9, rel=1e-3)


@given(tokens=st.floats(1e6, 1e14), unique=st.floats(1e6, 1e14))
def test_repetition_is_never_worth_more_than_new_text(tokens: float, unique: float) -> None:
    assert 0 < effective_tokens(tokens, unique) <= tokens * (1 + 1e-9)
    assert 0 < effective_parameters(1e9, unique) <= 1e9 * (1 + 1e-9)
    assert predicted_loss(1e9, tokens, unique).value >= predicted_loss(1e9, tokens).value - 1e-12


def test_tokens_of_the_posts_beside_those_needed() -> None:
    found = quality(1e9, 20e9, 1.2e20, from_scratch=True, text_bytes=59e9)
    assert found["tokens"]["passes"] == pytest.approx(2.0)
    assert found["loss_with_repetition"]["value"] > found["loss"]["value"]
    assert not found["extrapolated"]
    assert quality(1e9, 20e9, 1e26, from_scratch=False)["extrapolated"]
    assert "loss" not in quality(1e9, 20e9, 1e26, from_scratch=False)
    assert quality(2e6, 4e5, 6e12, from_scratch=True)["compute_optimal"] == []  # no law holds for so little
