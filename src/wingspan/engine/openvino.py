"""The engine for processors: openvino-genai on a GGUF file, with continuous batching and a prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino_genai import (
    ContinuousBatchingPipeline,
    GenerationConfig,
    GenerationFinishReason,
    GenerationStatus,
    SchedulerConfig,
)
from tokenizers import Tokenizer

from wingspan.engine.engine import Finish, Sampling
from wingspan.engine.worker import BatchEngine, Grown
from wingspan.errors import WorkError
from wingspan.model.shape import ModelShape
from wingspan.units import GIB

_CACHE_GIB = 1  # keys and values of all answers together


def openvino_engine(file: Path, shape: ModelShape, tokenizer: Tokenizer) -> BatchEngine:
    """The engine of a GGUF file; raises WorkError when openvino-genai cannot read it."""
    scheduler = SchedulerConfig()
    scheduler.cache_size = _CACHE_GIB
    scheduler.enable_prefix_caching = True
    try:
        pipeline = ContinuousBatchingPipeline(file, scheduler, "CPU")
    except RuntimeError as error:
        raise WorkError(
            f"openvino-genai cannot load the model: {str(error).strip().splitlines()[-1]}",
            where=file,
            remedy="Delete the file and start again, or set serve.engine = 'torch'",
        ) from error
    token_bytes = 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim  # keys and values, at most 2 bytes each
    max_context = min(shape.max_positions, _CACHE_GIB * GIB // token_bytes)
    return BatchEngine("openvino", _OpenVinoBatch(pipeline), tokenizer, max_context)


class _OpenVinoBatch:
    """Answers in openvino-genai's scheduler, which batches them token by token."""

    def __init__(self, pipeline: ContinuousBatchingPipeline) -> None:
        self._pipeline = pipeline
        self._handles: dict[int, Any] = {}
        self._stops: dict[int, frozenset[int]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._handles) or bool(self._pipeline.has_non_finished_requests())

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        self._handles[number] = self._pipeline.add_request(number, ids, _config(sampling))
        self._stops[number] = sampling.stop_ids

    def drop(self, number: int) -> None:
        if handle := self._handles.pop(number, None):
            handle.cancel()
            del self._stops[number]

    def step(self) -> list[Grown]:
        self._pipeline.step()
        return [grown for number in list(self._handles) if (grown := self._read(number))]

    def close(self) -> None:
        self._handles.clear()
        self._stops.clear()
        del self._pipeline

    def _read(self, number: int) -> Grown | None:
        handle, stops = self._handles[number], self._stops[number]
        token_ids: list[int] = []
        finish: Finish | None = None
        while handle.can_read():
            for output in handle.read().values():
                token_ids += [token for token in output.generated_ids if token not in stops]
                finish = _FINISHES.get(output.finish_reason)
        if handle.get_status() == GenerationStatus.IGNORED:  # the scheduler found no room for it
            finish = "length"
        if finish:
            del self._handles[number], self._stops[number]
        return Grown(number, token_ids, finish) if token_ids or finish else None


_FINISHES: dict[GenerationFinishReason, Finish] = {
    GenerationFinishReason.STOP: "stop",
    GenerationFinishReason.LENGTH: "length",
}


def _config(sampling: Sampling) -> GenerationConfig:
    random = {"temperature": sampling.temperature, "top_p": sampling.top_p, "rng_seed": sampling.seed}
    return GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        stop_token_ids=set(sampling.stop_ids),
        do_sample=sampling.temperature > 0,
        **(random if sampling.temperature > 0 else {}),
    )
