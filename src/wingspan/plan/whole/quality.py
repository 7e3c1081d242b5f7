"""How good a model a budget of computing buys, by published scaling laws, and whether the posts suffice.

Losses are nats per token on held-out text of the law's own data and tokenizer: compare plans by them, not papers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from wingspan.figures import Figure

_TRAINED_ON = (6e18, 1e22)  # FLOPs of the runs that the loss laws were fitted to
_TOO_SMALL = 6e16  # FLOPs below which they say more than a random model's loss, or nearly
_FILE_BYTES_PER_TOKEN = 5.9  # of posts in text files: about 130 bytes with their ids, 22 tokens each
_HALF_LIFE_TOKENS, _HALF_LIFE_PARAMETERS = 15.39, 5.31  # R* of repeated tokens and of spare parameters
_CROWDING = 1.645  # standard deviations of a 90% band


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, N parameters and D tokens; `error` is that of E, one deviation."""

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    error: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token."""
        return float(self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for 6 N D = `flops` (Hoffmann et al. 2022, equation 4)."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return parameters, flops / (6 * parameters)


CHINCHILLA = LossLaw("Hoffmann et al. 2022, approach 3", 1.69, 406.4, 410.7, 0.34, 0.28, 0.03)
REFIT = LossLaw("Besiroglu et al. 2024, re-fit of Hoffmann et al.", 1.8172, 482.01, 2085.43, 0.3478, 0.3658, 0.03)


def llama3_optimum(flops: float) -> tuple[float, float]:
    """Parameters and tokens by Llama 3's law D = 0.299 C^0.537 (arXiv 2407.21783, section 3.2.1)."""
    tokens = 0.299 * flops**0.537
    return flops / (6 * tokens), tokens


def effective_tokens(tokens: float, unique: float) -> float:
    """What `tokens` are worth of which only `unique` are different (Muennighoff et al. 2023, equation 5).

    D' = U + U R* (1 - exp(-R / R*)), R = D / U - 1 repetitions: four passes are nearly as good as new text.
    """
    repeats = max(tokens / unique - 1, 0.0)
    return min(tokens, unique) + unique * _HALF_LIFE_TOKENS * (1 - math.exp(-repeats / _HALF_LIFE_TOKENS))


def effective_parameters(parameters: float, unique: float) -> float:
    """What `parameters` are worth on `unique` tokens: those beyond the optimum for them decay alike (equation 6)."""
    enough = REFIT.optimum(_flops_for(unique))[0]
    spare = max(parameters / enough - 1, 0.0)
    return min(parameters, enough) + enough * _HALF_LIFE_PARAMETERS * (1 - math.exp(-spare / _HALF_LIFE_PARAMETERS))


def _flops_for(tokens: float) -> float:
    """The computing whose optimum takes that many tokens: D grows as C^(alpha / (alpha + beta))."""
    at_one = REFIT.optimum(6.0)[1]
    return float(6.0 * (tokens / at_one) ** ((REFIT.alpha + REFIT.beta) / REFIT.alpha))


def predicted_loss(parameters: float, tokens: float, unique: float | None = None) -> Figure:
    """Nats per token by the re-fit; the band spans both loss laws and the error of the irreducible loss."""
    size, seen = parameters, tokens
    if unique is not None and unique < tokens:
        size, seen = effective_parameters(parameters, unique), effective_tokens(tokens, unique)
    by_law = [law.loss(size, seen) for law in (REFIT, CHINCHILLA)]
    slack = _CROWDING * REFIT.error
    return Figure(by_law[0], "nats/token", "predicted", REFIT.name, min(by_law) - slack, max(by_law) + slack)


def quality(
    active: float, tokens: float, flops: float, *, from_scratch: bool, text_bytes: float | None = None
) -> dict[str, Any]:
    """The model beside what its computing could buy, and the posts' tokens beside those needed, as JSON.

    `active` are the parameters that a token meets; `text_bytes` of posts are known where they lie on this machine.
    """
    available = text_bytes / _FILE_BYTES_PER_TOKEN if text_bytes else None
    laws = [(law.name, law.optimum(flops)) for law in (REFIT, CHINCHILLA)]
    laws.append(("Llama 3 (arXiv 2407.21783)", llama3_optimum(flops)))
    too_small = flops < _TOO_SMALL
    needed: dict[str, Any] = {"needed": tokens, "available": available}
    if available:
        needed |= {"passes": tokens / available, "worth": effective_tokens(tokens, available)}
        needed["source"] = "Muennighoff et al. 2023"
    found: dict[str, Any] = {
        "flops": flops,
        "tokens_per_parameter": tokens / active,
        "compute_optimal": [
            {"law": name, "parameters": size, "tokens": seen, "loss": REFIT.loss(size, seen)}
            for name, (size, seen) in laws
            if not too_small
        ],
        "tokens": needed,
        "extrapolated": not _TRAINED_ON[0] <= flops <= _TRAINED_ON[1],
    }
    if from_scratch and not too_small:
        found["loss"] = predicted_loss(active, tokens).as_json()
        if available and available < tokens:
            found["loss_with_repetition"] = predicted_loss(active, tokens, available).as_json()
    return found
