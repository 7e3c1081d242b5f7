"""What a step should be like, from the steps before it: what is unlike them is not learned from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from wingspan.errors import WorkError

_WINDOW, _FEWEST = 64, 16  # steps that are remembered; before there are so many, only what is not finite is odd
_LEAST_RISE = 0.2  # of the mean: a quiet run's small deviations make no spike of a small rise
_ROLLBACKS = 3  # in a row, after which the data is not what is wrong

Seen = tuple[float, float]  # loss, gradient norm before clipping


class Health:
    """Remembers the last good steps. Every rank sees the same numbers, so all decide alike.

    A spike is a loss or a norm more than `deviations` standard deviations, and a fifth, above the mean of the last 64
    good steps; 0 deviations: nothing finite is a spike.
    """

    def __init__(self, deviations: float, rollback_after: int, seen: Iterable[Seen] = ()) -> None:
        self._deviations, self._rollback_after = deviations, rollback_after
        self._seen: deque[Seen] = deque(seen, _WINDOW)
        self._left_out = self._rollbacks = 0

    @property
    def seen(self) -> list[Seen]:
        """The last good steps, for a checkpoint to keep."""
        return list(self._seen)

    def odd(self, loss: float, norm: float) -> bool:
        """Whether a step is not finite, or a spike."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return True
        if not self._deviations or len(self._seen) < _FEWEST:
            return False
        return any(
            value > _limit(before, self._deviations)
            for value, before in zip((loss, norm), zip(*self._seen, strict=True), strict=True)
        )

    def took(self, loss: float, norm: float) -> None:
        """A good step was taken."""
        self._seen.append((loss, norm))
        self._left_out = 0
        if len(self._seen) >= _FEWEST:
            self._rollbacks = 0

    def left_out(self) -> bool:
        """A step was left out; True when it is time to go back to a checkpoint, past this data.

        Raises WorkError when going back three times has not helped.
        """
        self._left_out += 1
        if not self._rollback_after or self._left_out < self._rollback_after:
            return False
        self._rollbacks += 1
        if self._rollbacks > _ROLLBACKS:
            raise WorkError(
                f"the loss did not recover in {_ROLLBACKS} returns to a checkpoint",
                where="train.optimizer.learning_rate",
                remedy="Lower it, or look at the samples that the ledger names as passed over",
            )
        return True

    def went_back(self, seen: Iterable[Seen]) -> None:
        """The run continues from a checkpoint that remembers these steps."""
        self._seen = deque(seen, _WINDOW)
        self._left_out = 0


def _limit(values: Sequence[float], deviations: float) -> float:
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return mean + max(deviations * deviation, _LEAST_RISE * abs(mean))
