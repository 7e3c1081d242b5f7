"""Scores equal transformers', whatever else is in the batch; trees hold every sequence exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wingspan.evaluate.scorer import Request, score, token_trees
from wingspan.model.checkpoint import load

sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=20)


@given(sequences, st.integers(1, 40))
def test_trees_hold_every_sequence_once_and_share_prefixes(rows: list[list[int]], limit: int) -> None:
    seen: dict[int, list[int]] = {}
    for tree in token_trees(rows, limit):
        assert len(tree.tokens) <= max(limit, max(map(len, rows)))
        edges = [(parent, token) for parent, token in zip(tree.parents, tree.tokens, strict=True)]
        assert len(set(edges)) == len(edges), "a prefix is computed once"
        for number, path in tree.paths.items():
            assert number not in seen
            seen[number] = [tree.tokens[node] for node in path]
            assert [tree.depths[node] for node in path] == list(range(len(path)))
            assert [tree.parents[node] for node in path] == [-1, *path[:-1]]
    assert seen == dict(enumerate(rows))


def reference(folder: Path, requests: list[Request]) -> list[tuple[float, bool]]:
    """Each request alone, by transformers, in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    results = []
    for request in requests:
        ids = torch.tensor([[*request.context, *request.continuation]])
        with torch.inference_mode():
            logits = model(ids).logits[0].log_softmax(-1)
        start = len(request.context)
        predicted = logits[start - 1 : -1]
        targets = ids[0, start:]
        greedy = bool((predicted.argmax(-1) == targets).all())
        results.append((float(predicted.gather(1, targets[:, None]).sum()), greedy))
    return results


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    generator = torch.Generator().manual_seed(2)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 300, (length,), generator=generator).tolist()

    system = ids(30)
    prompts = [[*system, *ids(5 + 7 * number)] for number in range(12)]
    shared = [Request(prompt, ids(1 + number)) for prompt in prompts for number in range(4)]
    return [*shared, Request([0], ids(600)), Request([0], ids(1))]


@pytest.mark.slow
def test_scores_equal_those_of_transformers(tiny_model: Path, requests: list[Request]) -> None:
    finished: list[int] = []
    ours = score(load(tiny_model), requests, finished.append)
    for mine, (expected, greedy) in zip(ours, reference(tiny_model, requests), strict=True):
        assert mine.log_likelihood == pytest.approx(expected, abs=2e-4, rel=1e-5)
        assert mine.greedy == greedy
    assert sum(finished) == len(requests)


def test_bfloat16_scores_stay_within_rounding(tiny_model: Path, requests: list[Request]) -> None:
    exact = score(load(tiny_model), requests)
    rounded = score(load(tiny_model, torch.bfloat16), requests)
    for a, b, request in zip(exact, rounded, requests, strict=True):
        assert abs(a.log_likelihood - b.log_likelihood) < 0.05 * len(request.continuation)


def test_what_greedy_decoding_would_say_is_recognised(tiny_model: Path) -> None:
    network = load(tiny_model)
    context = [5, 6, 7]
    for _ in range(4):
        choices = score(network, [Request(context, [token]) for token in range(network.shape.vocab)])
        best = max(range(len(choices)), key=lambda token: choices[token].log_likelihood)
        assert [token for token, one in enumerate(choices) if one.greedy] == [best]
        context = [*context, best]
    assert score(network, [Request(context[:3], context[3:])])[0].greedy


def test_an_empty_continuation_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="continuation"):
        score(load(tiny_model), [Request([1], [])])
