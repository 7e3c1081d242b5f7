"""Equal work for all experts without an auxiliary loss (Wang et al. 2024, arXiv 2408.15664).

A bias is added to an expert's odds where experts are chosen, and to nothing else. After each step it rises a
little for experts with fewer tokens than the mean, and falls for the others. Hugging Face's format has no place
for it, so it fades out with the learning rate: the network that is exported chooses as the one that was trained.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist

from wingspan.model.network import Balance, SparseMLP
from wingspan.train.parallel.part import Part

_SPEED = 0.001  # of the bias, per step; as in the paper


def balance_experts(part: Part, share: float, *, skipped: bool) -> None:
    """Move all biases by the tokens of a step; `share` of them counts in the next. Every rank calls this.

    The counts are whole numbers, so every layout sums them, and moves the biases, alike.
    """
    if not part.shape.experts:
        return
    balances = {int(layer): mlp.balance for layer, mlp in _mixtures(part) if mlp.balance is not None}
    tokens = torch.zeros(part.shape.layers, part.shape.experts, dtype=torch.int64, device=part.device)
    for layer, balance in balances.items():
        tokens[layer] = balance.tokens
    if part.mesh is not None:
        dist.all_reduce(tokens)
    for layer, balance in balances.items():
        if not skipped:
            balance.drift += _SPEED * (tokens[layer].sum() - tokens[layer] * part.shape.experts).sign()
        torch.mul(balance.drift, share, out=balance.bias)
        balance.tokens.zero_()


def install_balances(part: Part) -> None:
    """Give every mixture of experts its bias, 0 at first."""
    for _, mlp in _mixtures(part):
        mlp.balance = Balance(part.shape.experts).to(part.device)


def _mixtures(part: Part) -> Iterator[tuple[str, SparseMLP]]:
    """The mixtures of experts of a rank, each with the number of its layer."""
    for layer, block in part.model.model.layers.items():
        if isinstance(block.mlp, SparseMLP):
            yield layer, block.mlp
