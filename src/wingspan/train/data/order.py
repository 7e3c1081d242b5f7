"""The order of samples: a stateless permutation, so that the loader's whole state is one integer.

Sample number c of a run (counted from 0 over all steps and ranks) belongs to epoch c // size; within an
epoch a Feistel network over the index shuffles without a table: any index in O(1), nothing to store.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def sample_indices(first: int, count: int, size: int, seed: int) -> Indices:
    """The samples, out of `size`, that numbers first ... first + count - 1 of the run mean."""
    numbers = np.arange(first, first + count, dtype=np.int64)
    epochs = numbers // size
    indices = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permute(numbers[here] % size, size, seed, int(epoch))
    return indices


def permute(indices: Indices, size: int, seed: int, epoch: int) -> Indices:
    """Where a shuffle of range(size), keyed by (seed, epoch), sends each index: a bijection of range(size).

    A balanced Feistel network (Luby & Rackoff 1988) permutes the next power of four above `size`;
    indices that it sends beyond `size` walk on along their cycle until they come back (Black & Rogaway
    2002), fewer than four steps on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = [_mix_int(_mix_int(seed) ^ _mix_int(epoch + 1) ^ round_ * _GOLDEN) for round_ in range(1, _ROUNDS + 1)]
    result = _feistel(indices.astype(np.uint64), half, keys)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], half, keys)
    return result.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, keys: list[int]) -> NDArray[np.uint64]:
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ np.uint64(key & _MASK64)) & mask)
    return (left << np.uint64(half)) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix_int(x: int) -> int:
    return int(_mix(np.array([(x + 1) * _GOLDEN & _MASK64], dtype=np.uint64))[0])
