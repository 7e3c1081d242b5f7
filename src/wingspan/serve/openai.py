"""The OpenAI form of requests, answers and errors, with wingspan's extension fields.

Extensions: `retrieval` in a request; `posts`, `citations` and `grounded` in an answer. A client that knows
none of them sees the text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from fastapi import HTTPException
from pydantic import BaseModel, Field, model_validator

from wingspan.knowledge.citations import Citation
from wingspan.knowledge.grounding import SourcePost
from wingspan.model.chat import Message
from wingspan.serve.answering import Ending

_STARTED = int(time.time())


class ApiError(HTTPException):
    """An error that the client is told in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class TextPart(BaseModel):
    """One part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """The turn as the renderer takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """POST /v1/chat/completions. What would change the answer and is not supported is refused, not ignored."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    retrieval: bool = True

    @model_validator(mode="after")
    def _user_speaks_last(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self

    @property
    def conversation(self) -> list[Message]:
        """The turns as the renderer takes them."""
        return [message.message() for message in self.messages]

    @property
    def limit(self) -> int | None:
        """Longest answer that the client asks for, tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


def completion(answer_id: str, model: str, text: str, ending: Ending, prompt_tokens: int) -> dict[str, Any]:
    """The body of a whole answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "finish_reason": ending.finish,
        "logprobs": None,
    }
    return _head(answer_id, model, "chat.completion") | {
        "choices": [choice],
        "usage": usage(prompt_tokens, ending.tokens),
    }


def chunk(answer_id: str, model: str, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """One event of a streamed answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return _head(answer_id, model, "chat.completion.chunk") | {"choices": [choice]}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens that an answer took."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def evidence(ending: Ending, posts: Sequence[SourcePost]) -> dict[str, Any]:
    """The extension fields of a finished answer."""
    texts = {post.post_id: post.text for post in posts}
    return {"citations": [_citation(one, texts) for one in ending.citations], "grounded": ending.grounded}


def _citation(citation: Citation, texts: dict[str, str]) -> dict[str, Any]:
    return {
        "number": citation.number,
        "post_id": citation.post_id,
        "text": texts.get(citation.post_id or ""),
        "claim": citation.claim,
        "supported": citation.supported,
    }


def post(one: SourcePost, number: int | None = None) -> dict[str, Any]:
    """A post as the API shows it; `number` is the one it is cited by."""
    at = None if one.created_at is None else datetime.fromtimestamp(one.created_at / 1000, UTC).isoformat()
    shown = {"post_id": one.post_id, "text": one.text, "author_id": one.author_id, "created_at": at}
    return shown if number is None else {"number": number} | shown


def models(model_id: str) -> dict[str, Any]:
    """GET /v1/models."""
    return {"object": "list", "data": [model(model_id)]}


def model(model_id: str) -> dict[str, Any]:
    """GET /v1/models/ID."""
    return {"id": model_id, "object": "model", "created": _STARTED, "owned_by": "wingspan"}


def _head(answer_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model}
