"""What runs an assistant: token ids in, text out piece by piece. Every engine is this and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 takes the likeliest; `seed` fixes every other choice.

    `stop_ids` end the answer and are not part of it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: its text, how many tokens it took, and on the last one why it ended."""

    text: str
    tokens: int
    finish: Finish | None = None


class Engine(Protocol):
    """An assistant, loaded."""

    name: str
    max_context: int  # tokens of prompt and answer together

    @property
    def healthy(self) -> bool:
        """Whether it can answer."""

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Chunk, None]:
        """The answer to `prompt` (at most `max_context` token ids, the answer included) as it grows.

        Closing the generator aborts the answer. Raises WorkError when the engine has failed.
        """

    def close(self) -> None:
        """End every answer and free the model."""
