"""What an operator watches, in Prometheus's form: requests, answers, tokens, waiting, time to the first token."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wingspan.serve.access import Admission
from wingspan.serve.answering import Ending
from wingspan.serve.feedback import FeedbackLog

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

Piece = TypeVar("Piece")


class Metrics:
    """The figures of one server."""

    def __init__(self, admission: Admission, feedback: FeedbackLog | None = None) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "wingspan_requests", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self.tokens = Counter("wingspan_tokens", "Tokens read and written", ["kind"], registry=self.registry)
        self.first_token = Histogram(
            "wingspan_first_token_seconds",
            "From a question to its first word",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.answer = Histogram(
            "wingspan_answer_seconds", "From a question to its last word", buckets=_SECONDS, registry=self.registry
        )
        self.citations = Counter(
            "wingspan_citations", "Citations by whether the post says it", ["supported"], registry=self.registry
        )
        for name, said in (("active", "Answers in the making"), ("waiting", "Questions waiting for a place")):
            gauge = Gauge(f"wingspan_{name}", said, registry=self.registry)
            gauge.set_function(lambda name=name: getattr(admission, name))  # type: ignore[misc]
        if feedback is not None:
            kept = Gauge("wingspan_feedback", "Judgements of answers kept for align", registry=self.registry)
            kept.set_function(lambda: feedback.count)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def count_tokens(self, read: int, written: int) -> None:
        """What an answer took."""
        self.tokens.labels("read").inc(read)
        self.tokens.labels("written").inc(written)

    def count_citations(self, ending: Ending) -> None:
        """What an answer cited."""
        for citation in ending.citations:
            self.citations.labels("yes" if citation.supported else "no").inc()

    async def timed(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        """The same pieces; the first and the last are timed."""
        began, first = time.perf_counter(), True
        try:
            async for piece in pieces:
                if first:
                    self.first_token.observe(time.perf_counter() - began)
                    first = False
                yield piece
        finally:
            self.answer.observe(time.perf_counter() - began)


class CountRequests:
    """Counts every request by its route, so that ids in paths make no new series, and by its status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, send_counted)
