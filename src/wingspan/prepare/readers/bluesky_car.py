"""A Bluesky account's repository: a CAR file (v1) of blocks that a Merkle search tree names.

A block is a record only if the tree says so, and only if its bytes have the hash that the tree gives. The file is
read twice: once for the tree, once for the records; memory holds the tree and one block.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import libipld

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.bluesky import CONSENT, POST, consent, post_of
from wingspan.prepare.readers.columns import Tombstone
from wingspan.prepare.readers.parsed import NOT_A_POST, REPOST, UNEXPECTED, Post, parsed_batch
from wingspan.prepare.readers.records import BATCH
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource

_CID = b"\x01\x71\x12\x20"  # version 1, DAG-CBOR, sha2-256 of 32 bytes: what every block of a repository has
_CID_BYTES = len(_CID) + 32
_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"
_LONGEST = 8 << 20  # bytes of a block; records have at most 1 MiB

Block = tuple[bytes, bytes]  # CID and bytes


@dataclass(frozen=True)
class _Repository:
    """Whose records these are, as of when (ms), their keys by CID, and how many nodes of the tree are missing."""

    did: str
    at: int | None
    keys: dict[bytes, list[str]]
    missing: int


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Posts of a repository; a part of the tree that cannot be read is one damaged record."""
    repository = _repository(member)
    before, records = len(member.problems), _records(member, repository)
    while batch := list(islice(records, BATCH)):
        yield parsed_batch(source, batch, partial(_parse, repository))
    del member.problems[before:]  # the second reading ends as the first did
    unread = sum(len(keys) for keys in repository.keys.values())  # that the tree names and no sound block holds
    yield parsed_batch(source, (), partial(_parse, repository), unread + repository.missing)


def _records(member: Member, repository: _Repository) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of each record; takes from the repository's keys those that it finds."""
    for cid, data in _blocks(member):
        for key in repository.keys.pop(cid, ()):
            yield key, data


def _parse(repository: _Repository, record: tuple[str, bytes], tombstones: list[Tombstone]) -> Post | str:
    key, data = record
    collection = key.partition("/")[0]
    if collection == POST:
        uri = f"at://{repository.did}/{key}"
        return post_of(uri, repository.did, libipld.decode_dag_cbor(data), tombstones)
    if collection in CONSENT:
        tombstones += consent(repository.did, collection, libipld.decode_dag_cbor(data), repository.at)
    return REPOST if collection == "app.bsky.feed.repost" else NOT_A_POST


def _repository(member: Member) -> _Repository:
    """The commit and the tree: a first reading of the file."""
    nodes: dict[bytes, dict[str, Any]] = {}
    blocks = _blocks(member, header=True)
    root = next(blocks)[1]
    for cid, data in blocks:
        decoded = _decoded(data)
        if cid == root or "e" in decoded:
            nodes[cid] = decoded
    commit = nodes.get(root, {})
    keys: dict[bytes, list[str]] = {}
    waiting: list[Any] = [commit.get("data")]
    missing, seen = 0, set[bytes]()
    while waiting:
        cid = waiting.pop()
        try:
            if cid not in seen:
                seen.add(cid)
                waiting += _walk(nodes[cid], keys)
        except UNEXPECTED:
            missing += 1
    return _Repository(str(commit.get("did")), _time_of(commit.get("rev")), keys, missing)


def _walk(node: dict[str, Any], keys: dict[bytes, list[str]]) -> list[bytes]:
    """Note the keys of a node, which leave out what they share with the key before; returns its subtrees."""
    subtrees: list[bytes | None] = [node.get("l")]
    key = b""
    for entry in node["e"]:
        key = key[: entry["p"]] + entry["k"]
        keys.setdefault(entry["v"], []).append(key.decode())
        subtrees.append(entry.get("t"))
    return [one for one in subtrees if one is not None]


def _time_of(revision: Any) -> int | None:
    """Milliseconds of a timestamp identifier: 13 digits to the base of 32, microseconds above ten bits."""
    if not isinstance(revision, str) or re.fullmatch(r"[2-7a-z]{13}", revision) is None:
        return None
    number = 0
    for digit in revision:
        number = number * 32 + _DIGITS.index(digit)
    return (number >> 10) // 1000


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        decoded = libipld.decode_dag_cbor(data)
    except UNEXPECTED:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _blocks(member: Member, *, header: bool = False) -> Iterator[Block]:
    """Blocks whose bytes have the hash of their CID; before them, where `header`, the root's CID as a block's bytes."""
    stream = _Frames(member)
    first = _decoded(stream.frame())
    if header:
        yield b"", (first.get("roots") or [b""])[0]
    while frame := stream.frame():
        cid, data = frame[:_CID_BYTES], frame[_CID_BYTES:]
        if cid == _CID + hashlib.sha256(data).digest():
            yield cid, data


class _Frames:
    """A stream cut into frames: a length as an unsigned varint, and so many bytes."""

    def __init__(self, member: Member) -> None:
        self._chunks, self._held, self._at = member.chunks(), b"", 0

    def frame(self) -> bytes:
        """The next frame; nothing at the end, and from where a length cannot be right."""
        length, shift = 0, 0
        while byte := self._take(1):
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80 or shift > 28:
                return self._take(length) if length <= _LONGEST else b""
        return b""

    def _take(self, size: int) -> bytes:
        while len(self._held) - self._at < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                return b""
            self._held, self._at = self._held[self._at :] + chunk, 0
        self._at += size
        return self._held[self._at - size : self._at]


READER = Reader(
    name="bluesky-car",
    title="Bluesky repository (CAR)",
    opens=rf".*\.car{COMPRESSED}",
    looks_like=lambda _, head: head[1:8] == b"\xa2eroots",
    read=read,
)
