"""A global batch that grows: early in training small batches learn as much from a token (McCandlish et al. 2018).

The batch of a step depends on the step alone, so the order of samples, and the ledger, are the same on any number of
ranks. Sizes are multiples of the first, so what can share out the first can share out all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Plateau = tuple[int, int]  # so many steps with a batch of so many sequences


def plateaus(start: int, full: int, share: float, samples: int) -> tuple[Plateau, ...]:
    """The growth from `start` to `full` over the first `share` of `samples`: equally many samples at each size."""
    sizes = range(start, full, start)
    each = share * samples / len(sizes) if sizes else 0
    return tuple((math.ceil(each / size), size) for size in sizes)


def batch_of(step: int, growth: Sequence[Plateau], full: int) -> int:
    """Sequences of a step, counted from 0."""
    for steps, size in growth:
        if step < steps:
            return size
        step -= steps
    return full


def steps_for(samples: int, growth: Sequence[Plateau], full: int) -> int:
    """The fewest steps that use so many samples; growth is finished in any case."""
    left = samples - sum(steps * size for steps, size in growth)
    return sum(steps for steps, _ in growth) + max(0, math.ceil(left / full))
