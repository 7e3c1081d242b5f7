"""The scaling law of a family of models: loss = E + A / N^a + B / D^b (Hoffmann et al. 2022, approach 3).

N are the matrix parameters that a token is multiplied with, D the tokens trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EXPONENTS = np.arange(0.05, 1.2001, 0.025)
_RESAMPLES = 200


@dataclass(frozen=True)
class Law:
    """Fitted constants; `loss(parameters, tokens)` in the unit of the losses fitted."""

    floor: float
    model: float
    model_exponent: float
    data: float
    data_exponent: float

    def loss(self, parameters: Floats | float, tokens: Floats | float) -> Floats:
        """E + A / N^a + B / D^b."""
        return np.asarray(
            self.floor
            + self.model * np.power(parameters, -self.model_exponent)
            + self.data * np.power(tokens, -self.data_exponent)
        )


@dataclass(frozen=True)
class Prediction:
    """A loss and the interval that holds nine of ten refits."""

    value: float
    low: float
    high: float


def fit_law(parameters: Floats, tokens: Floats, losses: Floats) -> Law:
    """The law nearest to the measured losses in relative squares; no constant is negative.

    Raises ValueError for fewer than five runs, or for fewer than two sizes or budgets, which determine no law.
    """
    if len(losses) < 5 or len(np.unique(parameters)) < 2 or len(np.unique(tokens)) < 2:
        raise ValueError("a law needs five runs of two sizes and two budgets at least")
    return _fit(parameters, tokens, losses[:, None], losses)[0]


def _fit(parameters: Floats, tokens: Floats, losses: Floats, scale: Floats) -> list[Law]:
    """A law for each column of losses (runs, fits), whose errors count in units of `scale` (runs,).

    For each pair of exponents of a grid the three constants are a linear least squares; where one would be negative, it
    is 0 and the others are fitted again.
    """
    a, b = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _EXPONENTS))
    small, little = float(parameters.min()), float(tokens.min())  # of which the terms are powers: well-conditioned
    terms = ((parameters / small) ** -a[:, None], (tokens / little) ** -b[:, None])
    weighted = np.stack((np.ones_like(terms[0]), *terms), axis=-1) / scale[:, None]  # (grid, runs, 3)
    wanted = losses / scale[:, None]
    best = np.full(losses.shape[1], np.inf)
    found = np.zeros((losses.shape[1], 5))
    for kept in ([0, 1, 2], [1, 2], [0, 1], [0, 2]):
        some = weighted[:, :, kept]
        constants = np.linalg.pinv(some) @ wanted  # (grid, kept, fits)
        errors = ((some @ constants - wanted) ** 2).sum(1)
        errors = np.where((constants >= 0).all(1), errors, np.inf)
        at = errors.argmin(0)
        for fit in np.flatnonzero(errors.min(0) < best * (1 - 1e-6)):
            best[fit] = errors[at[fit], fit]
            found[fit, :3] = 0
            found[fit, kept] = constants[at[fit], :, fit]
            found[fit, 3:] = a[at[fit]], b[at[fit]]
    return [Law(floor, n * small**a, a, d * little**b, b) for floor, n, d, a, b in found.tolist()]


def predict(
    law: Law, parameters: Floats, tokens: Floats, losses: Floats, at: tuple[float, float], seed: int
) -> Prediction:
    """The law's loss at (N, D), with a band: refits to losses moved by resampled residuals, moved by one more."""
    random = np.random.default_rng(seed)
    fitted = law.loss(parameters, tokens)
    residuals = (losses / fitted - 1) * math.sqrt(len(losses) / max(1, len(losses) - 5))  # five constants are fitted
    moved = fitted[:, None] * (1 + random.choice(residuals, (len(losses), _RESAMPLES)))
    refits = np.array([one.loss(*at) for one in _fit(parameters, tokens, moved, losses)])
    found = refits * (1 + random.choice(residuals, _RESAMPLES))
    value = float(law.loss(*at))
    low, high = np.quantile(found, [0.05, 0.95])
    return Prediction(value, min(value, float(low)), max(value, float(high)))
