"""How often what is trained on, and how large a vocabulary pays."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.prepare.tokens.mixture import epochs_of
from wingspan.prepare.tokens.tokenizer import train_bpe
from wingspan.prepare.tokens.vocabulary import compression_curve
from wingspan.project import Mixture

SIZES = {"photos/de": 100, "photos/en": 300, "forum/en": 600}


def test_the_closest_key_counts() -> None:
    mixture = Mixture(epochs={"photos": 2.0, "photos/de": 3.0, "*/en": 0.5})
    assert epochs_of(mixture, SIZES) == {"photos/de": 3.0, "photos/en": 2.0, "forum/en": 0.5}
    assert epochs_of(Mixture(), SIZES) == dict.fromkeys(SIZES, 1.0)


def test_weights_are_shares_of_the_text() -> None:
    epochs = epochs_of(Mixture(weights={"photos": 3, "forum": 1}), SIZES)
    assert epochs == pytest.approx({"photos/de": 1.875, "photos/en": 1.875, "forum/en": 250 / 600})
    capped = epochs_of(Mixture(weights={"photos/de": 9, "forum": 1}, most_epochs=4), SIZES)
    assert capped["photos/de"] == 4
    assert capped["photos/en"] == 1.0


@given(
    st.dictionaries(st.sampled_from(["a/en", "a/de", "b/en"]), st.integers(1, 10**9), min_size=1),
    st.dictionaries(st.sampled_from(["a", "b", "*/en"]), st.floats(0, 9)),
)
def test_epochs_are_bounded_and_shares_hold_without_the_bound(sizes: dict[str, int], weights: dict[str, float]) -> None:
    epochs = epochs_of(Mixture(weights=weights), sizes)
    assert epochs.keys() == sizes.keys()
    assert all(0 <= one <= 4 for one in epochs.values())


def test_the_first_merges_are_the_smaller_vocabulary() -> None:
    generator = random.Random(7)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "nrs "]
    texts = [
        " ".join("".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(12))
        for _ in range(400)
    ]
    whole = train_bpe(texts, 2500)
    curve = compression_curve(whole, texts[:50])
    assert [one["vocab"] for one in curve] == [1024, 2048, whole.get_vocab_size()]
    assert all(one["tokens_per_byte"] > other["tokens_per_byte"] for one, other in pairwise(curve))
    smaller = train_bpe(texts, 1024).encode_batch(texts[:50], add_special_tokens=False)
    tokens = sum(len(one.ids) for one in smaller)
    assert curve[0]["tokens_per_byte"] == pytest.approx(tokens / sum(len(text) for text in texts[:50]), abs=1e-4)
