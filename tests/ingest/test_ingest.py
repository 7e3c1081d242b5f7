"""Posts that come while the assistant is served: from a growing file, a real websocket, a real event stream."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.sync.server import ServerConnection, serve

from wingspan.errors import InputError
from wingspan.forget.request import forget
from wingspan.ingest.ingest import Taken, ingest
from wingspan.knowledge.index import PostIndex
from wingspan.prepare.privacy.pseudonyms import pseudonym_key, pseudonymiser
from wingspan.progress import SilentProgress
from wingspan.serve.load import load_index
from wingspan.stages import perform
from wingspan.workspace import Run, lock, open_run

PROJECT = """
project.name = "live"
rights = { basis = "consent", statement = "Everybody on this platform has agreed to this." }
model = { depth = 2, hidden = 32, heads = 2, kv_heads = 1, vocab = 300 }
[prepare]
opt_outs = "opt-outs.txt"
grounded_dialogues = 0
grounded_held_out = 0
[[prepare.posts]]
name = "own"
path = "own.jsonl"
reader = "jsonl"
licence = "own"
[[prepare.posts]]
name = "sky"
path = "sky.jsonl"
reader = "bluesky-jetstream"
licence = "own"
[[prepare.posts]]
name = "tusk"
path = "tusk.jsonl"
reader = "mastodon-api"
licence = "own"
"""
TURNS = 12


def line(number: int, text: str, author: str = "ana") -> str:
    return json.dumps({"post_id": f"p{number}", "author_id": author, "text": text}) + "\n"


def event(number: int, text: str = "", did: str = "did:plc:ana", operation: str = "create") -> str:
    record = {"text": text, "createdAt": "2026-01-01T00:00:00Z"}
    commit = {"operation": operation, "collection": "app.bsky.feed.post", "rkey": f"k{number}", "record": record}
    return json.dumps({"did": did, "time_us": 1_800_000_000_000_000 + number, "kind": "commit", "commit": commit})


def status(number: int, text: str) -> dict[str, Any]:
    uri = f"https://tusk.example/users/ana/statuses/{number}"
    return {
        "id": str(number), "uri": uri, "content": f"<p>{text}</p>", "visibility": "public", "account": {"id": "1"},
        "created_at": "2026-01-01T00:00:00Z", "language": "en",
    }  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "wingspan.toml").write_text(PROJECT)
    (folder / "opt-outs.txt").write_text("author:eve\n")
    words = ["harbour", "sardine", "kitten", "window", "thunder", "violin", "lantern", "meadow", "copper", "island"]
    (folder / "own.jsonl").write_text(
        "".join(line(n, f"The {words[n]} was lovely on day {n}, said nobody.") for n in range(10))
    )
    (folder / "sky.jsonl").write_text(event(0, "The gulls of the northern pier were loud this morning") + "\n")
    (folder / "tusk.jsonl").write_text(json.dumps(status(1, "An elephant has walked through the old town")) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINGSPAN_PSEUDONYM_KEY", "test")
        patch.setenv("WINGSPAN_WORKERS", "1")
        perform(open_run(folder, runs=folder / "runs"), "prepare", SilentProgress())
        yield folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("WINGSPAN_PSEUDONYM_KEY", "test")
    folder = shutil.copytree(prepared, tmp_path / "project")
    return open_run(folder, runs=folder / "runs")


@pytest.fixture
def served(run: Run) -> Iterator[PostIndex]:
    """The index as a server that runs has it open."""
    with closing(load_index(run, lambda said: None)) as index:
        yield index


def hear(run: Run, name: str, origin: str | None, enough: Callable[[], bool]) -> list[Taken]:
    """Follow until `enough`, some turns at most."""
    taken = []
    with closing(ingest(run, name, origin, None, lambda said: None)) as following:
        for one, _ in zip(following, range(TURNS), strict=False):
            taken.append(one)
            if enough():
                return taken
    pytest.fail(f"not enough after {taken}")


def has(index: PostIndex, post_id: str) -> bool:
    return index.get(post_id) is not None


def test_a_growing_file_is_followed_under_the_rules_of_prepare(run: Run, served: PostIndex, tmp_path: Path) -> None:
    file = run.base / "own.jsonl"
    with file.open("a") as stream:
        stream.write(line(20, "Write to ana@example.org about the regatta") + line(21, "I opted out", "eve") + '{"half')
    taken = hear(run, "own", None, lambda: has(served, "p20"))
    assert sum(one.added for one in taken) == 11
    assert taken[-1].refused["opted out"] == 1
    [found] = served.search("regatta", 3)
    assert "example.org" not in found.text
    assert found.author_id is not None
    assert found.author_id.startswith("user_")
    with file.open("a") as stream:
        stream.write(f'": 1}}\n{line(22, "The regatta is over")}')
    taken = hear(run, "own", None, lambda: has(served, "p22"))
    assert sum(one.heard for one in taken) == 2  # from the place that was kept; the half line came whole
    file.unlink()
    file.write_text(line(23, "A new file in the place of the old"))  # rotated
    hear(run, "own", None, lambda: has(served, "p23"))


def test_a_request_to_forget_reaches_posts_that_came_later(run: Run, served: PostIndex) -> None:
    secret = "Zanzibarbarossa is the name of my boat"
    with (run.base / "own.jsonl").open("a") as stream:
        stream.write(line(30, secret, "bob"))
    hear(run, "own", None, lambda: has(served, "p30"))
    with lock(run, "test"):
        forget(run, ["author:bob"], pseudonymiser(pseudonym_key()))
    assert not has(served, "p30")
    files = [*(run.folder / "serve").glob("posts-*")]
    assert files
    assert not any(b"zanzibarbarossa" in one.read_bytes().lower() for one in files)
    with (run.base / "own.jsonl").open("a") as stream:
        stream.write(line(31, "Bob again", "bob") + line(32, "Somebody else"))
    hear(run, "own", None, lambda: has(served, "p32"))
    assert not has(served, "p31")


def test_posts_that_came_later_outlive_a_new_prepare(run: Run) -> None:
    with (run.base / "own.jsonl").open("a") as stream:
        stream.write(line(40, "Only the stream had this one about marmalade"))
    with closing(load_index(run, lambda said: None)) as index:
        hear(run, "own", None, lambda: has(index, "p40"))
    (run.base / "own.jsonl").write_text(line(41, "The file begins anew, with a word about cardamom"))
    perform(run, "prepare", SilentProgress())
    with closing(load_index(run, lambda said: None)) as index:
        assert has(index, "p40")
        assert has(index, "p41")


@contextmanager
def jetstream(events: list[str], asked: list[dict[str, list[str]]]) -> Iterator[str]:
    """A real websocket server that sends events from a cursor on."""

    def send(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append(parse_qs(urlsplit(socket.request.path).query))
        start = int(asked[-1].get("cursor", ["0"])[0])
        for one in events:
            if json.loads(one)["time_us"] >= start:
                socket.send(one)
        socket.recv()  # until the client leaves

    with serve(send, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/subscribe"
        server.shutdown()


def test_bluesky_is_followed_and_its_deletions_too(run: Run, served: PostIndex) -> None:
    events, asked = [event(10, "The comet is visible tonight"), event(11, "Nonsense about the comet")], []
    first, second = (f"at://did:plc:ana/app.bsky.feed.post/k{number}" for number in (10, 11))
    with jetstream(events, asked) as url:
        hear(run, "sky", url, lambda: has(served, second))
        events += [event(12, operation="delete").replace("k12", "k11")]
        hear(run, "sky", url, lambda: not has(served, second))
        gone = json.dumps(
            {"did": "did:plc:ana", "time_us": 1_800_000_000_009_000, "kind": "account", "account": {"active": False}}
        )
        events += [gone]
        hear(run, "sky", url, lambda: not has(served, first))  # the whole account
    assert "cursor" not in asked[0]
    assert int(asked[1]["cursor"][0]) < 1_800_000_000_000_011
    assert asked[1]["wantedCollections"] == ["app.bsky.feed.post", "app.bsky.actor.profile"]


class Tusk(BaseHTTPRequestHandler):
    """What a Mastodon server answers: a timeline of what was missed, then a stream of events."""

    def __init__(self, timeline: list[dict[str, Any]], events: list[tuple[str, str]], *args: Any) -> None:
        self.timeline, self.events = timeline, events
        super().__init__(*args)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.send_response(200 if url.path.startswith("/api") else 404)
        self.end_headers()
        if url.path == "/api/v1/timelines/public":
            after = int(parse_qs(url.query)["min_id"][0])
            self.wfile.write(json.dumps([one for one in self.timeline if int(one["id"]) > after]).encode())
        elif url.path == "/api/v1/streaming/public/local":
            for kind, data in self.events:
                self.wfile.write(f":thump\nevent: {kind}\ndata: {data}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_mastodon_is_followed_what_was_missed_is_fetched_and_deletions_count(run: Run, served: PostIndex) -> None:
    timeline: list[dict[str, Any]] = []
    events = [
        ("update", json.dumps(status(100, "The tram is late again"))),
        ("update", json.dumps(status(101, "Snow!"))),
    ]
    uris = {number: f"https://tusk.example/users/ana/statuses/{number}" for number in range(100, 104)}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Tusk, timeline, events))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    hear(run, "tusk", url, lambda: has(served, uris[101]))
    timeline += [status(102, "Posted while nobody listened")]
    events[:] = [("delete", "100"), ("update", json.dumps(status(103, "And the tram came")))]
    hear(run, "tusk", url, lambda: has(served, uris[103]))
    assert [has(served, uris[number]) for number in (100, 101, 102)] == [False, True, True]
    server.shutdown()
    server.server_close()


def test_what_is_not_declared_is_not_followed(run: Run) -> None:
    with pytest.raises(InputError, match="no source of posts 'oven'"):
        next(ingest(run, "oven", None, None, print))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Tusk, [], []))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(InputError, match="404"):
        next(ingest(run, "tusk", f"http://127.0.0.1:{server.server_port}/elsewhere", None, print))
    server.shutdown()
    server.server_close()
