"""Records of nested JSON -> posts, one function per format that says what one record is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from wingspan.prepare.readers.archives import Member
from wingspan.prepare.readers.columns import Tombstone, read_batch
from wingspan.prepare.readers.records import json_lines
from wingspan.prepare.readers.registry import ReadBatch
from wingspan.project import PostSource

NOT_A_POST, NO_TEXT, NOTICE, REPOST, NOT_PUBLIC = "not a post", "no text", "deletion notice", "repost", "not public"

Post = dict[str, Any]  # values by post field
Parse = Callable[[Any, list[Tombstone]], Post | str]  # a post or why it is none; appends what must not be used

UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError, IndexError)  # a record that is not what its format says
_DECODER = msgspec.json.Decoder(dict[str, Any])


def parsed_lines(source: PostSource, member: Member, parse: Parse) -> Iterator[ReadBatch]:
    """Posts of a file of JSON lines, each one record."""
    for records, damaged in json_lines(member, _DECODER):
        yield parsed_batch(source, records, parse, damaged)


def parsed_batch(
    source: PostSource, records: Iterable[Any], parse: Parse, damaged: int = 0, tombstones: Iterable[Tombstone] = ()
) -> ReadBatch:
    """A batch of `records`; one that `parse` stumbles over is damaged."""
    posts: list[Post] = []
    fields = {"post_id", "text", "visibility"}
    refused: Counter[str] = Counter()
    found = dict.fromkeys(tombstones)
    for record in records:
        said: list[Tombstone] = []
        try:
            post = parse(record, said)
            for kind, name, reason, at, lifted in said:
                found[kind, str.strip(name), reason, at, lifted] = None
        except UNEXPECTED:
            damaged += 1
            continue
        if isinstance(post, str):
            refused[post] += 1
        else:
            posts.append(post)
            fields |= post.keys()
    columns = {name: [post.get(name) for post in posts] for name in fields}
    batch = read_batch(columns, source.name, damaged, found)
    return replace(batch, refused=refused + Counter(batch.refused))
