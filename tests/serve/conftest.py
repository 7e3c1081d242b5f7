"""A server with real posts, a real index, real HTTP; only the model's words are scripted."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from wingspan.engine.engine import Chunk, Sampling
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.index import PostIndex
from wingspan.model.chat import SPECIAL_TOKENS, ChatRenderer
from wingspan.project import Serve
from wingspan.serve.answering import Assistant
from wingspan.serve.app import create_app
from wingspan.serve.topics import topics

POSTS = [
    SourcePost("101", "Rain all day in Lisbon, the harbour market closed early.", "ana", 1_700_000_000_000),
    SourcePost("102", "The harbour market in Lisbon has the best sardines.", "rui"),
    SourcePost("103", "My kitten slept through the storm."),
    SourcePost("at://did:plc:x/post/3k", "I watched the storm from the harbour in Lisbon.", "ana"),
    SourcePost("105", "<img src=x onerror=alert(1)> **bold** harbour & <script>alert(2)</script>"),
    SourcePost("106", "we all like Lisbon"),
]


class ScriptedEngine:
    """Says what it is told to, a word at a time; remembers what it was asked and what was aborted."""

    name, max_context, healthy = "scripted", 2048, True

    def __init__(self) -> None:
        self.script = "The harbour market in Lisbon closed early [1]."
        self.pause = 0.0  # seconds between words
        self.prompts: list[list[int]] = []
        self.samplings: list[Sampling] = []
        self.finished, self.aborted = 0, threading.Event()

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Chunk, None]:
        self.prompts.append(list(prompt))
        self.samplings.append(sampling)
        words = self.script.split(" ")[: sampling.max_tokens]
        try:
            for position, word in enumerate(words):
                await asyncio.sleep(self.pause)
                last = position == len(words) - 1
                finish = None if not last else "stop" if len(words) == len(self.script.split(" ")) else "length"
                yield Chunk(word if position == 0 else f" {word}", 1, finish)
            self.finished += 1
        finally:
            if not self.finished:
                self.aborted.set()

    def close(self) -> None:
        pass


def wait_until(true: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@dataclass
class Server:
    url: str
    engine: ScriptedEngine
    assistant: Assistant
    tokenizer: Tokenizer = field(repr=False)
    posts: Sequence[SourcePost] = tuple(POSTS)

    def wait_until(self, true: Callable[[], bool], seconds: float = 5) -> None:
        wait_until(true, seconds)


@pytest.fixture
def byte_tokenizer() -> Tokenizer:
    """A token for every byte, one merge, and the special tokens."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


@pytest.fixture
def assistant(byte_tokenizer: Tokenizer) -> Iterator[Assistant]:
    index = PostIndex()
    index.add(POSTS)
    yield Assistant(
        model_id="harbour",
        name="Robin",
        system="Answer from the posts.",
        engine=ScriptedEngine(),
        renderer=ChatRenderer(byte_tokenizer),
        index=index,
        retrieved_posts=3,
        remembered_turns=6,
        max_tokens=64,
    )
    index.close()


@contextmanager
def serving(assistant: Assistant, tokenizer: Tokenizer, settings: Serve, **options: Any) -> Iterator[Server]:
    about = topics([post.text for post in POSTS], 8)
    app = create_app(assistant, settings, topics=about, hosts=["127.0.0.1", "localhost"], **options)
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: running.started)
    yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", assistant.engine, assistant, tokenizer)
    running.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def server(assistant: Assistant, byte_tokenizer: Tokenizer) -> Iterator[Server]:
    with serving(assistant, byte_tokenizer, Serve()) as started:
        yield started
