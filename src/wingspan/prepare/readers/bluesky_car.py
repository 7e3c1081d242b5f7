"""A Bluesky account's repository: a CAR file (v1) of blocks that a Merkle search tree names.

A block is a record only if the tree says so, and only if its bytes have the hash that the tree gives. Memory holds one
account's repository, since the tree may name any block of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import libipld

from wingspan.prepare.readers.archives import COMPRESSED, Member
from wingspan.prepare.readers.bluesky import CONSENT, POST, consent, post_of
from wingspan.prepare.readers.columns import Tombstone
from wingspan.prepare.readers.parsed import NOT_A_POST, REPOST, UNEXPECTED, Post, parsed_batch
from wingspan.prepare.readers.records import batched
from wingspan.prepare.readers.registry import ReadBatch, Reader
from wingspan.project import PostSource

_CID = b"\x01\x71\x12\x20"  # version 1, DAG-CBOR, sha2-256 of 32 bytes: what every block of a repository has
_CID_BYTES = len(_CID) + 32


def read(source: PostSource, member: Member) -> Iterator[ReadBatch]:
    """Posts of a repository; what the tree names and no sound block holds is damaged, so is a node without a block."""
    roots, blocks = _blocks(b"".join(member.chunks()))
    try:
        commit = libipld.decode_dag_cbor(blocks[roots[0]])
        records = _records(commit["did"], commit["data"], blocks)
    except UNEXPECTED:
        records = iter([None])
    for batch in batched(records):
        yield parsed_batch(source, batch, _parse)


def _parse(record: tuple[str, str, bytes], tombstones: list[Tombstone]) -> Post | str:
    did, key, data = record
    collection = key.partition("/")[0]
    if collection == POST:
        return post_of(f"at://{did}/{key}", did, libipld.decode_dag_cbor(data), tombstones)
    if collection in CONSENT:
        tombstones += consent(did, collection, libipld.decode_dag_cbor(data), None)
    return REPOST if collection == "app.bsky.feed.repost" else NOT_A_POST


def _records(did: str, root: bytes, blocks: dict[bytes, bytes]) -> Iterator[tuple[str, str, bytes | None] | None]:
    """Author, key and bytes (None: missing) of each record of a tree; None for a node that cannot be read.

    A node's entries leave out what their keys share with the key before.
    """
    waiting: list[Any] = [root]
    seen: set[bytes] = set()
    while waiting:
        cid = waiting.pop()
        try:
            if cid in seen:
                continue
            seen.add(cid)
            node, key = libipld.decode_dag_cbor(blocks[cid]), b""
            subtrees, found = [node.get("l")], []
            for entry in node["e"]:
                key = key[: entry["p"]] + entry["k"]
                found.append((did, key.decode(), blocks.get(entry["v"])))
                subtrees.append(entry.get("t"))
        except UNEXPECTED:
            yield None
            continue
        yield from found
        waiting += [one for one in subtrees if one is not None]


def _blocks(content: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """The roots of a CAR file, and bytes by CID of the blocks that have the hash of their CID.

    A frame is its length, as an unsigned varint, and so many bytes; the first is the header.
    """
    roots: list[bytes] = []
    blocks: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        length, shift = 0, 0
        while at < len(content) and content[at] > 0x7F:
            length |= (content[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        length |= content[at] << shift if at < len(content) else 0
        frame, at = content[at + 1 : at + 1 + length], at + 1 + length
        cid, data = frame[:_CID_BYTES], frame[_CID_BYTES:]
        if not roots:
            try:
                roots = list(libipld.decode_dag_cbor(frame)["roots"])
            except UNEXPECTED:
                break
        elif cid == _CID + hashlib.sha256(data).digest():
            blocks[cid] = data
    return roots, blocks


READER = Reader(
    name="bluesky-car",
    title="Bluesky repository (CAR)",
    opens=rf".*\.car{COMPRESSED}",
    looks_like=lambda _, head: head[1:8] == b"\xa2eroots",
    read=read,
)
