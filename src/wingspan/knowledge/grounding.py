"""How posts come before the assistant: numbered, in a role of their own, as data and never as orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wingspan.model.chat import Message

NO_SUPPORT = "The posts I was given do not answer that."


@dataclass(frozen=True)
class SourcePost:
    """A post that an answer may cite; `created_at` in milliseconds since 1970, None when unknown."""

    post_id: str
    text: str
    author_id: str | None = None
    created_at: int | None = None


def posts_message(posts: Sequence[SourcePost]) -> Message:
    """The posts as one message: `[1] text`, one line each, numbered from 1."""
    lines = [f"[{number}] {' '.join(post.text.split())}" for number, post in enumerate(posts, start=1)]
    return {"role": "posts", "content": "\n".join(lines) or "(no posts found)"}


def grounded_messages(system: str, question: str, posts: Sequence[SourcePost]) -> list[Message]:
    """The conversation that asks `question` with `posts` as its sources; the assistant speaks next."""
    return [
        {"role": "system", "content": system},
        posts_message(posts),
        {"role": "user", "content": question},
    ]
