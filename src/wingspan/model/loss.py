"""Cross-entropy of a linear head without ever holding the logits of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

IGNORED = -100  # the target of a token that is not to be predicted

_LOGITS_PER_CHUNK = 1 << 26  # 256 MiB in float32


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, group: ProcessGroup | None = None, z_loss: float = 0.0
) -> Tensor:
    """Sum over tokens of -log softmax(hidden @ weight')[target], float32; targets of -100 count nothing.

    hidden (tokens, H), weight (V, H) in any precision, targets (tokens,). With `group`, each rank holds
    an equal slice of the vocabulary in `weight` (as torch.chunk cuts it), and the gradient of `hidden`
    is this rank's summand. Gradients are made in the forward pass, chunk by chunk, so that the logits
    are computed once and freed at once. `z_loss` times log(sum of exp(logits))^2 (Chowdhery et al. 2022) enters the
    gradients alone, so that the loss stays comparable.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, group, z_loss)  # type: ignore[no-untyped-call]
    return loss


def linear_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """log softmax(hidden @ weight')[target] of each token, (tokens,) float32, 0 where the target is -100.

    As linear_cross_entropy, for losses that weigh tokens by what comes of their sum: the logits are computed
    again in the backward pass.
    """
    found: Tensor = _LinearLogProbs.apply(hidden, weight, targets, group)  # type: ignore[no-untyped-call]
    return found


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.group = group
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        for rows in _chunks(len(targets), weight):
            column, here, valid = _columns(targets[rows], weight, group)
            picked, total, _ = _exponentials((hidden[rows] @ weight.to(hidden.dtype).T).float(), column, here, group)
            found[rows] = (picked - total.log()) * valid
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        matrix = weight.to(hidden.dtype)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for rows in _chunks(len(targets), weight):
            column, here, valid = _columns(targets[rows], weight, ctx.group)
            logits = (hidden[rows] @ matrix.T).float()
            _, total, _ = _exponentials(logits, column, here, ctx.group)
            scale = gradients[0][rows] * valid
            logits.mul_(-(scale / total)[:, None]).scatter_add_(1, column, (here * scale)[:, None])
            gradient = logits.to(hidden.dtype)
            torch.mm(gradient, matrix, out=hidden_gradient[rows])
            weight_gradient += gradient.T @ hidden[rows]
        return hidden_gradient, weight_gradient.to(weight.dtype), None, None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, group: ProcessGroup | None, z_loss: float
    ) -> Tensor:
        matrix = weight.to(hidden.dtype)
        wanted = any(ctx.needs_input_grad[:2])
        hidden_gradient = torch.empty_like(hidden) if wanted else None
        weight_gradient: Tensor | None = None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for rows in _chunks(len(targets), weight):
            chunk = hidden[rows]
            column, here, valid = _columns(targets[rows], weight, group)
            logits = (chunk @ matrix.T).float()
            picked, total, largest = _exponentials(logits, column, here, group)
            loss += ((total.log() - picked) * valid).sum()
            if hidden_gradient is not None:
                odds = valid / total * (1 + 2 * z_loss * (largest + total.log()))
                gradient = _add_at(logits.mul_(odds[:, None]), column, -(here * valid)[:, None])
                gradient = gradient.to(hidden.dtype)
                torch.mm(gradient, matrix, out=hidden_gradient[rows])
                part = (gradient.T @ chunk).float()
                weight_gradient = part if weight_gradient is None else weight_gradient.add_(part)
                del logits, gradient, part  # or they would lie beside those of the next chunk
        if wanted and weight_gradient is None:
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.weight_dtype, ctx.scaled = weight.dtype, False
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        if not ctx.scaled:  # in place; a zero-bubble pipeline asks twice, for the input first and then for the weight
            hidden_gradient.data.mul_(gradients[0])
            weight_gradient.data.mul_(gradients[0])
            ctx.scaled = True
        return hidden_gradient, weight_gradient.to(ctx.weight_dtype), None, None, None


def _add_at(numbers: Tensor, column: Tensor, amount: Tensor) -> Tensor:
    """Each row's `numbers` with `amount` (rows, 1) added at `column` (rows, 1)."""
    if torch.compiler.is_compiling():  # a comparison is fused with what is around it, scattered writes are not
        columns = torch.arange(numbers.shape[1], device=numbers.device)
        return torch.where(columns == column, numbers + amount, numbers)
    return numbers.scatter_add_(1, column, amount)


def _chunks(tokens: int, weight: Tensor) -> Iterator[slice]:
    """The tokens in slices whose logits fit into a chunk."""
    rows = max(1, _LOGITS_PER_CHUNK // weight.shape[0])
    return (slice(begin, begin + rows) for begin in range(0, tokens, rows))


def _columns(targets: Tensor, weight: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
    """Each target's column (tokens, 1) in this rank's slice, whether it lies there, whether it counts: 1 or 0."""
    vocabulary = weight.shape[0]
    column = targets - _first_token(vocabulary, group, weight.device)
    here = ((column >= 0) & (column < vocabulary)).float()
    return column.clamp(0, vocabulary - 1)[:, None], here, (targets != IGNORED).float()


def _first_token(vocabulary: int, group: ProcessGroup | None, device: torch.device) -> int | Tensor:
    """The first token of this rank's slice: the sum of the slices before it."""
    if group is None:
        return 0
    sizes = torch.zeros(group.size(), dtype=torch.int64, device=device)
    sizes[group.rank()] = vocabulary
    dist.all_reduce(sizes, group=group)
    return sizes[: group.rank()].sum()


def _exponentials(
    logits: Tensor, column: Tensor, here: Tensor, group: ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Write exp(logits - largest) over the logits; the target's logit less the largest, the sum, the largest."""
    largest = logits.amax(-1)
    if group is not None:
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    logits.sub_(largest[:, None])
    picked = logits.gather(1, column)[:, 0] * here
    total = logits.exp_().sum(-1)
    if group is not None:
        dist.all_reduce(picked, group=group)
        dist.all_reduce(total, group=group)
    return picked, total, largest
