"""The thread behind an engine: answers join and leave a batch between its steps, text goes back to asyncio."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from wingspan.engine.engine import Chunk, Finish, Sampling
from wingspan.errors import WorkError


@dataclass(frozen=True)
class Grown:
    """What one step added to one answer; the stop token is left out."""

    number: int
    token_ids: list[int]
    finish: Finish | None


class Batch(Protocol):
    """Answers that grow together. One thread calls it; `step` is called only while it is busy."""

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Let an answer join."""

    def drop(self, number: int) -> None:
        """Let an answer leave, finished or not."""

    def step(self) -> Iterable[Grown]:
        """Grow the answers by about a token each."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True)
class _Answer:
    """An answer that somebody waits for."""

    number: int
    prompt: Sequence[int]
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[Chunk | WorkError] = field(default_factory=asyncio.Queue)
    decoder: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))

    def send(self, chunk: Chunk | WorkError) -> None:
        """Hand a piece over to the waiting coroutine; a loop that is gone waits for nothing."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)


class BatchEngine:
    """An Engine on a Batch."""

    def __init__(self, name: str, batch: Batch, tokenizer: Tokenizer, max_context: int) -> None:
        self.name, self.max_context = name, max_context
        self._batch, self._tokenizer = batch, tokenizer
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[_Answer | int | None] = queue.SimpleQueue()  # join, leave, end
        self._answers: dict[int, _Answer] = {}
        self._failure: WorkError | None = None
        self._thread = threading.Thread(target=self._work, name=f"engine-{name}", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether it can answer."""
        return self._failure is None and self._thread.is_alive()

    @property
    def active(self) -> int:
        """Answers in the making."""
        return len(self._answers)

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Chunk, None]:
        """The answer to `prompt` as it grows; see Engine."""
        assert 0 < len(prompt) <= self.max_context - sampling.max_tokens
        answer = _Answer(next(self._numbers), prompt, sampling, asyncio.get_running_loop())
        self._inbox.put(answer)
        if self._failure:  # looked at after the put: a failing thread sets it before it empties the inbox
            raise self._failure
        try:
            while True:
                chunk = await answer.chunks.get()
                if isinstance(chunk, WorkError):
                    raise chunk
                yield chunk
                if chunk.finish:
                    return
        finally:
            self._inbox.put(answer.number)

    def close(self) -> None:
        """End every answer, wait for the thread, free the model."""
        self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while self._take_in():
                for grown in self._batch.step() if self._batch.busy else ():
                    self._pass_on(grown)
            self._fail(WorkError("the engine was closed", remedy="Start the server again"))
        except Exception as error:  # whatever the engine's library raised ends this engine, not the server
            self._fail(WorkError(f"the engine failed: {error}", remedy="Start the server again"))
        self._batch.close()

    def _take_in(self) -> bool:
        """Let answers join and leave; sleeps while there is nothing to do. False: the engine ends."""
        while not (self._inbox.empty() and self._batch.busy):
            message = self._inbox.get()
            if message is None:
                return False
            if isinstance(message, _Answer):
                self._answers[message.number] = message
                self._batch.add(message.number, message.prompt, message.sampling)
            elif self._answers.pop(message, None):
                self._batch.drop(message)
        return True

    def _pass_on(self, grown: Grown) -> None:
        answer = self._answers[grown.number]
        text = "".join(answer.decoder.step(self._tokenizer, token) or "" for token in grown.token_ids)
        if grown.finish:
            del self._answers[grown.number]
        answer.send(Chunk(text, len(grown.token_ids), grown.finish))

    def _fail(self, error: WorkError) -> None:
        self._failure = error
        for answer in self._answers.values():
            answer.send(error)
        while not self._inbox.empty():
            if isinstance(message := self._inbox.get(), _Answer):
                message.send(error)
