from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from generate_archives import CANARY, Files, grailbird, json_lines, pack, stream_grab, v1_records, v2_pages, x_archive
from reading import find
from wingspan.cli.main import app
from wingspan.errors import InputError
from wingspan.prepare.inspect import inspect, render
from wingspan.prepare.readers import registry
from wingspan.prepare.readers.archives import Member
from wingspan.prepare.readers.parsed import parsed_lines
from wingspan.prepare.readers.registry import Reader, reader_named, reader_names
from wingspan.project import PostSource

PLAIN = [{"id": n, "body": f"a text {n} by @jane, jane@example.com", "user": {"id": 7}} for n in range(20)]


def parquet() -> bytes:
    stream = io.BytesIO()
    pl.DataFrame({"id": ["1", "2"], "body": ["hello you", "hello again"]}).write_parquet(stream)
    return stream.getvalue()


FORMS: dict[str, tuple[Files, str]] = {
    "x-archive": (x_archive()[0], "a.zip"),
    "grailbird": (grailbird()[0], "bird"),
    "twitter-v1": (stream_grab()[0], "day.tar"),
    "twitter-v1 lines": ({"a.jsonl": json_lines(v1_records()[0])}, "v1"),
    "twitter-v2": ({"a.jsonl": json_lines(v2_pages()[0])}, "v2"),
    "jsonl": ({"posts.jsonl": json_lines(PLAIN)}, "plain"),
    "delimited": ({"posts.csv": b"id,text\n1,hello you\n2,hello again\n"}, "csv"),
    "parquet": ({"posts.parquet": parquet()}, "table"),
    "delimited tab": ({"posts.tsv": b"post_id\ttext\n1\thello you\n"}, "tsv"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_format_is_recognised_and_the_block_reads_what_was_promised(tmp_path: Path, form: str) -> None:
    files, name = FORMS[form]
    path = pack(files, tmp_path / name)
    found = inspect(path)
    assert found["reader"] == form.split()[0]
    block = tomllib.loads(found["block"])["prepare"]["posts"][0]
    source = PostSource(**block)
    settings = {key: getattr(source, key) for key in ("columns", "separator", "header")}
    read = find(path, found["reader"], **settings)
    sample = found["sample"]
    assert sample["whole"]
    assert (sample["read"], sample["posts"], sample["damaged"]) == (read.read, read.rows, read.damaged)
    assert sample["refused"] == read.refused
    assert sample["tombstones"] == len(read.tombstones)
    assert sum(sample["languages"].values()) == read.rows
    assert str(found["opens"]["files"]) in str(render(found))


def test_inspect_opens_nothing_private_and_masks_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    chunks = Member.chunks

    def noted(member: Member) -> Any:
        opened.append(member.base)
        return chunks(member)

    monkeypatch.setattr(Member, "chunks", noted)
    found = inspect(pack(x_archive()[0], tmp_path / "archive"))
    assert CANARY not in json.dumps(found)
    assert set(opened) <= {"tweets.js", "tweets-part1.js", "manifest.js", "note-tweet.js", "deleted-tweets.js",
                           "deleted-tweet-headers.js"}  # fmt: skip
    assert "data/direct-messages-group.js" in found["never_opens"]["names"]
    assert found["asks"]["names"] == ["data/manifest.js", "data/note-tweet.js"]

    masked = inspect(pack({"posts.jsonl": json_lines(PLAIN)}, tmp_path / "plain"))["sample"]["masked_posts"]
    assert len(masked) == 3
    assert not any("jane" in text for text in masked)


def test_private_names_are_never_opened_by_any_reader() -> None:
    for name in reader_names():
        reader = reader_named(name)
        for private in ("direct-messages.js", "like.js", "likes.json", "bookmarks.json", "dm.jsonl", "contact.js",
                        "direct_messages.csv", "accounts.jsonl.gz", "account.js"):  # fmt: skip
            assert not reader.may_open(Member(Path("x"), f"data/{private}"))


@pytest.mark.parametrize(
    ("files", "problem", "remedy"),
    [
        ({"a.bin": b"\x00\x01"}, "no reader knows this format", "columns = "),
        ({"a.jsonl": b'{"foo": 1, "text": "t"}\n'}, "clearly an id", "Its columns: foo, text"),
        ({"a.csv": b"id,foo\n1,2\n"}, "clearly a text", "header = false"),
        ({"a.parquet": b"PAR1 and no more"}, "not a readable Parquet", "Replace it"),
        ({"a.zip": b"PK\x03\x04 and no more"}, "no reader knows this format: damaged archive", "columns = "),
    ],
)
def test_an_unknown_format_says_what_was_looked_for(tmp_path: Path, files: Files, problem: str, remedy: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        inspect(pack(files, tmp_path / "x"))
    assert remedy in caught.value.remedy


def test_the_command_prints_a_screen_or_json(tmp_path: Path) -> None:
    path = pack(x_archive()[0], tmp_path / "a.zip")
    shown = CliRunner().invoke(app, ["prepare", "inspect", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "X (Twitter) data archive" in shown.output
    assert '[[prepare.posts]]\nname = "a"' in shown.output
    machine = CliRunner().invoke(app, ["prepare", "inspect", str(path), "--json"])
    assert json.loads(machine.output)["reader"] == "x-archive"
    missing = CliRunner().invoke(app, ["prepare", "inspect", str(tmp_path / "nothing")])
    assert missing.exit_code == 2


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("twitter-api-v2", "twitter-v2"),
        ("rumoureval-threads/train.tweets.v1.jsonl", "twitter-v1"),
        ("mastodon-api/statuses.jsonl", "mastodon-api"),
        ("reddit-pushshift", "reddit"),
        ("bluesky-car", "bluesky-car"),
        ("bluesky-jetstream/expected_v1.jsonl", "bluesky-jetstream"),
        ("reddit-top", "delimited"),
    ],
)
def test_real_data_is_recognised(shared_data: Path, path: str, reader: str) -> None:
    assert inspect(shared_data / "data" / path)["reader"] == reader


def test_a_plugged_in_reader_is_found_by_name_and_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(record: dict[str, Any], tombstones: list[Any]) -> dict[str, Any] | str:
        if record.get("removed"):
            tombstones.append(("post", record["key"], "removed", None, False))
            return "removed"
        return {"post_id": record["key"], "text": record["body"], "visibility": "public"}

    class Entry:
        name = "forum"

        def load(self) -> Reader:
            return Reader(
                name="forum",
                title="Lines of our forum",
                opens=r".*\.forum\.jsonl",
                looks_like=lambda name, head: b'"key"' in head,
                read=lambda source, member: parsed_lines(source, member, parse),
                splits=True,
            )

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])
    lines = [{"key": "1", "body": "hello"}, {"key": "2", "removed": True}, {"body": "no key"}]
    path = pack({"a.forum.jsonl": json_lines(lines)}, tmp_path / "x")
    found = find(path, inspect(path)["reader"])
    assert (found.rows, found.refused, found.damaged) == (1, {"removed": 1}, 1)
    assert [one["id"] for one in found.tombstones] == ["2"]
    reader_named.cache_clear()
