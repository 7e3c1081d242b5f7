"""Log-likelihoods of continuations, with every shared prefix computed once.

The choices of a question share its prompt, and all questions share the system prompt. Requests are sorted,
and each forward pass holds one tree of tokens: a token attends to its ancestors only and has its depth as
its position, which gives every request the same numbers as if it were alone in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wingspan.model.network import Decoder, rotary_table

_TOKENS_PER_PASS = 512  # enough rows for full speed; the attention of a pass costs their square


@dataclass(frozen=True)
class Request:
    """How likely is `continuation` after `context`? Token ids, at least one each."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Likelihood:
    """Natural log-likelihood of a continuation, and whether greedy decoding would have said it."""

    log_likelihood: float
    greedy: bool


@dataclass(frozen=True)
class TokenTree:
    """Token sequences with their common prefixes merged: node i has a token, a parent (-1: none), a depth.

    `paths[number]` are the nodes of request `number`, root first.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    paths: dict[int, list[int]]


def token_trees(sequences: Sequence[Sequence[int]], limit: int) -> Iterator[TokenTree]:
    """Trees over all sequences with at most `limit` nodes each (more only for a longer single sequence)."""
    order = sorted(range(len(sequences)), key=lambda number: list(sequences[number]))
    tree = TokenTree([], [], [], {})
    previous: Sequence[int] = ()
    path: list[int] = []
    for number in order:
        sequence = sequences[number]
        shared = _common_prefix(previous, sequence)
        if tree.paths and len(tree.tokens) + len(sequence) - shared > limit:
            yield tree
            tree, path, shared = TokenTree([], [], [], {}), [], 0
        path = path[:shared]
        for token in sequence[shared:]:
            tree.parents.append(path[-1] if path else -1)
            tree.depths.append(len(path))
            path.append(len(tree.tokens))
            tree.tokens.append(token)
        tree.paths[number] = path
        previous = sequence
    if tree.paths:
        yield tree


def score(
    network: Decoder, requests: Sequence[Request], scored: Callable[[int], None] = lambda count: None
) -> list[Likelihood]:
    """The likelihood of every request, in their order; `scored` hears how many each pass finished.

    Raises ValueError for an empty context or continuation.
    """
    if not all(request.context and request.continuation for request in requests):
        raise ValueError("a request needs a context and a continuation")
    fed = [[*request.context, *request.continuation][:-1] for request in requests]  # the last is only predicted
    results: dict[int, Likelihood] = {}
    for tree in token_trees(fed, _TOKENS_PER_PASS):
        results |= _score_tree(network, tree, requests)
        scored(len(tree.paths))
    return [results[number] for number in range(len(requests))]


@torch.inference_mode()
def _score_tree(network: Decoder, tree: TokenTree, requests: Sequence[Request]) -> dict[int, Likelihood]:
    """One forward pass; the head works only on nodes that predict a token of some continuation."""
    asked = {number: path[-len(requests[number].continuation) :] for number, path in tree.paths.items()}
    nodes = sorted({node for path in asked.values() for node in path})
    row = {node: position for position, node in enumerate(nodes)}
    log_probabilities = network.logits(_hidden(network, tree)[0, nodes]).float().log_softmax(-1).cpu()
    best = log_probabilities.argmax(-1)
    results = {}
    for number, path in asked.items():
        rows = torch.tensor([row[node] for node in path])
        targets = torch.tensor(requests[number].continuation)
        results[number] = Likelihood(float(log_probabilities[rows, targets].sum()), bool((best[rows] == targets).all()))
    return results


def _hidden(network: Decoder, tree: TokenTree) -> Tensor:
    """Last hidden states (1, nodes, H) of a tree."""
    trunk = network.model
    assert trunk.embed_tokens is not None, "scoring needs the whole network"
    assert trunk.norm is not None, "scoring needs the whole network"
    device = network.head_weight.device
    hidden = trunk.embed_tokens(torch.tensor([tree.tokens], device=device))
    hidden = hidden.to(network.compute or hidden.dtype)
    depths = torch.tensor([tree.depths], device=device)
    rotary = rotary_table(depths, network.shape, hidden.dtype)
    mask = _ancestors(tree, hidden.dtype).to(device)
    for block in trunk.layers.values():
        hidden = block(hidden, rotary, mask)
    normed: Tensor = trunk.norm(hidden)
    return normed


def _ancestors(tree: TokenTree, dtype: torch.dtype) -> Tensor:
    """(1, 1, nodes, nodes): 0 where the column is the row's node or an ancestor of it, -inf elsewhere."""
    seen = torch.eye(len(tree.tokens), dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return torch.zeros((), dtype=dtype).masked_fill(~seen, float("-inf"))[None, None]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length
