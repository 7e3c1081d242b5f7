"""Following a source: records as they come, each batch with the place after it, from which a later start goes on.

A batch may be empty: so whoever follows gets a turn when nothing is posted. All three sources repeat rather than
lose records after a break, and end only with an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from wingspan.errors import InputError

_TURN_S = 0.5  # seconds until a batch is handed on, however small it is
_MOST = 1_000  # records of a batch
_CHUNK = 8 << 20  # bytes of a file of a batch
_RETRY_S = (1, 2, 5, 10, 30)  # seconds before each new try to reach a server
_REWIND_US = 2_000_000  # a network's events are not quite in order: begin so much earlier
_COLLECTIONS = ("app.bsky.feed.post", "app.bsky.actor.profile")


@dataclass(frozen=True)
class Heard:
    """Records, one JSON object a line, and the place after them.

    Mastodon deletes by a server's own number: `numbers` of the posts that came, and those that are `deleted`.
    """

    lines: list[bytes]
    place: str
    numbers: tuple[tuple[str, str], ...] = ()
    deleted: tuple[str, ...] = ()


def follow(source: str, place: str, token: str | None = None) -> Iterator[Heard]:
    """Follow a file of JSON lines, a Jetstream (`wss://host/subscribe`), or a Mastodon server (`https://host`)."""
    scheme = urlsplit(source).scheme
    if scheme in ("ws", "wss"):
        return _again(source, place, _jetstream)
    if scheme in ("http", "https"):
        return _again(source, place, lambda url, at: _mastodon(url, at, token))
    return _tail(Path(source), place)


def _tail(path: Path, place: str) -> Iterator[Heard]:
    """Whole lines of a file from a place on, then as they are added; a file that took its place is read from 0."""
    inode, _, offset = place.partition(":")
    while True:
        found = path.stat()
        at = int(offset) if inode == str(found.st_ino) and offset and int(offset) <= found.st_size else 0
        with path.open("rb") as file:
            file.seek(at)
            chunk = file.read(_CHUNK)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        inode, offset = str(found.st_ino), str(at + len(whole))
        yield Heard(whole.splitlines(), f"{inode}:{offset}")
        if len(chunk) < _CHUNK:
            time.sleep(_TURN_S)


def _again(url: str, place: str, listen: Callable[[str, str], Iterator[Heard]]) -> Iterator[Heard]:
    """Listen, and after a break listen again from where it was."""
    tries = 0
    while True:
        with suppress(OSError, WebSocketException, httpx.TransportError):
            for heard in listen(url, place):
                place, tries = heard.place, 0
                yield heard
        time.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
        tries += 1
        yield Heard([], place)


def _jetstream(url: str, place: str) -> Iterator[Heard]:
    """Events of a Bluesky Jetstream; the place is the time of the last one, in microseconds."""
    cursor = {"cursor": int(place) - _REWIND_US} if place else {}
    asked = urlencode([*(("wantedCollections", one) for one in _COLLECTIONS), *cursor.items()])
    with connect(f"{url}?{asked}", max_size=1 << 20) as socket:
        while True:
            lines = _received(socket)
            if lines:
                place = str(json.loads(lines[-1])["time_us"])
            yield Heard(lines, place)


def _received(socket: ClientConnection) -> list[bytes]:
    """What comes within a turn."""
    lines: list[bytes] = []
    until = time.monotonic() + _TURN_S
    while len(lines) < _MOST and (left := until - time.monotonic()) > 0:
        try:
            lines.append(socket.recv(timeout=left, decode=False))
        except TimeoutError:
            break
    return lines


def _mastodon(server: str, place: str, token: str | None) -> Iterator[Heard]:
    """A server's own public statuses; the place is the number of the last one.

    The stream does not repeat what was missed, so the timeline is asked for that first.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with (
        httpx.Client(base_url=server, headers=headers, timeout=30.0) as client,
        client.stream("GET", "/api/v1/streaming/public/local") as events,
    ):
        _check(events)
        while place:
            missed = client.get("/api/v1/timelines/public", params={"local": "true", "min_id": place, "limit": 40})
            _check(missed)
            if not (statuses := missed.json()):
                break
            place = max((one["id"] for one in statuses), key=int)
            yield _statuses(statuses, place)
        kind = ""
        for line in events.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and kind in ("update", "status.update"):
                status = json.loads(value)
                place = max(place or "0", status["id"], key=int)
                yield _statuses([status], place)
            elif name == "data" and kind == "delete":
                yield Heard([], place, deleted=(value,))
            else:
                yield Heard([], place)


def _statuses(statuses: list[dict[str, Any]], place: str) -> Heard:
    return Heard(
        [json.dumps(one).encode() for one in statuses],
        place,
        numbers=tuple((one["id"], one["uri"]) for one in statuses),
    )


def _check(response: httpx.Response) -> None:
    """Raises InputError when the server will not have us; what may pass is tried again."""
    if response.status_code in (401, 403, 404):
        raise InputError(
            f"the server answers {response.status_code}",
            where=str(response.url),
            remedy="Give a token that may read public posts: MASTODON_TOKEN",
        )
    if response.is_error:
        raise httpx.TransportError(f"the server answers {response.status_code}")
