"""What is this file, folder or archive? Its format, what a reader would take of it and what not, on a sample."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa
from rich.text import Text

from wingspan.errors import InputError
from wingspan.post import POST_SCHEMA
from wingspan.prepare.privacy.personal import remove_personal_data
from wingspan.prepare.privacy.pseudonyms import pseudonymiser
from wingspan.prepare.readers.archives import Member, members
from wingspan.prepare.readers.parquet import columns_of
from wingspan.prepare.readers.records import json_object
from wingspan.prepare.readers.registry import HEAD, Reader, read_unit, reader_named, reader_names, units
from wingspan.prepare.text.cleaning import clean
from wingspan.prepare.text.language import detect
from wingspan.project import PostSource
from wingspan.units import size

SAMPLE = 10_000  # records
LISTED = 100_000  # members looked at
SHOWN = 12  # names of members of each kind
POSTS = 3

# Column names that people give to a post's fields; the first that a file has is proposed.
_NAMES = {
    "post_id": "post_id id_str id tweet_id tweetid status_id uri",
    "text": "text full_text body content message tweet caption selftext",
    "author_id": "author_id author user_id userid user.id_str user.id username user screen_name account",
    "created_at": "created_at created date timestamp time created_utc posted_at datetime published",
    "parent_id": "parent_id in_reply_to_status_id_str in_reply_to_status_id in_reply_to_id reply_to in_reply_to",
    "lang_hint": "lang_hint lang language",
    "visibility": "visibility privacy",
    "likes": "likes like_count favorite_count favourites_count",
    "replies": "replies reply_count replies_count",
    "reposts": "reposts retweet_count repost_count reblogs_count",
}
_GENERIC = ("jsonl", "delimited", "parquet")


def inspect(path: Path) -> dict[str, Any]:
    """A document for people and machines: reader, members, counts and posts of a sample, and a block to paste.

    Raises InputError when no reader knows the format, or when columns are needed and their names say nothing.
    """
    found = list(islice(members(path), LISTED))
    reader, head = _recognise(path, found)
    source = _source(path, reader, head)
    opened = [one for one in found if reader.may_open(one) and not one.refusal]
    refused = Counter(f"file: {one.refusal}" for one in found if one.refusal)
    asked = [one for one in found if reader.asks and re.fullmatch(reader.asks, one.base)]
    closed = [one for one in found if not (reader.may_open(one) or one in asked or one.refusal)]
    return {
        "path": str(path),
        "reader": reader.name,
        "title": reader.title,
        "opens": _listed(opened),
        "asks": _listed(asked),
        "never_opens": _listed(closed),
        "refused": dict(refused),
        "sample": _sample(source, path),
        "block": _block(source),
    }


def _recognise(path: Path, found: Sequence[Member]) -> tuple[Reader, bytes]:
    """The first reader that knows one of the first files that it may open, and how that file begins."""
    asked = []
    for name in reader_names():
        reader = reader_named(name)
        for member in islice((one for one in found if reader.may_open(one) and not one.refusal), 3):
            head = next(member.chunks(), b"")[:HEAD]
            if head and reader.looks_like(member.name, head):
                return reader, head
        asked.append(f"{reader.title} ({reader.name})")
    refusals = sorted({one.refusal for one in found if one.refusal})
    raise InputError(
        f"no reader knows this format{': ' + ', '.join(refusals) if refusals else ''}",
        where=path,
        remedy=f"Looked for: {'; '.join(asked)}. Anything else: write it as JSON lines, CSV or Parquet and name its "
        'columns, as in columns = { post_id = "id", text = "body" }',
    )


def _source(path: Path, reader: Reader, head: bytes) -> PostSource:
    """A source as the project file would have it, with columns where the reader needs them."""
    name = re.sub(r"\W+", "-", path.resolve().name.partition(".")[0].lower()).strip("-") or "posts"
    given: dict[str, Any] = {"name": name, "path": str(path), "licence": "FILL IN", "reader": reader.name}
    if reader.name not in _GENERIC:
        return PostSource(**given)
    if reader.name == "delimited":
        first = head.splitlines()[0].decode("utf-8", "replace")
        given["separator"] = max("\t,;", key=first.count)
        there = [one.strip().strip('"') for one in first.split(given["separator"])]
    elif reader.name == "jsonl":
        there = _keys(json_object(head.split(b"\n", 1)[0]) or {})
    else:
        there = columns_of(next(one for one in members(path) if reader.may_open(one)))
    lower = {one.lower(): one for one in there}
    columns: dict[str, str | int] = {
        field: lower[found]
        for field, names in _NAMES.items()
        if (found := next((one for one in names.split() if one in lower), None))
    }
    if not {"post_id", "text"} <= columns.keys():
        raise InputError(
            f"{reader.title}, but no column is clearly {'a text' if 'post_id' in columns else 'an id'}",
            where=path,
            remedy=f'Its columns: {", ".join(there[:30])}. Write [[prepare.posts]] with reader = "{reader.name}" and '
            'columns = { post_id = "...", text = "..." }; without a header, header = false and positions from 0',
        )
    return PostSource(**given, columns=columns)


def _keys(record: dict[str, Any]) -> list[str]:
    nested = [f"{key}.{inner}" for key, value in record.items() if isinstance(value, dict) for inner in value]
    return [*record, *nested]


def _sample(source: PostSource, path: Path) -> dict[str, Any]:
    """Counts of the first records; of their posts the dates, languages, authors, and a few with people masked."""
    read, damaged, tombstones, refused = 0, 0, 0, Counter[str]()
    tables = [POST_SCHEMA.empty_table()]
    batches = chain.from_iterable(map(read_unit, units(source, path)))
    while read < SAMPLE and (batch := next(batches, None)) is not None:
        read, damaged, tombstones = read + batch.read, damaged + batch.damaged, tombstones + batch.tombstones.num_rows
        refused.update(batch.refused)
        tables.append(batch.posts)
    posts = cast(pl.DataFrame, pl.from_arrow(pa.concat_tables(tables)))
    times = posts["created_at"].dt.date().drop_nulls()
    # as the stage would clean them, people under names that hold for this once
    masked, _ = remove_personal_data(clean(posts["text"].head(POSTS)), pseudonymiser(secrets.token_bytes(32)))
    return {
        "whole": next(batches, None) is None,
        "read": read,
        "posts": posts.height,
        "refused": dict(refused.most_common()),
        "damaged": damaged,
        "tombstones": tombstones,
        "authors": posts["author_id"].drop_nulls().n_unique(),
        "replies": posts["parent_id"].count(),
        "first": str(times.min()) if len(times) else None,
        "last": str(times.max()) if len(times) else None,
        "languages": dict(detect(posts).value_counts(sort=True).iter_rows()) if posts.height else {},
        "masked_posts": list(masked),
    }


def _listed(found: Sequence[Member]) -> dict[str, Any]:
    return {"files": len(found), "bytes": sum(one.size for one in found), "names": [one.name for one in found[:SHOWN]]}


def _block(source: PostSource) -> str:
    """The source in the words of wingspan.toml."""
    lines = ["[[prepare.posts]]"]
    lines += [f"{field} = {json.dumps(getattr(source, field))}" for field in ("name", "path", "licence", "reader")]
    if source.separator != ",":
        lines.append(f"separator = {json.dumps(source.separator)}")
    if source.columns:
        pairs = ", ".join(f"{field} = {json.dumps(column)}" for field, column in source.columns.items())
        lines.append(f"columns = {{ {pairs} }}")
    return "\n".join(lines)


def render(found: Mapping[str, Any]) -> Text:
    """The document as a screen."""
    screen = Text.assemble((found["title"], "bold"), f"  (reader {found['reader']})\n")
    for name, words in _said(found):
        screen.append(f"  {name:<13}", "dim").append(f"{words}\n")
    for post in found["sample"]["masked_posts"]:
        screen.append("  • " + "\n    ".join(post[:300].splitlines()) + "\n", "italic")
    return screen.append(f"\n{found['block']}")


def _said(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    sample = found["sample"]
    for name in ("opens", "asks", "never opens"):
        if (listed := found[name.replace(" ", "_")])["files"]:
            yield name, f"{listed['files']:,} files, {size(listed['bytes'])}: {', '.join(listed['names'])}"
    if found["refused"]:
        yield "refuses", ", ".join(f"{count:,} {reason}" for reason, count in found["refused"].items())
    refused = "".join(f", {count:,} {reason}" for reason, count in sample["refused"].items())
    which = "all" if sample["whole"] else "the first"
    yield which, f"{sample['read']:,} records: {sample['posts']:,} posts{refused}, {sample['damaged']:,} damaged"
    if sample["posts"]:
        span = f"{sample['first']} to {sample['last']}, " if sample["first"] else ""
        yield "posts", f"{span}by {sample['authors']:,} people, replies among them {sample['replies']:,}"
        yield "languages", ", ".join(f"{code} {count:,}" for code, count in list(sample["languages"].items())[:8])
    if sample["tombstones"]:
        yield "tombstones", f"{sample['tombstones']:,}: what they name is removed from every source"
