"""Columns of any source -> posts: the column map, the allow-list of visibilities, exact accounting."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from wingspan.errors import InputError
from wingspan.post import POST_SCHEMA, TOMBSTONE_SCHEMA
from wingspan.prepare.readers.registry import ReadBatch
from wingspan.project import PostSource

READABLE = ("public", "unlisted")
_TYPES: dict[str, pa.DataType] = {field.name: field.type for field in POST_SCHEMA}
LIST_FIELDS = frozenset(name for name, kind in _TYPES.items() if pa.types.is_list(kind))
FIELDS = tuple(name for name in _TYPES if name != "source")

# What platforms write; the first format that parses wins, a time without a zone is UTC.
_TIME_FORMATS = (
    ("%Y-%m-%dT%H:%M:%S%.f%z", True),
    ("%a %b %d %H:%M:%S %z %Y", True),
    ("%Y-%m-%d %H:%M:%S %z", True),
    ("%Y-%m-%dT%H:%M:%S%.f", False),
    ("%Y-%m-%d %H:%M:%S%.f", False),
)
_MILLISECONDS_FROM = 10**11  # a larger epoch is in milliseconds: in seconds it would be the year 5138

Tombstone = tuple[str, str, str, int | None, bool]  # TOMBSTONE_SCHEMA: kind, id, reason, at (ms), lifted


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


def read_batch(
    raw: Mapping[str, Sequence[Any]], source: str, damaged: int = 0, tombstones: Iterable[Tombstone] = ()
) -> ReadBatch:
    """Values by post field -> a batch. Scalars are texts, list fields are lists of texts, times also milliseconds.

    `raw["refused"]`, where it is given, says of each record why it must not be read, or None. A record without id or
    text counts as damaged. Where the source states a visibility, only public and unlisted posts pass; one that is
    missing or unknown is refused.
    """
    columns = {name: _series(name, values) for name, values in raw.items()}
    return from_frame(pl.DataFrame(columns), source, damaged, tombstones)


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    """A column of what JSON holds: whole numbers stay numbers, all else becomes text or null."""
    kind = pl.List(pl.String) if name in LIST_FIELDS else pl.String
    try:
        return pl.Series(name, values, dtype=pl.Int64 if set(map(type, values)) <= {int, type(None)} else kind)
    except (TypeError, OverflowError, UnicodeEncodeError, pl.exceptions.PolarsError):
        mended = [(as_texts if name in LIST_FIELDS else as_text)(value) for value in values]
        return pl.Series(name, mended, dtype=kind)


def from_frame(raw: pl.DataFrame, source: str, damaged: int = 0, tombstones: Iterable[Tombstone] = ()) -> ReadBatch:
    """A frame whose columns bear post fields' names -> a batch, as `read_batch`."""
    raw = raw.with_columns(_presence(raw, name) for name in raw.columns if name != "text")
    notices = [dict(zip(TOMBSTONE_SCHEMA.names, row, strict=True)) for row in tombstones]
    refused: dict[str, int] = {}
    if "refused" in raw.columns:
        counts = raw["refused"].drop_nulls().value_counts(sort=True)
        refused = dict(counts.iter_rows())
        raw = raw.filter(pl.col("refused").is_null())
    whole = raw.drop_nulls(["post_id", "text"])
    damaged += raw.height - whole.height
    if "visibility" in whole.columns:
        whole = whole.with_columns(pl.col("visibility").cast(pl.String).str.to_lowercase())
        allowed = whole.filter(pl.col("visibility").is_in(READABLE).fill_null(False))
        if whole.height > allowed.height:
            refused["not public"] = refused.get("not public", 0) + whole.height - allowed.height
        whole = allowed
    else:
        whole = whole.with_columns(visibility=pl.lit("public"))
    whole = whole.with_columns(source=pl.lit(source))
    posts = whole.select(_typed(whole, field.name, field.type) for field in POST_SCHEMA).to_arrow().cast(POST_SCHEMA)
    return ReadBatch(posts, refused, damaged, pa.Table.from_pylist(notices, TOMBSTONE_SCHEMA))


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
