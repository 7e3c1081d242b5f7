"""The next token from a model's scores: the likeliest, or one drawn from the most probable."""

from __future__ import annotations

import torch
from torch import Tensor

from wingspan.engine.engine import Sampling


def next_tokens(logits: Tensor, sampling: Sampling, random: torch.Generator) -> Tensor:
    """Token ids (B,) from scores (B, V).

    Temperature divides the scores; `top_p` keeps the smallest set of tokens whose probability reaches it
    (nucleus sampling, Holtzman et al. 2020).
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities, order = (logits.float() / sampling.temperature).softmax(-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    nucleus = probabilities.masked_fill(before >= sampling.top_p, 0)
    drawn = torch.multinomial(nucleus, 1, generator=random)
    return order.gather(-1, drawn)[:, 0]
