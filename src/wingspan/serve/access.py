"""Who may ask, how often, and how many at once: every refusal says why and when to come back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request

from wingspan.serve.keys import Key, Keys, Scope
from wingspan.serve.openai import ApiError

_MINUTE, _DAY = 60.0, 86400.0
_WAIT_S = 1.0  # to come back in, before any answer's time is known


class Access:
    """Checks the key of a request; without `keys` everybody may do everything (loopback)."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys
        self._recent: dict[str, deque[float]] = {}

    def needs(self, scope: Scope | None = None) -> Callable[[Request], Coroutine[Any, Any, Key | None]]:
        """A dependency that admits requests whose key has the scope; None: any key will do.

        Raises ApiError 401 without a valid key, 403 without the scope, 429 beyond its rate or quota.
        """

        async def check(request: Request) -> Key | None:
            if self._keys is None:
                return None
            key = self._known(request.headers.get("authorization", ""))
            if scope and scope not in key.scopes:
                raise ApiError(403, f"this key does not have the scope '{scope}'", code="missing_scope")
            if scope == "chat":
                self._check_rate(key)
                self._check_quota(key)
            return key

        return check

    def charge(self, key: Key | None, tokens: int) -> None:
        """Note what an answer took, whole or broken off."""
        if self._keys and key:
            self._keys.charge(key.name, tokens)

    def _known(self, header: str) -> Key:
        kind, _, secret = header.partition(" ")
        assert self._keys is not None
        key = self._keys.find(secret.strip()) if kind.lower() == "bearer" else None
        if key is None or key.expired:
            said = "this key has expired" if key else "give a valid key: Authorization: Bearer KEY"
            raise ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return key

    def _check_rate(self, key: Key) -> None:
        """At most so many requests in any minute."""
        if key.requests_per_minute is None:
            return
        now, recent = time.monotonic(), self._recent.setdefault(key.name, deque())
        while recent and recent[0] <= now - _MINUTE:
            recent.popleft()
        if len(recent) >= key.requests_per_minute:
            said = f"this key may ask {key.requests_per_minute} times a minute"
            raise too_many(said, "rate_limit_exceeded", recent[0] + _MINUTE - now)
        recent.append(now)

    def _check_quota(self, key: Key) -> None:
        assert self._keys is not None
        if key.tokens_per_day is not None and self._keys.used_today(key.name)[1] >= key.tokens_per_day:
            said = f"this key's {key.tokens_per_day} tokens of today are used up"
            raise too_many(said, "insufficient_quota", _DAY - time.time() % _DAY)


class Admission:
    """Lets so many answers be made at a time and so many more wait; the others are told when to come back."""

    def __init__(self, active: int, waiting: int) -> None:
        self._places, self._most_waiting = asyncio.Semaphore(active), waiting
        self.active, self.waiting = 0, 0
        self._usual_s = _WAIT_S  # an answer's time, smoothed

    def check(self) -> None:
        """Raises ApiError 429 when too many wait already."""
        if self._places.locked() and self.waiting >= self._most_waiting:
            raise too_many("too many answers are being made", "server_busy", self._usual_s, kind="server_error")

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and hold it while an answer is made."""
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.active += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._usual_s += 0.1 * (time.monotonic() - began - self._usual_s)
            self.active -= 1
            self._places.release()


def too_many(said: str, code: str, seconds: float, kind: str = "rate_limit_error") -> ApiError:
    """429 with the seconds after which it is worth asking again."""
    return ApiError(429, said, kind=kind, code=code, headers={"Retry-After": str(max(1, round(seconds)))})
