"""The gateway: an OpenAI-compatible API over the assistant, search over posts, and the chat page."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from wingspan.engine.engine import Sampling
from wingspan.errors import WorkError
from wingspan.knowledge.grounding import SourcePost
from wingspan.project import Serve
from wingspan.serve import openai
from wingspan.serve.access import Access, Admission
from wingspan.serve.answering import Assistant, Ending, answer
from wingspan.serve.feedback import Feedback, FeedbackLog
from wingspan.serve.guard import BodyLimit, OwnHosts, SecurityHeaders
from wingspan.serve.keys import Key, Keys
from wingspan.serve.metrics import CountRequests, Metrics
from wingspan.serve.openai import ApiError, ChatRequest

_WEB = Path(__file__).parent / "web"
_BODY_LIMIT = 1 << 20  # bytes; a context of 8,192 tokens is some 40 KiB of text
_SEARCH_LIMIT = 50

T = TypeVar("T")


@dataclass(frozen=True)
class _Gateway:
    """What every route needs."""

    assistant: Assistant
    access: Access
    admission: Admission
    metrics: Metrics
    feedback: FeedbackLog | None


def create_app(
    assistant: Assistant,
    settings: Serve,
    *,
    topics: Sequence[str] = (),
    hosts: Sequence[str] = ("*",),
    keys: Keys | None = None,
    feedback: FeedbackLog | None = None,
) -> FastAPI:
    """The application.

    `hosts` are the Host headers it answers to, which is what stops DNS rebinding; without `keys` none is asked for,
    without `feedback` none is taken.
    """
    admission = Admission(settings.concurrent_answers, settings.waiting_answers)
    gateway = _Gateway(assistant, Access(keys), admission, Metrics(admission, feedback), feedback)
    app = FastAPI(title="wingspan", docs_url=None, redoc_url=None)
    app.add_middleware(CountRequests, metrics=gateway.metrics)
    app.add_middleware(BodyLimit, limit=_BODY_LIMIT)
    app.add_middleware(OwnHosts, hosts=frozenset(hosts))
    app.add_middleware(SecurityHeaders)
    _answer_errors_in_openai_form(app)
    _add_health(app, gateway)
    _add_models(app, gateway)
    _add_chat(app, gateway)
    _add_posts(app, gateway)
    _add_feedback(app, gateway)
    _add_page(app, gateway, topics)
    return app


def _add_health(app: FastAPI, gateway: _Gateway) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        ready = gateway.assistant.engine.healthy
        return JSONResponse({"status": "ready" if ready else "failed"}, 200 if ready else 503)

    @app.get("/metrics", dependencies=[Depends(gateway.access.needs("metrics"))])
    async def metrics() -> Response:
        return Response(gateway.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _add_models(app: FastAPI, gateway: _Gateway) -> None:
    known = [Depends(gateway.access.needs())]

    @app.get("/v1/models", dependencies=known)
    async def models() -> dict[str, Any]:
        return openai.models(gateway.assistant.model_id)

    @app.get("/v1/models/{name}", dependencies=known)
    async def model(name: str) -> dict[str, Any]:
        _check_model(gateway.assistant, name)
        return openai.model(name)


def _add_posts(app: FastAPI, gateway: _Gateway) -> None:
    index, may_search = gateway.assistant.index, [Depends(gateway.access.needs("search"))]

    @app.get("/v1/search", dependencies=may_search)
    def search(q: str = Query(max_length=2000), limit: int = Query(10, ge=1, le=_SEARCH_LIMIT)) -> dict[str, Any]:
        return {"object": "list", "data": [openai.post(one) for one in index.search(q, limit)]}

    @app.get("/v1/posts/{post_id:path}", dependencies=may_search)
    def post(post_id: str) -> dict[str, Any]:
        if (found := index.get(post_id)) is None:
            raise ApiError(404, f"there is no post '{post_id}'", param="post_id", code="post_not_found")
        return openai.post(found)


def _add_feedback(app: FastAPI, gateway: _Gateway) -> None:
    may_chat = Depends(gateway.access.needs("chat"))

    @app.post("/v1/feedback", status_code=201)
    def judge(said: Feedback, key: Key | None = may_chat) -> dict[str, bool]:
        """Keep what somebody says of an answer, for the next round of alignment."""
        if gateway.feedback is None:
            raise ApiError(404, "this server takes no feedback")
        gateway.feedback.add(said, key.name if key else None)
        return {"kept": True}


def _add_page(app: FastAPI, gateway: _Gateway, topics: Sequence[str]) -> None:
    assistant = gateway.assistant

    @app.get("/v1/assistant", dependencies=[Depends(gateway.access.needs())])
    def about() -> dict[str, Any]:
        """What the chat page opens with."""
        return {
            "name": assistant.name,
            "model": assistant.model_id,
            "posts": len(assistant.index),
            "topics": list(topics),
            "feedback": gateway.feedback is not None,
        }

    @app.get("/", include_in_schema=False)
    async def chat_page() -> FileResponse:
        return FileResponse(_WEB / "index.html")

    @app.get("/posts/{post_id:path}", include_in_schema=False)
    async def post_page(post_id: str) -> FileResponse:
        return FileResponse(_WEB / "post.html")

    app.mount("/web", StaticFiles(directory=_WEB))


def _add_chat(app: FastAPI, gateway: _Gateway) -> None:
    assistant, may_chat = gateway.assistant, Depends(gateway.access.needs("chat"))

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request, key: Key | None = may_chat) -> Response:
        _check_model(assistant, asked.model)
        posts, prompt = await asyncio.to_thread(_grounded, assistant, asked)
        pieces = answer(assistant, prompt, posts, _sampling(assistant, asked, len(prompt)), asked.stops)
        gateway.admission.check()
        pieces = _accounted(gateway, key, pieces, len(prompt))
        if asked.stream:
            events = _events(asked, pieces, posts, len(prompt))
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        text, ending = await _unless_disconnected(request, _collect(pieces))
        body = openai.completion(_answer_id(), asked.model, text, ending, len(prompt))
        return JSONResponse(body | {"posts": _numbered(posts)} | openai.evidence(ending, posts))


async def _accounted(
    gateway: _Gateway, key: Key | None, pieces: AsyncGenerator[str | Ending, None], prompt_tokens: int
) -> AsyncGenerator[str | Ending, None]:
    """The same pieces, made in a place of their own; what they took is charged even if the client leaves."""
    written = 0
    try:
        async with gateway.admission.place(), aclosing(gateway.metrics.timed(pieces)) as timed:
            async for piece in timed:
                written = piece.tokens if isinstance(piece, Ending) else written + 1  # a piece is about a token
                if isinstance(piece, Ending):
                    gateway.metrics.count_citations(piece)
                yield piece
    finally:
        await pieces.aclose()
        gateway.metrics.count_tokens(prompt_tokens, written)
        gateway.access.charge(key, prompt_tokens + written)


def _grounded(assistant: Assistant, asked: ChatRequest) -> tuple[list[SourcePost], list[int]]:
    """The posts found for a request and its prompt; a long conversation takes a while to encode."""
    posts = assistant.search(asked.conversation) if asked.retrieval else None
    return posts or [], assistant.prompt(asked.conversation, posts)


async def _collect(pieces: AsyncGenerator[str | Ending, None]) -> tuple[str, Ending]:
    text = ""
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Ending):
                return text, piece
            text += piece
    raise AssertionError


async def _events(
    asked: ChatRequest,
    pieces: AsyncGenerator[str | Ending, None],
    posts: Sequence[SourcePost],
    prompt_tokens: int,
) -> AsyncGenerator[str, None]:
    """Server-sent events: role and posts, text, ending with evidence, usage when asked for, [DONE]."""
    answer_id = _answer_id()
    ended: dict[str, Any] = {}
    try:
        async with aclosing(pieces):
            first = openai.chunk(answer_id, asked.model, {"role": "assistant", "content": ""})
            yield _event(first | {"posts": _numbered(posts)})
            async for piece in pieces:
                if isinstance(piece, str):
                    yield _event(openai.chunk(answer_id, asked.model, {"content": piece}))
                    continue
                last = openai.chunk(answer_id, asked.model, {}, piece.finish)
                yield _event(last | openai.evidence(piece, posts))
                ended = openai.usage(prompt_tokens, piece.tokens)
        if asked.stream_options and asked.stream_options.include_usage:
            yield _event(openai.chunk(answer_id, asked.model, {}) | {"choices": [], "usage": ended})
    except WorkError as error:
        yield _event(_engine_error(error).body)
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Wait for the answer, but not after the client has left."""
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client closed the connection")
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
            with suppress(asyncio.CancelledError, WorkError):
                await one


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _sampling(assistant: Assistant, asked: ChatRequest, prompt_tokens: int) -> Sampling:
    """The request's sampling; the likeliest word is the default, because it keeps to the posts.

    Raises ApiError when the prompt leaves no room for an answer.
    """
    room = assistant.engine.max_context - prompt_tokens
    if room < 1:
        raise ApiError(
            400,
            f"the conversation has {prompt_tokens} tokens and the context holds {assistant.engine.max_context}",
            param="messages",
            code="context_length_exceeded",
        )
    return Sampling(
        max_tokens=min(asked.limit or assistant.max_tokens, room),
        temperature=asked.temperature or 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=secrets.randbits(31) if asked.seed is None else asked.seed & 0x7FFFFFFF,
    )


def _check_model(assistant: Assistant, name: str) -> None:
    if name != assistant.model_id:
        message = f"the model '{name}' does not exist; this server has '{assistant.model_id}'"
        raise ApiError(404, message, param="model", code="model_not_found")


def _numbered(posts: Sequence[SourcePost]) -> list[dict[str, Any]]:
    return [openai.post(one, number) for number, one in enumerate(posts, start=1)]


def _answer_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


def _engine_error(error: WorkError) -> ApiError:
    return ApiError(503, error.problem, kind="server_error", code="engine_failed")


def _answer_errors_in_openai_form(app: FastAPI) -> None:
    def respond(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(WorkError)
    async def engine_failed(request: Request, error: WorkError) -> JSONResponse:
        return respond(_engine_error(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"][1:]) or None
        said = problem["msg"].removeprefix("Value error, ")
        return respond(ApiError(400, f"{where}: {said}" if where else said, param=where))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return respond(ApiError(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return respond(ApiError(500, "the server failed to answer; its log says why", kind="server_error"))
