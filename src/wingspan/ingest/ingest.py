"""`wingspan serve ingest`: what a source says now, prepared like all posts, into the index of a server that runs.

Records go through the readers and the rules of prepare. The index is changed before the place in the source is kept,
and adding or removing again changes nothing: after a kill nothing is missing and nothing is there twice.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from wingspan.errors import InputError, did_you_mean
from wingspan.ingest.follow import Heard, follow
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.index import PostIndex
from wingspan.prepare.flow.flow import frame_of
from wingspan.prepare.posts import KEPT, counts, notices, prepare, read
from wingspan.prepare.privacy.pseudonyms import pseudonym_key, pseudonymiser
from wingspan.prepare.privacy.tombstones import AUTHOR, POST, Tombstones, as_notices, forgotten, unindex
from wingspan.prepare.readers.archives import one_member
from wingspan.prepare.readers.records import text_lines
from wingspan.prepare.readers.registry import Unit
from wingspan.prepare.stage import require_rights
from wingspan.project import PostSource
from wingspan.serve.load import cursors_file, load_index
from wingspan.workspace import Run

_TIDY_S = 60.0  # seconds after which traces of removed posts are overwritten at the latest
_NO_REPEATS = pa.table({"at": pa.array([], pa.uint64())})

_SCHEMA = """
create table if not exists places (source text primary key, place text not null);
create table if not exists numbers (number text primary key, post_id text not null);
create table if not exists notices (
    kind text, id text, reason text, at integer, lifted integer, primary key (kind, id, reason)
);
"""
_SETTLE = """
insert into notices values (?, ?, ?, ?, ?) on conflict do update set at = excluded.at, lifted = excluded.lifted
where excluded.at is null or notices.at is null or excluded.at >= notices.at
"""


@dataclass(frozen=True)
class Taken:
    """What became of a batch: records heard, posts put into the index, posts taken out, refused by reason."""

    heard: int
    added: int
    removed: int
    refused: dict[str, int]


def ingest(run: Run, name: str, origin: str | None, token: str | None, say: Callable[[str], None]) -> Iterator[Taken]:
    """Follow the source `name` of [[prepare.posts]] at `origin` (a file or URL; its own path), without end.

    Raises InputError when the project has no such source or declares no rights.
    """
    source = _source(run, name)
    origin = origin or str(run.outside(source.path))
    with closing(load_index(run, say)) as index, closing(sqlite3.connect(cursors_file(run))) as kept:
        kept.executescript(_SCHEMA)
        live = _Live(run, source, index, kept)
        live.bury_again()
        untidy_since: float | None = None
        try:
            for heard in follow(origin, live.place(origin), token):
                taken = live.take(heard, origin)
                if taken.removed and untidy_since is None:
                    untidy_since = time.monotonic()
                if untidy_since is not None and (not taken.heard or time.monotonic() - untidy_since > _TIDY_S):
                    index.tidy()
                    untidy_since = None
                yield taken
        finally:
            if untidy_since is not None:
                index.tidy()


def _source(run: Run, name: str) -> PostSource:
    sources = {source.name: source for source in run.project.prepare.posts}
    require_rights(run.project)
    if name not in sources:
        remedy = did_you_mean(name, sources, "Sources")
        raise InputError(f"there is no source of posts '{name}'", where="[[prepare.posts]]", remedy=remedy)
    return sources[name]


class _Live:
    """One source followed: its index, and what is kept of it between starts."""

    def __init__(self, run: Run, source: PostSource, index: PostIndex, kept: sqlite3.Connection) -> None:
        self._run, self._source, self._index, self._kept = run, source, index, kept
        self._pseudonym = pseudonymiser(pseudonym_key())

    def place(self, origin: str) -> str:
        """How far the source was read."""
        found = self._kept.execute("select place from places where source = ?", (origin,)).fetchone()
        return str(found[0]) if found else ""

    def bury_again(self) -> None:
        """Take out what opt-outs and requests to forget of the time between starts say."""
        unindex(self._index, self._tombstones(self._kept.execute("select * from notices").fetchall()))

    def take(self, heard: Heard, origin: str) -> Taken:
        """Change the index by a batch, then keep the place after it."""
        posts, gone, authors, refused = self._prepared(heard.lines) if heard.lines else ([], [], [], {})
        gone += [post_id for number in heard.deleted for post_id in self._numbered(number)]
        removed = self._index.remove(gone, authors, tidy=False)
        self._index.add(posts, live=True)
        with self._kept:
            self._kept.executemany("insert or replace into numbers values (?, ?)", heard.numbers)
            self._kept.execute("insert or replace into places values (?, ?)", (origin, heard.place))
        return Taken(len(heard.lines), len(posts), removed, refused)

    def _numbered(self, number: str) -> list[str]:
        return [row[0] for row in self._kept.execute("select post_id from numbers where number = ?", (number,))]

    def _prepared(self, lines: list[bytes]) -> tuple[list[SourcePost], list[str], list[str], dict[str, int]]:
        """Posts to add; ids of posts, and pseudonyms of authors, to take out; refused posts by reason."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "heard.jsonl"
            file.write_bytes(b"\n".join(lines) + b"\n")
            records = pa.concat_tables(read(len(lines), [Unit(self._source, one_member(file))]))
        said = frame_of(notices(records))
        with self._kept:
            self._kept.executemany(_SETTLE, said.with_columns(pl.col("at").dt.epoch("ms")).iter_rows())
        names = [*said["id"], *frame_of(records).select("post_id", "author_id").unpivot()["value"].drop_nulls()]
        stones = self._tombstones(self._about(names))
        settings, seed = self._run.project.prepare, self._run.project.project.seed
        posts = frame_of(prepare(settings, seed, stones, None, self._pseudonym, records, _NO_REPEATS))
        refused = posts.filter(~KEPT)
        held = said.filter(stones.of_posts(said["id"]).is_not_null() | stones.of_authors(said["id"]).is_not_null())
        gone = [*refused["post_id"], *held.filter(kind=POST)["id"]]
        authors = [self._pseudonym(one) for one in held.filter(kind=AUTHOR)["id"]]
        return [*_sources(posts.filter(KEPT))], gone, authors, counts(refused, "refused")

    def _about(self, names: Iterable[str]) -> list[tuple[str, str, str, int | None, bool]]:
        found = [self._kept.execute("select * from notices where id = ?", (one,)).fetchall() for one in {*names}]
        return [row for rows in found for row in rows]

    def _tombstones(self, rows: list[tuple[str, str, str, int | None, bool]]) -> Tombstones:
        settings = self._run.project.prepare
        opt_outs = text_lines(self._run.outside(settings.opt_outs)) if settings.opt_outs else ()
        told = as_notices([(kind, name, reason, at, bool(lifted)) for kind, name, reason, at, lifted in rows])
        return Tombstones.build([forgotten(self._run.folder), told], opt_outs, settings.consent, self._pseudonym)


def _sources(posts: pl.DataFrame) -> Iterator[SourcePost]:
    """Kept posts, the last of those with the same id."""
    times = pl.col("created_at").dt.epoch("ms")
    for row in (
        posts.unique("post_id", keep="last", maintain_order=True)
        .select("post_id", "text", "author_id", times)
        .iter_rows()
    ):
        yield SourcePost(*row)
