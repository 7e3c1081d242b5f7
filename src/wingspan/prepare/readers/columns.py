"""Columns of any source -> posts: the column map, the allow-list of visibilities, exact accounting."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa

from wingspan.errors import InputError
from wingspan.post import POST_SCHEMA
from wingspan.prepare.readers.registry import ReadBatch
from wingspan.project import PostSource

READABLE = ("public", "unlisted")
BATCH = 50_000  # records

_TYPES: dict[str, pa.DataType] = {field.name: field.type for field in POST_SCHEMA}
LIST_FIELDS = frozenset(name for name, kind in _TYPES.items() if pa.types.is_list(kind))
FIELDS = tuple(name for name in _TYPES if name != "source")

# What platforms write; the first format that parses wins, a time without a zone is UTC.
_TIME_FORMATS = (
    ("%Y-%m-%dT%H:%M:%S%.f%z", True),
    ("%a %b %d %H:%M:%S %z %Y", True),
    ("%Y-%m-%dT%H:%M:%S%.f", False),
    ("%Y-%m-%d %H:%M:%S%.f", False),
)
_MILLISECONDS_FROM = 10**11  # a larger epoch is in milliseconds: in seconds it would be the year 5138

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int = BATCH) -> Iterator[list[Item]]:
    """Lists of at most `size` items, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def column_map(source: PostSource, available: Sequence[str] | None = None) -> dict[str, str | int]:
    """Post field -> column of the source; without a map, the columns that bear a post field's name.

    `available` are the source's columns where they are known. Raises InputError for a field that posts do
    not have, a column that the source does not have, and when post_id or text have no column.
    """
    where = f"prepare.posts '{source.name}'.columns"
    if unknown := [name for name in source.columns if name not in FIELDS]:
        near = difflib.get_close_matches(unknown[0], FIELDS, n=1, cutoff=0.4)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Fields: {', '.join(FIELDS)}"
        raise InputError(f"a post has no field '{unknown[0]}'", where=where, remedy=remedy)
    columns = dict(source.columns)
    if not columns:
        columns = {name: name for name in FIELDS if available is None or name in available}
    if missing := [one for one in columns.values() if available is not None and one not in available]:
        raise InputError(
            f"the source has no column '{missing[0]}'", where=where, remedy=f"Its columns: {', '.join(available or ())}"
        )
    for needed in ("post_id", "text"):
        if needed not in columns:
            raise InputError(f"no column is named for {needed}", where=where, remedy=f"Add {needed} = the column")
    return columns


def as_text(value: Any) -> str | None:
    """A scalar of a JSON record as text; None for null, for a structure, and for a number that lost digits."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate becomes "?"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53):
        return str(int(value))
    return None


def as_texts(value: Any) -> list[str] | None:
    """A list of texts, or one text as a list."""
    items = value if isinstance(value, list) else [value]
    texts = [text for item in items if (text := as_text(item))]
    return texts or None


def read_batch(raw: Mapping[str, Sequence[Any]], source: str, damaged: int = 0) -> ReadBatch:
    """Values by post field -> a batch. Scalars are texts, list fields are lists of texts.

    A record without id or text counts as damaged. Where the source states a visibility, only public and
    unlisted posts pass; one that is missing or unknown is refused.
    """
    schema = {name: pl.List(pl.String) if name in LIST_FIELDS else pl.String for name in raw}
    return from_frame(pl.DataFrame(dict(raw), schema=schema), source, damaged)


def from_frame(raw: pl.DataFrame, source: str, damaged: int = 0) -> ReadBatch:
    """A frame whose columns bear post fields' names -> a batch, as `read_batch`."""
    raw = raw.with_columns(_presence(raw, name) for name in raw.columns if name != "text")
    whole = raw.drop_nulls(["post_id", "text"])
    damaged += raw.height - whole.height
    refused = {}
    if "visibility" in whole.columns:
        readable = pl.col("visibility").cast(pl.String).str.to_lowercase().is_in(READABLE).fill_null(False)
        allowed = whole.filter(readable).with_columns(pl.col("visibility").str.to_lowercase())
        if whole.height > allowed.height:
            refused["not public"] = whole.height - allowed.height
        whole = allowed
    else:
        whole = whole.with_columns(visibility=pl.lit("public"))
    whole = whole.with_columns(source=pl.lit(source))
    posts = whole.select(_typed(whole, field.name, field.type) for field in POST_SCHEMA)
    return ReadBatch(posts.to_arrow().cast(POST_SCHEMA), refused, damaged)


def _presence(raw: pl.DataFrame, name: str) -> pl.Expr:
    """An empty text means nothing."""
    column = pl.col(name)
    if raw.schema[name] != pl.String:
        return column
    return pl.when(column.str.strip_chars() != "").then(column.str.strip_chars()).alias(name)


def _typed(raw: pl.DataFrame, name: str, kind: pa.DataType) -> pl.Expr:
    """The column in its type of POST_SCHEMA; what does not parse becomes null."""
    if name not in raw.columns:
        return pl.lit(None).cast(_polars_type(kind)).alias(name)
    column, found = pl.col(name), raw.schema[name]
    if pa.types.is_timestamp(kind):
        return _time(column, found, keep_unreadable=name == "deleted_at").alias(name)
    if pa.types.is_boolean(kind) and found == pl.String:
        return column.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None, return_dtype=pl.Boolean
        )
    if name in LIST_FIELDS and not isinstance(found, pl.List):
        return pl.when(column.is_not_null()).then(pl.concat_list(column.cast(pl.String))).alias(name)
    return column.cast(_polars_type(kind), strict=False)


def _polars_type(kind: pa.DataType) -> pl.DataType:
    converted = pl.from_arrow(pa.array([], kind))
    assert isinstance(converted, pl.Series)
    return converted.dtype


def _time(column: pl.Expr, found: pl.DataType, *, keep_unreadable: bool) -> pl.Expr:
    """UTC in milliseconds from a timestamp, an epoch or text.

    `keep_unreadable`: a deletion whose time cannot be read is still a deletion (dated 1970).
    """
    target = pl.Datetime("ms", "UTC")
    if isinstance(found, pl.Datetime):
        return column.cast(target) if found.time_zone else column.dt.replace_time_zone("UTC").cast(target)
    text = column.cast(pl.String).str.replace("[zZ]$", "+00:00")
    epoch = text.str.extract(r"^(\d{1,14})(?:\.\d*)?$").cast(pl.Int64, strict=False)
    milliseconds = pl.when(epoch > _MILLISECONDS_FROM).then(epoch).otherwise(epoch * 1000)
    parsed = [milliseconds.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")]
    for pattern, zoned in _TIME_FORMATS:
        time = text.str.to_datetime(pattern, strict=False, time_unit="ms", time_zone="UTC" if zoned else None)
        parsed.append(time if zoned else time.dt.replace_time_zone("UTC"))
    time = pl.coalesce(parsed)
    if keep_unreadable:
        time = pl.when(column.is_not_null()).then(time.fill_null(pl.lit(0).cast(target)))
    return time.cast(target)


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a file of mixed encodings: UTF-8, and line by line Windows-1252 where it is not; no NUL bytes."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
            yield _decode(line).replace("\0", "").rstrip("\r\n")


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")
