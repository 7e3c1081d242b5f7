"""`wingspan serve`: loads the assistant of a run, answers until it is told to stop, then lets go of everything."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import uvicorn

from wingspan.errors import InputError
from wingspan.serve.app import create_app
from wingspan.serve.feedback import FEEDBACK_FILE, FeedbackLog
from wingspan.serve.keys import Keys
from wingspan.serve.load import load_assistant
from wingspan.serve.topics import topics
from wingspan.workspace import Run

_DRAIN_S = 5  # answers under way may end within this time when the server stops
_TOPICS, _TOPIC_POSTS = 12, 20_000


def serve(
    run: Run,
    *,
    on_ready: Callable[[str], None],
    protect: Callable[[str], str],
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve the assistant of a run at serve.host and serve.port until Ctrl-C or SIGTERM.

    `on_ready` gets the URL as soon as requests are answered; `say` gets lines about slow first steps;
    `protect` takes personal data out of a text that is kept.
    Raises InputError when there is no assistant, the address cannot be had, or keys are asked for and there are none.
    """
    settings = run.project.serve
    keys = _keys(run)
    with _bind(settings.host, settings.port) as listener:
        assistant = load_assistant(run, say)
        try:
            suggested = topics(assistant.index.texts(_TOPIC_POSTS), _TOPICS)
            hosts = _own_hosts(settings.host, keys is not None)
            feedback = FeedbackLog(run.folder / "serve" / FEEDBACK_FILE, protect)
            app = create_app(assistant, settings, topics=suggested, hosts=hosts, keys=keys, feedback=feedback)
            # asyncio warns of writes to a client that has just left, which is nothing to warn of here
            logging.getLogger("asyncio").setLevel(logging.ERROR)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_DRAIN_S, ws="none")
            listener.listen()
            with _sigterm_as_interrupt(), suppress(KeyboardInterrupt):  # from the moment that anybody knows of us
                on_ready(_url(settings.host, listener.getsockname()[1]))
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            assistant.engine.close()
            assistant.index.close()


@contextmanager
def _bind(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that holds the address from the start; it listens only once there is somebody to answer."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen there: {error.strerror or error}",
            where=f"{host}:{port}",
            remedy="Choose another port with --port (0 takes any free one)",
        ) from error
    with bound:
        yield bound


def keys_file(run: Run) -> Path:
    """Where the API keys of a run lie; they belong to the run, not to one assistant."""
    return run.folder / "keys.sqlite"


def _keys(run: Run) -> Keys | None:
    """The keys to ask for; None on loopback, unless the project wants them there too."""
    settings = run.project.serve
    if _is_loopback(settings.host) and not settings.keys:
        return None
    keys = Keys(keys_file(run))
    if not keys.all():
        raise InputError(
            "keys are asked for and there are none yet",
            where=f"serve.host = {settings.host}",
            remedy=f"Make one: wingspan serve keys {run.folder} --add NAME",
        )
    return keys


def _own_hosts(host: str, keyed: bool) -> list[str]:
    """Host headers to answer to: on loopback without keys only its names, so that no page of the web can reach in."""
    return ["localhost", "127.0.0.1", "[::1]", host] if _is_loopback(host) and not keyed else ["*"]


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """After its drain uvicorn raises the signal again; as an interrupt it passes through our clean-up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
