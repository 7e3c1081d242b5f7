"""The reference engine: wingspan's own network with a key-value cache, on any device torch knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from wingspan.engine.engine import Finish, Sampling
from wingspan.engine.sampling import next_tokens
from wingspan.engine.worker import BatchEngine, Grown
from wingspan.model.attention import KeyValueCache
from wingspan.model.checkpoint import load
from wingspan.model.network import Decoder

_PADDING = -1  # the document number that nothing attends to


@torch.inference_mode()
def generate(model: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
    """Answers to many prompts at once, as token ids without the stop token.

    Prompts are padded on the left, so all answers grow in step; finished ones leave the batch.
    """
    rows, longest = len(prompts), max(map(len, prompts))
    cache = _cache(model, rows, longest + sampling.max_tokens)
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    tokens = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    positions = (torch.arange(longest) - padding[:, None]).clamp(min=0)
    documents = torch.where(torch.arange(longest) < padding[:, None], _PADDING, 0)
    answers: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(rows)
    random = torch.Generator(cache.keys.device).manual_seed(sampling.seed)
    for _ in range(sampling.max_tokens):
        device = cache.keys.device
        hidden = model(tokens.to(device), positions.to(device), documents.to(device), cache=cache)
        chosen = next_tokens(model.logits(hidden[:, -1]), sampling, random).cpu()
        kept = torch.tensor([token not in sampling.stop_ids for token in chosen.tolist()])
        if not kept.all():
            cache.keep_rows(kept.nonzero()[:, 0].to(device))
            alive, chosen, positions = alive[kept], chosen[kept], positions[kept]
        if not len(alive):
            break
        for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            answers[row].append(token)
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        documents = torch.zeros_like(tokens)
    return answers


def torch_engine(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> BatchEngine:
    """The engine of a Hugging Face folder that wingspan's network can run."""
    model = load(folder, dtype)
    return BatchEngine("torch", _TorchBatch(model), tokenizer, model.shape.max_positions)


@dataclass
class _Answer:
    sampling: Sampling
    cache: KeyValueCache
    random: torch.Generator
    tokens: list[int]  # to feed next
    fed: int = 0
    grown: int = 0


class _TorchBatch:
    """Answers that take turns, one token each: plain, and the same whatever else is being answered."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._answers: dict[int, _Answer] = {}

    @property
    def busy(self) -> bool:
        return bool(self._answers)

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        cache = _cache(self._model, 1, len(prompt) + sampling.max_tokens)
        random = torch.Generator(cache.keys.device).manual_seed(sampling.seed)
        self._answers[number] = _Answer(sampling, cache, random, list(prompt))

    def drop(self, number: int) -> None:
        self._answers.pop(number, None)

    def step(self) -> list[Grown]:
        return [self._grow(number, answer) for number, answer in list(self._answers.items())]

    def close(self) -> None:
        self._answers.clear()

    @torch.inference_mode()
    def _grow(self, number: int, answer: _Answer) -> Grown:
        device = answer.cache.keys.device
        tokens = torch.tensor([answer.tokens], device=device)
        positions = torch.arange(answer.fed, answer.fed + len(answer.tokens), device=device)[None]
        hidden = self._model(tokens, positions, torch.zeros_like(tokens), cache=answer.cache)
        token = int(next_tokens(self._model.logits(hidden[:, -1]), answer.sampling, answer.random))
        answer.fed += len(answer.tokens)
        answer.tokens = [token]
        answer.grown += 1
        stopped = token in answer.sampling.stop_ids
        finish: Finish | None = "stop" if stopped else "length" if answer.grown == answer.sampling.max_tokens else None
        if finish:
            del self._answers[number]
        return Grown(number, [] if stopped else [token], finish)


def _cache(model: Decoder, rows: int, slots: int) -> KeyValueCache:
    weight = model.head_weight
    return KeyValueCache(model.shape, rows, slots, model.compute or weight.dtype, weight.device)
