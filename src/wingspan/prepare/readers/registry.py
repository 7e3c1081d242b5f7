"""What a reader is, and how one is found by the name that a project file gives.

A reader is one small file that ends in `READER = Reader(...)`:
- `opens`: a pattern of whole member names: only these, and a file that the user names, are read for posts.
- `asks`: a pattern of base names beside them, opened only for what they say of the posts. Nothing else is opened.
- `looks_like(name, head)`: whether a member whose first 64 KiB are `head` has this format.
- `read(source, member)`: its posts, as `ReadBatch`es of a few thousand records. Bytes come from `member.chunks()`
  (decompressed, never raising for bad data), lines and array elements from `readers.records`, other members that
  say something of the posts from `member.beside(pattern)`, and a table of posts from `columns.read_batch`.
- `splits`: whether a part of a large plain file can be read alone (`member.part`, a range of bytes).
Memory must not grow with the file, and no record may go silently: each is a post, refused for a reason, or damaged.
A deletion or opt-out is a row of `TOMBSTONE_SCHEMA`; the record that says so counts as refused.

`units` cuts a source into units of work that any process can read, in a fixed order; `read_unit` reads one, and adds
one refused or damaged record for each member that ended early or could not be opened. A unit's batches depend on
nothing but its bytes and what it asks, so a finished unit need not be read again: `Unit.key` is its name in the source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

import pyarrow as pa

from wingspan.errors import InputError, did_you_mean
from wingspan.post import POST_SCHEMA, TOMBSTONE_SCHEMA
from wingspan.prepare.readers.archives import BOMB, ENCRYPTED, LINK, UNSAFE, Member, members
from wingspan.prepare.readers.records import printed_as_one
from wingspan.project import PostSource

GROUP = "wingspan.readers"
HEAD = 1 << 16  # bytes that a format is recognised by
PART = 64 << 20  # bytes of a large file that are one unit

# Other people's words and private ones, and what macOS adds to a zip: no reader opens them, however wide its pattern.
_NEVER = r"\._|(?:direct[-_]?messages?|dms?|likes?|favou?rites|bookmarks?|contacts?|accounts?)(?:[-_.\d]|$)"

# In the order in which `recognise` asks: formats with names of their own before those that only content tells.
_BUILT_IN = (
    "x-archive", "grailbird", "mastodon-archive", "bluesky-car", "bluesky-jetstream", "mastodon-api", "reddit",
    "twitter-v2", "twitter-v1", "parquet", "jsonl", "delimited",
)  # fmt: skip


@dataclass(frozen=True)
class ReadBatch:
    """Some records of a source: `posts` (a table of POST_SCHEMA), records refused by reason, damaged records.

    `tombstones` is a table of TOMBSTONE_SCHEMA: what these records say is deleted or must not be used.
    """

    posts: pa.Table
    refused: Mapping[str, int] = field(default_factory=dict)
    damaged: int = 0
    tombstones: pa.Table = field(default_factory=TOMBSTONE_SCHEMA.empty_table)

    @property
    def read(self) -> int:
        """Records seen: posts + refused + damaged."""
        return int(self.posts.num_rows) + sum(self.refused.values()) + self.damaged


@dataclass(frozen=True)
class Reader:
    """A format of posts; see the module for what each field means."""

    name: str
    title: str  # for people: "X data archive of 2022 and later"
    opens: str
    looks_like: Callable[[str, bytes], bool]
    read: Callable[[PostSource, Member], Iterator[ReadBatch]]
    splits: bool = False
    asks: str = ""

    def may_open(self, member: Member) -> bool:
        """Whether the allow-list has it; a damaged archive is every reader's, so that its loss is counted."""
        if re.match(_NEVER, member.base, re.IGNORECASE):
            return False
        allowed = re.fullmatch(self.opens, member.name, re.IGNORECASE) is not None
        return allowed or member.named or member.refusal.endswith("archive")


@dataclass(frozen=True)
class Unit:
    """What is read in one go: a member of a source, or a part of a large one. Any process can read it."""

    source: PostSource
    member: Member

    @property
    def key(self) -> str:
        """Its name within the source."""
        return self.member.key


@cache
def reader_named(name: str) -> Reader:
    """The reader of that name, built in or plugged in; raises InputError naming the nearest."""
    if name in _BUILT_IN:
        return cast(Reader, import_module(f"wingspan.prepare.readers.{name.replace('-', '_')}").READER)
    plugged_in = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in plugged_in:
        return cast(Reader, plugged_in[name].load())
    remedy = did_you_mean(name, reader_names(), "Known readers")
    raise InputError(f"there is no reader '{name}'", where="prepare.posts.reader", remedy=remedy)


def reader_names() -> list[str]:
    """All readers, in the order in which they are asked whether they know a format."""
    return [*sorted(entry.name for entry in entry_points(group=GROUP)), *_BUILT_IN]


def units(source: PostSource, path: Path) -> Iterator[Unit]:
    """The units of a source, in a fixed order.

    Raises InputError when its reader opens nothing that is there.
    """
    reader, empty = reader_named(source.reader), True
    for member in members(path):
        if reader.may_open(member):
            empty = False
            yield from (Unit(source, part) for part in (_parts(member) if reader.splits else [member]))
    if empty:
        raise InputError(
            f"there is nothing that the reader '{reader.name}' opens",
            where=path,
            remedy=f"It opens members named like {reader.opens}; try `wingspan prepare inspect {path}`",
        )


def _parts(member: Member) -> list[Member]:
    """A large plain file in parts; what is compressed, in UTF-16 or one JSON array can only be read as a whole."""
    if member.size <= PART or member.refusal or not member.plain or printed_as_one(member):
        return [member]
    return [replace(member, part=(at, at + PART)) for at in range(0, member.size, PART)]


def read_unit(unit: Unit) -> Iterator[ReadBatch]:
    """The batches of a unit, and what kept the rest of it from being read."""
    member = replace(unit.member, problems=[unit.member.refusal] if unit.member.refusal else [])
    if not member.refusal:
        yield from reader_named(unit.source.reader).read(unit.source, member)
    for problem in member.problems:
        nothing = POST_SCHEMA.empty_table()
        if problem in (BOMB, ENCRYPTED, LINK, UNSAFE):
            yield ReadBatch(nothing, refused={f"file: {problem}": 1})
        else:
            yield ReadBatch(nothing, damaged=1)


def read_posts(source: PostSource, path: Path) -> Iterator[ReadBatch]:
    """All batches of a source, unit by unit."""
    for unit in units(source, path):
        yield from read_unit(unit)


def files_of(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or the files of a folder that end in one of `suffixes`, in a fixed order.

    Raises InputError for a folder without any.
    """
    if path.is_file():
        return [path]
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.name.lower().endswith(suffixes))
    if not files:
        raise InputError(
            f"the folder holds no {' or '.join(suffixes)} file", where=path, remedy="Name the file, or another reader"
        )
    return files
