"""`wingspan serve` and its verbs."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wingspan.cli import app
from wingspan.cli.app import ITSELF, AsJson, Debug, Overrides, ProjectPath, Runs, answer, command

if TYPE_CHECKING:
    from wingspan.serve.keys import Key


@command(app.serve, ITSELF)
def serve(
    project: ProjectPath = Path("."),
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes any free port.")] = None,
    engine: Annotated[str | None, typer.Option(help="openvino or torch.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the chat page.")] = True,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """The assistant answers: a chat page and an OpenAI-compatible API, with posts as sources.

    Example: wingspan serve examples/laptop --port 8321
    """
    from wingspan.console import notices, output, print_json
    from wingspan.serve.run import serve as start
    from wingspan.workspace import find_run

    settings = {"serve.host": host, "serve.port": port, "serve.engine": engine}
    given = [f"{key}={value}" for key, value in settings.items() if value is not None]
    run = find_run(project, [*(overrides or ()), *given], runs)

    def ready(url: str) -> None:
        if json_:
            print_json({"url": url, "api": f"{url}/v1", "model": run.project.project.name})
            return
        output.print(f"[bold]{run.project.assistant.name}[/] answers at [cyan]{url}[/]  (API: {url}/v1, Ctrl-C stops)")
        if browser and sys.stdout.isatty():
            typer.launch(url)

    def protect(text: str) -> str:
        from wingspan.prepare.posts import protected_text  # when somebody first says something worth keeping
        from wingspan.prepare.privacy.pseudonyms import pseudonym_key, pseudonymiser

        return protected_text(text, run.project.prepare, pseudonymiser(pseudonym_key()))

    start(run, on_ready=ready, protect=protect, say=lambda line: notices.print(f"  {line}", style="dim", markup=False))


@command(app.serve, "keys")
def keys(
    project: ProjectPath = Path("."),
    add: Annotated[str | None, typer.Option(metavar="NAME", help="Make a key; its secret is shown this once.")] = None,
    revoke: Annotated[str | None, typer.Option(metavar="NAME", help="Forget a key.")] = None,
    scopes: Annotated[list[str] | None, typer.Option("--scope", help="chat, search (default: both), metrics.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Until it expires.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Most questions in any minute.")] = None,
    tokens_per_day: Annotated[
        int | None, typer.Option(min=1, help="Most tokens read and written, until midnight UTC.")
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """API keys: who may ask for what and how much. Lists them, makes one, or forgets one.

    Example: wingspan serve keys examples/laptop --add our-app --days 90 --tokens-per-day 1000000
    """
    from wingspan.serve.keys import Key, Keys
    from wingspan.serve.run import keys_file
    from wingspan.workspace import open_run

    kept = Keys(keys_file(open_run(project, overrides or (), runs)))
    if add:
        expires_at = time.time() + days * 86400 if days is not None else None
        key = Key(add, frozenset(scopes or ("chat", "search")), expires_at, requests_per_minute, tokens_per_day)
        secret = kept.add(key)
        answer(
            json_,
            f"{secret}\nThis is {add}'s key. It is not kept and cannot be shown again.",
            {"name": add, "key": secret},
        )
        return
    if revoke:
        kept.revoke(revoke)
    listed = [_described(key, *kept.used_today(key.name)) for key in kept.all()]
    lines = ["  ".join(f"{name} {value}" for name, value in one.items() if value is not None) for one in listed]
    answer(json_, "\n".join(lines) or "no keys yet: make one with --add NAME", {"keys": listed})


@command(app.serve, "ingest")
def ingest(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of a source of [[prepare.posts]].")],
    project: ProjectPath = Path("."),
    origin: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE|URL", help="A file that grows, wss://JETSTREAM/subscribe, https://MASTODON."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when there is nothing new.")] = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Follow new posts and deletions: within seconds the assistant that is served can cite them, or no more.

    Example: wingspan serve ingest network myproject --from wss://jetstream2.us-east.bsky.network/subscribe
    """
    from wingspan.console import notices, print_json
    from wingspan.ingest.ingest import ingest as follow
    from wingspan.workspace import find_run

    run = find_run(project, overrides or (), runs)

    def said(line: str) -> None:
        notices.print(f"  {line}", style="dim", markup=False)

    with suppress(KeyboardInterrupt):
        for taken in follow(run, source, origin, os.environ.get("MASTODON_TOKEN"), said):
            if json_ and taken.heard + taken.removed:
                print_json(asdict(taken))
            elif taken.heard + taken.removed:
                refused = "".join(f", {number:,} {reason}" for reason, number in taken.refused.items())
                said(f"{taken.heard:,} heard: {taken.added:,} added, {taken.removed:,} removed{refused}")
            if once and not taken.heard:
                return


def _described(key: Key, requests: int, tokens: int) -> dict[str, object]:
    expires = None if key.expires_at is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(key.expires_at))
    return {
        "name": key.name,
        "scopes": ",".join(sorted(key.scopes)),
        "expires": expires,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_day": key.tokens_per_day,
        "requests_today": requests,
        "tokens_today": tokens,
    }
