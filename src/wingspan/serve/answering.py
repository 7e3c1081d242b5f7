"""How the assistant answers: search posts, put them before the model, stream its words, check its citations."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from wingspan.engine.engine import Engine, Finish, Sampling
from wingspan.knowledge.citations import Citation, CitationMender, check_citations
from wingspan.knowledge.grounding import SourcePost, posts_message
from wingspan.knowledge.index import PostIndex
from wingspan.model.chat import ChatRenderer, Message

_SHORTEST_CIRCLE, _LONGEST_CIRCLE = 20, 200  # characters
_CITATION = re.compile(r"\s?\[\d{1,2}\]")


@dataclass(frozen=True)
class Assistant:
    """Everything an answer needs, loaded once."""

    model_id: str
    name: str
    system: str
    engine: Engine
    renderer: ChatRenderer
    index: PostIndex
    retrieved_posts: int
    remembered_turns: int
    max_tokens: int

    def search(self, messages: Sequence[Message]) -> list[SourcePost]:
        """Posts for the last question; a question too bare to search with leans on the one before it."""
        questions = [message["content"] for message in messages if message["role"] == "user"]
        for asked in (questions[-1:], questions[-2:]):
            if posts := self.index.search(" ".join(asked), self.retrieved_posts):
                return posts
        return []

    def prompt(self, messages: Sequence[Message], posts: Sequence[SourcePost] | None) -> list[int]:
        """Token ids of the conversation's last turns; `posts` come right before the last, None leaves them out.

        The assistant's own rules come first, a caller's system messages after them. Citations of earlier
        answers are dropped: their numbers meant other posts.
        """
        rules = [self.system, *(message["content"] for message in messages if message["role"] == "system")]
        turns = [_without_citations(message) for message in messages if message["role"] != "system"]
        sources = [] if posts is None else [posts_message(posts)]
        system: Message = {"role": "system", "content": "\n\n".join(rules)}
        earlier = turns[:-1][-self.remembered_turns :] if self.remembered_turns else []
        return self.renderer.prompt([system, *earlier, *sources, turns[-1]])


@dataclass(frozen=True)
class Ending:
    """What is known when an answer is complete. `grounded`: at least one citation stands on its post."""

    finish: Finish
    tokens: int
    citations: list[Citation]
    grounded: bool


async def answer(
    assistant: Assistant,
    prompt: Sequence[int],
    posts: Sequence[SourcePost],
    sampling: Sampling,
    stops: Sequence[str] = (),
) -> AsyncGenerator[str | Ending, None]:
    """The answer's text, piece by piece, then its Ending. Closing the generator aborts the engine's work."""
    sampling = replace(sampling, stop_ids=sampling.stop_ids | {assistant.renderer.stop_id})
    said, tokens = "", 0
    finish: Finish = "length"
    cut, mender = StopText(stops), CitationMender(posts)
    async with aclosing(assistant.engine.stream(prompt, sampling)) as chunks:
        async for chunk in chunks:
            tokens += chunk.tokens
            text = mender.take(cut.take(chunk.text) + (cut.rest() if chunk.finish else ""))
            ended = cut.found or repeats(said + text)
            finish = "stop" if ended else chunk.finish or finish
            text += mender.rest() if ended or chunk.finish else ""
            said += text
            if text:
                yield text
            if ended:
                break
    citations = check_citations(said, posts)
    yield Ending(finish, tokens, citations, any(citation.supported for citation in citations))


def repeats(text: str) -> bool:
    """Whether a text ends with the same 20 to 200 characters three times over.

    Small models taking the likeliest words fall into such circles and do not come out. Penalties on repeated
    tokens would prevent them, but also the quoting of posts.
    """
    periods = range(_SHORTEST_CIRCLE, min(_LONGEST_CIRCLE, len(text) // 3) + 1)
    return any(text.endswith(text[-period:] * 3) for period in periods)


class StopText:
    """Cuts a stream of text at the first of several stop strings, whichever pieces they come in."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def take(self, text: str) -> str:
        """The text that is safe to show now; what may yet become a stop string is held back."""
        if self.found:
            return ""
        text = self._held + text
        ends = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back for nothing, at the end of the stream."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` starts with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def _without_citations(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    return {"role": "assistant", "content": _CITATION.sub("", message["content"])}
