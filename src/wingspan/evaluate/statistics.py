"""Intervals and paired tests for scores, by resampling whole clusters.

Posts of one author or thread are not independent, so they are drawn together. Every score here is a
function of sums over items (a mean, bits per byte, macro-F1, a correlation): resampling is then one
matrix product, and one code serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # sums [..., columns] -> score [...]

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A score with its 95% interval and its standard error."""

    value: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Difference:
    """Second score minus first on the same items, its 95% interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float
    test: str


def ratio_columns(numerators: Sequence[float], denominators: Sequence[float] | None = None) -> Floats:
    """Columns [items, 2] for `ratio`; without denominators its value is the mean."""
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
    return np.stack([top, bottom], axis=-1)


def ratio(sums: Floats) -> Floats:
    """Sum of numerators / sum of denominators; 0 where the denominator is 0."""
    return _divide(sums[..., 0], sums[..., 1])


def confusion_columns(gold: Sequence[int], predicted: Sequence[int], classes: int) -> Floats:
    """Columns [items, classes^2] for `macro_f1` and its like: one-hot in (gold, predicted).

    A prediction of -1 (an answer that names no class) counts as the class after the right one, so as wrong.
    """
    right = np.asarray(gold)
    told = np.where(np.asarray(predicted) < 0, (right + 1) % classes, predicted)
    cells: Floats = np.eye(classes * classes)[right * classes + told]
    return cells


def macro_f1(sums: Floats) -> Floats:
    """Mean of the classes' F1 = 2 TP / (2 TP + FP + FN), over classes that occur as gold or prediction."""
    hits, golds, predictions = _table(sums)
    occurrences = golds + predictions
    return _divide(_divide(2 * hits, occurrences).sum(axis=-1), (occurrences > 0).sum(axis=-1))


def f1_of(*classes: int) -> Statistic:
    """Mean of the F1 of these classes alone, of confusion columns."""

    def statistic(sums: Floats) -> Floats:
        hits, golds, predictions = (one[..., classes] for one in _table(sums))
        return np.asarray(_divide(2 * hits, golds + predictions).mean(axis=-1))

    return statistic


def macro_recall(sums: Floats) -> Floats:
    """Mean of the classes' recall, over classes that occur as gold, of confusion columns."""
    hits, golds, _ = _table(sums)
    return _divide(_divide(hits, golds).sum(axis=-1), (golds > 0).sum(axis=-1))


def _table(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """Right ones, golds and predictions of each class."""
    classes = math.isqrt(sums.shape[-1])
    table = sums.reshape(*sums.shape[:-1], classes, classes)
    return np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-1), table.sum(axis=-2)


def moment_columns(x: Sequence[float], y: Sequence[float]) -> Floats:
    """Columns [items, 6] for `pearson`; x and y are centred first, which keeps the sums well conditioned."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    return np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=-1)


def pearson(sums: Floats) -> Floats:
    """Pearson's correlation; 0 where x or y does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    variances = np.maximum(n * xx - x * x, 0.0) * np.maximum(n * yy - y * y, 0.0)
    return np.clip(_divide(n * xy - x * y, np.sqrt(variances)), -1.0, 1.0)


def estimate(
    statistic: Statistic, items: Floats, *, resamples: int, seed: int, clusters: Sequence[str] | None = None
) -> Estimate:
    """The score of items [items, columns] with a percentile bootstrap interval over clusters.

    Efron & Tibshirani (1993), chapter 13; whole clusters are drawn as in Field & Welsh (2007), which matters for
    model scores as Miller (2024), "Adding Error Bars to Evals", shows.
    """
    groups = _by_cluster(items, clusters)
    draws = statistic(bootstrap_weights(len(groups), resamples, seed) @ groups)
    return Estimate(float(statistic(groups.sum(axis=0))), *_percentiles(draws), float(draws.std()))


def compare(
    statistic: Statistic,
    first: Floats,
    second: Floats,
    *,
    resamples: int,
    seed: int,
    clusters: Sequence[str] | None = None,
) -> Difference:
    """`second` minus `first` on the same items: paired bootstrap interval, paired permutation p-value.

    The permutation test swaps the two models' results on whole clusters, which is exchangeable when the
    models are equally good; p = (1 + as extreme) / (1 + resamples) (Phipson & Smyth 2010).
    """
    a, b = _by_cluster(first, clusters), _by_cluster(second, clusters)
    weights = bootstrap_weights(len(a), resamples, seed)
    low, high = _percentiles(statistic(weights @ b) - statistic(weights @ a))
    value = float(statistic(b.sum(axis=0)) - statistic(a.sum(axis=0)))
    swapped = np.random.default_rng([seed, 1]).integers(0, 2, (resamples, len(a))).astype(np.float64)
    moved = swapped @ (b - a)
    null = statistic(b.sum(axis=0) - moved) - statistic(a.sum(axis=0) + moved)
    extreme = int(np.sum(np.abs(null) >= abs(value) - 1e-12))
    return Difference(value, low, high, (1 + extreme) / (1 + resamples), "paired permutation")


def wilson(successes: int, trials: int) -> Estimate:
    """A share with its interval after Wilson (1927), which stays inside [0, 1] at any sample size."""
    if trials == 0:
        return Estimate(0.0, 0.0, 1.0, 0.5)
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
    return Estimate(share, low, high, math.sqrt(share * (1 - share) / trials))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p-value of McNemar's test for right and wrong answers on the same items.

    Under the null hypothesis the discordant items fall either way like a fair coin (McNemar 1947, exact form).
    """
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    discordant = gained + lost
    tail = sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def _by_cluster(items: Floats, clusters: Sequence[str] | None) -> Floats:
    """Sums per cluster, in order of first appearance; every item its own cluster when none are given."""
    if clusters is None:
        return items
    rows = {name: row for row, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(rows), items.shape[1]))
    np.add.at(sums, [rows[name] for name in clusters], items)
    return sums


def bootstrap_weights(groups: int, resamples: int, seed: int) -> Floats:
    """How often each group is drawn, [resamples, groups]."""
    random = np.random.default_rng([seed, 0])
    return random.multinomial(groups, np.full(groups, 1 / groups), resamples).astype(np.float64)


def _percentiles(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _divide(top: Floats, bottom: Floats) -> Floats:
    result: Floats = np.divide(top, bottom, out=np.zeros_like(top, dtype=np.float64), where=bottom != 0)
    return result
