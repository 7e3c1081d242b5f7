"""What is learned from answers that people preferred or that a check scored: one loss each, with its source.

Rows hold several answers; a pair is two in a row, the preferred one first. All tensors are (rows, answers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from wingspan.project import Preference, Rollouts

Objective = Callable[["Answers"], Tensor]  # to the sum of the losses of pairs, or of answers


@dataclass(frozen=True)
class Answers:
    """log p(answer | question), tokens of the answer (0: no answer is there), its label, its reference log p.

    The label is 1 for a preferred answer and -1 for a refused one, or the answer's reward.
    """

    log_prob: Tensor
    tokens: Tensor
    label: Tensor
    reference: Tensor

    @property
    def there(self) -> Tensor:
        """1 where there is an answer, 0 elsewhere."""
        return (self.tokens > 0).float()

    @property
    def per_token(self) -> Tensor:
        """Mean log-probability of a token."""
        return self.log_prob / self.tokens.clamp(min=1)

    def pairs(self, value: Tensor) -> Tensor:
        """What the preferred answer of each pair has more than the other, (rows, pairs)."""
        return value[:, 0::2] - value[:, 1::2]

    def over_reference(self, normalised: bool) -> Tensor:
        """log p - log p of the reference, per token where `normalised`."""
        ratio = self.log_prob - self.reference
        return ratio / self.tokens.clamp(min=1) if normalised else ratio


def dpo(answers: Answers, beta: float, normalised: bool) -> Tensor:
    """-log sigmoid(beta (h+ - h-)), h = log p - log p of the reference (Rafailov et al. 2023, eq. 7).

    `normalised` divides each h by its answer's tokens (as Tulu 3, Lambert et al. 2024, section 5).
    """
    return _sum(answers, -F.logsigmoid(beta * answers.pairs(answers.over_reference(normalised))))


def ipo(answers: Answers, beta: float, normalised: bool) -> Tensor:
    """((h+ - h-) - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17)."""
    return _sum(answers, (answers.pairs(answers.over_reference(normalised)) - 1 / (2 * beta)) ** 2)


def simpo(answers: Answers, beta: float, normalised: bool) -> Tensor:
    """-log sigmoid(beta (mean log p+ - mean log p-) - gamma), gamma = beta / 2, no reference (Meng et al. 2024)."""
    return _sum(answers, -F.logsigmoid(beta * answers.pairs(answers.per_token) - beta / 2))


def orpo(answers: Answers, beta: float, normalised: bool) -> Tensor:
    """Cross-entropy of the preferred answer - beta log sigmoid(log odds ratio), no reference (Hong et al. 2024)."""
    mean = answers.per_token.clamp(max=-1e-6)
    odds = mean - (-mean.expm1()).log()  # log p / (1 - p)
    return _sum(answers, -answers.per_token[:, 0::2] - beta * F.logsigmoid(answers.pairs(odds)))


def kto(answers: Answers, beta: float, normalised: bool) -> Tensor:
    """1 - sigmoid(+-beta (h - z)) of single answers, z = max(0, mean h) (Ethayarajh et al. 2024, eq. 8).

    z, which carries no gradient, is of the answers packed into the same row, so that no layout changes it.
    """
    ratio, there = answers.over_reference(normalised), answers.there
    mean = (ratio * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    return ((1 - (answers.label * beta * (ratio - mean.detach().clamp(min=0))).sigmoid()) * there).sum()


def grpo(answers: Answers, longest: int) -> Tensor:
    """Policy gradient with the reward's lead over the row's mean; reads as minus the reward (Shao et al. 2024).

    As Liu et al. 2025 (Dr. GRPO): not divided by the deviation of rewards nor by an answer's own length, which
    favour easy questions and long wrong answers. One update per rollout: the ratio of policies is 1, so that
    nothing is clipped, and no reference holds the policy back.
    """
    there = answers.there
    mean = (answers.label * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    lead = (answers.label - mean) * there
    surrogate = -(lead * answers.log_prob).sum() / longest
    return surrogate - surrogate.detach() - (answers.label * there).sum()


_PREFERENCES: dict[str, tuple[Callable[[Answers, float, bool], Tensor], float]] = {  # and the papers' beta
    "dpo": (dpo, 0.1), "ipo": (ipo, 0.1), "kto": (kto, 0.1), "orpo": (orpo, 0.1), "simpo": (simpo, 2.0),
}  # fmt: skip
WITH_REFERENCE = frozenset({"dpo", "ipo", "kto"})


def preference_objective(method: str, settings: Preference) -> Objective:
    """The loss of that name with the project's settings."""
    loss, usual = _PREFERENCES[method]
    beta, normalised = settings.beta or usual, settings.length_normalised
    return lambda answers: loss(answers, beta, normalised)


def reward_objective(settings: Rollouts) -> Objective:
    """GRPO's loss with the project's settings."""
    return partial(grpo, longest=settings.answer_tokens)


def _sum(answers: Answers, losses: Tensor) -> Tensor:
    return (losses * answers.there[:, 0::2]).sum()
