"""Records out of a member: lines, JSON objects on lines, the elements of a JSON array of any length.

Memory stays flat, and every record is accounted for: what cannot be read is handed on as damage.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from wingspan.prepare.readers.archives import Member, one_member

BATCH = 8192  # records
BATCH_BYTES = 32 << 20
MAX_RECORD = 16 << 20  # bytes; a longer record is damaged
DAMAGED = b"\0"  # stands for a line that is too long: no format reads it as a record

_JSON = json.JSONDecoder(strict=False, parse_constant=lambda _: None)  # line breaks within a string do not lose it
_BETWEEN = re.compile(r"[\s,]*")
_MIXED = "wingspan.mixed"

Record = TypeVar("Record")
Item = TypeVar("Item")


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(_MIXED, _as_windows_1252)


def text_of(raw: bytes) -> str:
    """Text of mixed encodings: UTF-8, Windows-1252 where bytes are not UTF-8; no NUL."""
    return raw.decode("utf-8", _MIXED).replace("\0", "")


def batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of `BATCH` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def text_lines(file: Member | Path) -> Iterator[str]:
    """Lines of a text file of mixed encodings, blank ones too, without their ends."""
    for block in blocks(file if isinstance(file, Member) else one_member(file)):
        yield from (text_of(line).rstrip("\r") for line in block.removesuffix(b"\n").split(b"\n"))


def blocks(member: Member) -> Iterator[bytes]:
    """Whole lines, about a mebibyte of them at once; `DAMAGED` stands for each that is too long."""
    chunks = member.chunks()
    rest, too_long = b"", False
    for chunk in _within(chunks, *member.part) if member.part else chunks:
        end = chunk.rfind(b"\n") + 1
        if end == 0:
            rest += chunk
        elif too_long:
            rest, too_long, block = chunk[end:], False, DAMAGED + chunk[chunk.find(b"\n") : end]
            yield block
        else:
            rest, block = chunk[end:], rest + chunk[:end]
            yield block
        if len(rest) > MAX_RECORD:
            rest, too_long = b"", True
    if rest or too_long:
        yield DAMAGED if too_long else rest


def _within(chunks: Iterable[bytes], begin: int, end: int) -> Iterator[bytes]:
    """The lines that begin in a part of a file, of chunks from the byte before it."""
    at, inside = max(begin - 1, 0), begin == 0
    for chunk in chunks:
        start = 0
        if not inside:
            start = chunk.find(b"\n") + 1
            inside = start > 0
            if inside and at + start >= end:
                return
        stop = chunk.find(b"\n", max(end - 1 - at, start)) + 1 if at + len(chunk) >= end else 0
        if inside:
            yield chunk[start : stop or None]
        if stop:
            return
        at += len(chunk)


def json_lines(
    member: Member, decoder: msgspec.json.Decoder[Record], fit: Callable[[Any], Any] = lambda record: record
) -> Iterator[tuple[list[Record], int]]:
    """The objects on lines, some thousands at a time, and how many lines hold none even after `fit` has seen them."""
    records, damaged, size = list[Record](), 0, 0
    for block in blocks(member):
        found = _decoded(decoder, block)
        if found is None:  # damage somewhere: line by line it shows where
            found = []
            for line in block.split(b"\n"):
                one = _decoded(decoder, line)
                one = _decoded(decoder, _mended(line, fit)) if one is None else one
                damaged += one is None
                found += one or ()
        records += found
        size += len(block)
        if len(records) >= BATCH or size >= BATCH_BYTES:
            yield records, damaged
            records, damaged, size = [], 0, 0
    yield records, damaged


def _decoded(decoder: msgspec.json.Decoder[Record], lines: bytes) -> list[Record] | None:
    """The records on lines; None when one of them is damaged."""
    try:
        return decoder.decode_lines(lines)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _mended(line: bytes, fit: Callable[[Any], Any]) -> bytes:
    """JSON without NUL bytes, foreign encodings, control characters in strings and lone surrogates."""
    record = json_object(line)
    return DAMAGED if record is None else json.dumps(fit(record), ensure_ascii=False).encode("utf-8", "replace")


def printed_as_one(member: Member) -> bytes | None:
    """The bracket that a file of JSON begins with when it is no file of lines."""
    if member.part:
        return None
    found = re.match(rb"\s*(?:(\[)|(\{)\s*\n)", next(replace(member, problems=[]).chunks(), b""))
    return (found[1] or found[2]) if found else None


def json_records(member: Member, kind: type[Record]) -> Iterator[tuple[list[Record], int]]:
    """Typed objects some at a time, and how many are damaged: on lines, in an array, or printed one after the other."""
    if (printed := printed_as_one(member)) is None:
        decoder = msgspec.json.Decoder(kind)
        yield from json_lines(member, decoder)
        return
    items = json_items(member, r"\[" if printed == b"[" else r"(?=\{)")
    for batch in batched(items):
        yield as_records(batch, kind)


def as_records(items: Iterable[Any], kind: type[Record]) -> tuple[list[Record], int]:
    """Objects as typed records, and how many have another form."""
    records, damaged = list[Record](), 0
    for item in items:
        try:
            records.append(msgspec.convert(item, kind))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            damaged += 1
    return records, damaged


def json_object(line: bytes | str) -> dict[str, Any] | None:
    """The object on a line; None when it is damaged or something else."""
    try:
        record = _JSON.decode((line if isinstance(line, str) else text_of(line)).strip())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def json_items(member: Member, opening: str = r"\[") -> Iterator[Any]:
    """Values after the first match of `opening`, one by one; None for each stretch that is damaged.

    They are the elements of an array when `opening` ends with its bracket, else they go on to the end of the file.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(_MIXED)
    texts = (decoder.decode(chunk).replace("\0", "") for chunk in member.chunks())
    text = ""
    while not (begun := re.search(opening, text)):
        more = next(texts, None) if len(text) < MAX_RECORD else None
        if more is None:
            yield None
            return
        text += more
    in_array = begun.group().endswith("[")
    at, gap = begun.end(), r",\s*"  # what stands between values, learned from the last two
    while True:
        start = found.end() if (found := _BETWEEN.match(text, at)) else at
        if in_array and text.startswith("]", start):
            return
        try:
            item, end = _JSON.raw_decode(text, start)
        except (ValueError, RecursionError):
            more = next(texts, None) if len(text) - start < MAX_RECORD else None
            if more is not None:
                text, at = text[at:] + more, 0
                continue
            if start < len(text) or in_array:
                yield None
            if (following := re.compile(gap + r"(?=\{)").search(text, start + 1)) is None:
                return
            at = following.end()
        else:
            gap = re.escape(text[at:start]) if at > begun.end() else gap
            at = end
            yield item
