from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingspan.prepare.repeats.duplicates import bands_for, find_duplicates, normalise
from wingspan.prepare.repeats.hashing import signatures, similarities, text_hashes
from wingspan.prepare.split import HELD_OUT, split_of

from .flows import dataset, flow_in

texts = st.text("abcdef ghij", min_size=5, max_size=60)


def grams(text: str) -> set[str]:
    return {text[at : at + 5] for at in range(len(text) - 4)}


def jaccard(one: str, other: str) -> float:
    return float(similarities(pl.Series([one]), pl.Series([other]))[0])


@given(st.text(min_size=5, max_size=60), st.text(min_size=5, max_size=60))
@settings(deadline=None)
def test_similarity_is_jaccard_of_the_sets_of_5_grams_in_any_script(one: str, other: str) -> None:
    true = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
    assert jaccard(one, other) == pytest.approx(true)


def test_texts_too_short_for_grams_have_no_signature() -> None:
    found = signatures(pl.Series(["abcd", "日本語", "", "abcde", "日本語日本"]), 4)
    assert found[1].tolist() == [False, False, False, True, True]


def test_hashes_are_the_same_on_every_machine() -> None:
    assert text_hashes(pl.Series(["", "a", "日本"])).tolist() == [
        17665956581633026203,
        198367012849983736,
        13255442384202379014,
    ]


@given(st.integers(0, 40), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_minhash_estimates_jaccard_within_five_standard_errors(changes: int, random: object) -> None:
    letters = [random.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(200)]  # type: ignore[attr-defined]
    changed = list(letters)
    for _ in range(changes):
        changed[random.randrange(200)] = random.choice("0123456789")  # type: ignore[attr-defined]
    one, other = "".join(letters), "".join(changed)
    signed, _ = signatures(pl.Series([one, other]), 512)
    true = jaccard(one, other)
    error = (max(true * (1 - true), 1e-4) / 512) ** 0.5
    assert abs((signed[0] == signed[1]).mean() - true) < 5 * error + 1e-3


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_catch_99_of_100_at_the_threshold(similarity: float) -> None:
    bands, rows = bands_for(similarity)
    assert bands * rows <= 128
    assert 1 - (1 - similarity**rows) ** bands >= 0.99 or (bands, rows) == (128, 1)


def test_normalisation_ignores_case_links_handles_and_punctuation() -> None:
    same = normalise(
        pl.Series(["Hello,  World! @ann http://x.example/1", "hello world", "HELLO... world :)", "👍", "👍👍"])
    )
    assert same[0] == same[1] == same[2] == "hello world"
    assert same[3] != same[4]


def duplicates(folder: Path, *parts: list[str], similarity: float = 0.8, most: int = 1 << 20) -> pl.DataFrame:
    """Columns first, exact for each text: the number of the text that stays in its stead."""
    flow = flow_in(folder, most)
    refused = [pa.array([None] * len(part), pa.string()) for part in parts]
    posts = [
        pa.table({"text": pa.array(part, pa.string()), "refused": gone})
        for part, gone in zip(parts, refused, strict=True)
    ]
    found = find_duplicates(flow, dataset(flow, "posts", *posts), similarity)
    places = [(part << 32) | row for part, some in enumerate(parts) for row in range(len(some))]
    number = {at: place for place, at in enumerate(places)}
    first, exact = list(range(len(number))), [False] * len(number)
    for part, marks in enumerate(found.tables()):
        for mark in marks.to_pylist():
            at = number[(part << 32) | mark["row"]]
            first[at], exact[at] = number[mark["repeats"]], mark["exact"]
    return pl.DataFrame({"first": first, "exact": exact})


LONG = "the quick brown fox jumps over the lazy dog near the river bank every morning"


@pytest.mark.parametrize("most", [1 << 20, 8])
def test_the_first_of_a_group_stays(tmp_path: Path, most: int) -> None:
    found = duplicates(
        tmp_path, ["unlike anything", LONG], [LONG.upper() + "!", LONG + " x"], ["shrt", "shrt"], most=most
    )
    assert found["first"].to_list() == [0, 1, 1, 1, 4, 4]
    assert found["exact"].to_list() == [False, False, True, False, False, True]


def test_an_exact_repeat_of_a_near_duplicate_points_at_the_one_that_stays(tmp_path: Path) -> None:
    found = duplicates(tmp_path, [LONG, LONG + " x", LONG + " X"])
    assert found["first"].to_list() == [0, 0, 0]
    assert found["exact"].to_list() == [False, False, True]


@given(st.lists(texts, min_size=1, max_size=25), st.integers(0, 25))
@settings(max_examples=20, deadline=None)
def test_what_stays_is_pairwise_unlike_and_what_goes_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, posts: list[str], cut: int
) -> None:
    found = duplicates(tmp_path_factory.mktemp("flow"), posts[:cut], posts[cut:], similarity=0.6)
    first = found["first"].to_list()
    assert all(first[at] == at <= row for row, at in enumerate(first))
    kept = normalise(pl.Series(posts).gather(sorted(set(first)))).to_list()
    pairs = [jaccard(one, other) for at, one in enumerate(kept) for other in kept[:at] if grams(one) and grams(other)]
    assert max(pairs, default=0.0) < 0.75


def test_there_is_no_duplicate_among_nothing(tmp_path: Path) -> None:
    assert duplicates(tmp_path, []).height == 0


@given(st.lists(st.text(), min_size=1), st.integers(0, 2**32))
def test_the_split_depends_on_key_and_seed_alone(keys: list[str], seed: int) -> None:
    whole = split_of(keys, seed, 0.3).to_list()
    assert whole == [split_of([key], seed, 0.3)[0] for key in keys]


def test_the_share_held_out_is_about_right() -> None:
    sides = split_of([str(number) for number in range(20_000)], 1, 0.1)
    assert np.isclose((sides == HELD_OUT).mean(), 0.1, atol=0.01)
    assert set(split_of(["a", "b"], 1, 0.0)) == {"train"}
