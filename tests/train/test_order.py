"""The order of samples is a shuffle, new in each epoch, the same wherever one starts to read it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wingspan.train.data.order import permute, sample_indices

SEED = st.integers(0, 2**63 - 1)


@given(size=st.integers(1, 3000), seed=SEED, epoch=st.integers(0, 100))
def test_every_index_comes_exactly_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(size), size, seed, epoch)) == list(range(size))


@given(size=st.integers(2**40, 2**62), seed=SEED)
def test_large_sizes_stay_in_range_and_apart(size: int, seed: int) -> None:
    some = permute(np.arange(100), size, seed, 0)
    assert ((some >= 0) & (some < size)).all()
    assert len(set(some.tolist())) == 100


@given(size=st.integers(1, 500), seed=SEED, first=st.integers(0, 2000), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_reading_in_parts_is_reading_at_once(size: int, seed: int, first: int, cuts: list[int]) -> None:
    parts, at = [], first
    for cut in cuts:
        parts.extend(sample_indices(at, cut, size, seed))
        at += cut
    assert parts == list(sample_indices(first, sum(cuts), size, seed))


def test_epochs_have_their_own_order_and_are_whole() -> None:
    numbers = sample_indices(0, 3 * 64, 64, seed=7).reshape(3, 64)
    assert all(sorted(epoch) == list(range(64)) for epoch in numbers)
    assert len({tuple(epoch) for epoch in numbers}) == 3


def test_the_shuffle_shuffles() -> None:
    order = permute(np.arange(10_000), 10_000, seed=3, epoch=0)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert (order == np.arange(10_000)).sum() < 10  # one fixed point is expected
