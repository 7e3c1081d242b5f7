from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingspan.prepare.duplicates import bands_for, find_duplicates, gram_set, jaccard, minhash, normalise
from wingspan.prepare.split import HELD_OUT, split_of

texts = st.text("abcdef ghij", min_size=5, max_size=60)


def grams(text: str) -> set[str]:
    return {text[at : at + 5] for at in range(len(text) - 4)}


@given(texts, texts)
def test_jaccard_is_that_of_the_sets_of_5_grams(one: str, other: str) -> None:
    true = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
    assert jaccard(gram_set(one), gram_set(other)) == pytest.approx(true)


@given(st.text(min_size=5, max_size=40))
def test_grams_of_any_script_are_counted_right(text: str) -> None:
    assert gram_set(text).size == len(grams(text))


@given(st.integers(0, 40), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_minhash_estimates_jaccard_within_five_standard_errors(changes: int, random: object) -> None:
    letters = [random.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(200)]  # type: ignore[attr-defined]
    changed = list(letters)
    for _ in range(changes):
        changed[random.randrange(200)] = random.choice("0123456789")  # type: ignore[attr-defined]
    one, other = gram_set("".join(letters)), gram_set("".join(changed))
    signatures = minhash([one, other], 512)
    true = jaccard(one, other)
    error = (max(true * (1 - true), 1e-4) / 512) ** 0.5
    assert abs((signatures[0] == signatures[1]).mean() - true) < 5 * error + 1e-3


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_catch_99_of_100_at_the_threshold(similarity: float) -> None:
    bands, rows = bands_for(similarity)
    assert bands * rows <= 120
    assert 1 - (1 - similarity**rows) ** bands >= 0.99 or (bands, rows) == (120, 1)


def test_normalisation_ignores_case_links_handles_and_punctuation() -> None:
    same = normalise(
        pl.Series(["Hello,  World! @ann http://x.example/1", "hello world", "HELLO... world :)", "👍", "👍👍"])
    )
    assert same[0] == same[1] == same[2] == "hello world"
    assert same[3] != same[4]


def test_the_first_of_a_group_stays() -> None:
    long = "the quick brown fox jumps over the lazy dog near the river bank every morning"
    found = find_duplicates(
        pl.Series(["unlike anything", long, long.upper() + "!", long + " x", "short", "short"]), 0.8
    )
    assert found["first"].to_list() == [None, None, 1, 1, None, 4]
    assert found["exact"].to_list() == [False, False, True, False, False, True]


def test_an_exact_repeat_of_a_near_duplicate_points_at_the_one_that_stays() -> None:
    long = "the quick brown fox jumps over the lazy dog near the river bank every morning"
    assert find_duplicates(pl.Series([long, long + " x", long + " X"]), 0.8)["first"].to_list() == [None, 0, 0]


@given(st.lists(texts, min_size=1, max_size=25))
@settings(max_examples=40, deadline=None)
def test_what_stays_is_pairwise_unlike_and_what_goes_has_a_reason(posts: list[str]) -> None:
    found = find_duplicates(pl.Series(posts), 0.6)
    first = [row if at is None else at for row, at in enumerate(found["first"].to_list())]
    assert all(first[at] == at <= row for row, at in enumerate(first))
    kept = [gram_set(one) for one in normalise(pl.Series(posts).gather(sorted(set(first))))]
    pairs = [jaccard(one, other) for at, one in enumerate(kept) for other in kept[:at] if one.size and other.size]
    assert max(pairs, default=0.0) < 0.75


def test_there_is_no_duplicate_among_nothing() -> None:
    assert find_duplicates(pl.Series([], dtype=pl.String), 0.8).height == 0


@given(st.lists(st.text(), min_size=1), st.integers(0, 2**32))
def test_the_split_depends_on_key_and_seed_alone(keys: list[str], seed: int) -> None:
    whole = split_of(keys, seed, 0.3).to_list()
    assert whole == [split_of([key], seed, 0.3)[0] for key in keys]


def test_the_share_held_out_is_about_right() -> None:
    sides = split_of([str(number) for number in range(20_000)], 1, 0.1)
    assert np.isclose((sides == HELD_OUT).mean(), 0.1, atol=0.01)
    assert set(split_of(["a", "b"], 1, 0.0)) == {"train"}
