"""Columns of any source -> posts: the column map, the allow-list of visibilities, exact accounting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import polars as pl
import pyarrow as pa

from wingspan.errors import InputError, did_you_mean
from wingspan.post import POST_SCHEMA, TOMBSTONE_SCHEMA
from wingspan.prepare.readers.registry import ReadBatch
from wingspan.project import PostSource

READABLE = ("public", "unlisted")
_TYPES: dict[str, pa.DataType] = {field.name: field.type for field in POST_SCHEMA}
_LIST = pa.list_(pa.string())
_TIME = pl.Datetime("ms", "UTC")
_POLARS_TYPES = cast(pl.DataFrame, pl.from_arrow(POST_SCHEMA.empty_table())).schema
LIST_FIELDS = frozenset(name for name, kind in _TYPES.items() if pa.types.is_list(kind))
FIELDS = tuple(name for name in _TYPES if name != "source")

# What platforms write: how such a time looks, its format, and whether it names a zone (else it is UTC).
_TIME_FORMATS = (
    (r"[A-Z][a-z]{2} ", "%a %b %d %H:%M:%S %z %Y", True),
    (r"\S+T\S+(?:[zZ]|[+-]\d\d:?\d\d)$", "%Y-%m-%dT%H:%M:%S%.f%z", True),
    (r"\S+T", "%Y-%m-%dT%H:%M:%S%.f", False),
    (r"\S+ \S+ ", "%Y-%m-%d %H:%M:%S %z", True),
    (r"\S+ ", "%Y-%m-%d %H:%M:%S%.f", False),
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
        remedy = did_you_mean(unknown[0], FIELDS, "Fields", cutoff=0.4)
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
    columns = pa.table({name: _array(name, values) for name, values in raw.items()})
    return from_frame(cast(pl.DataFrame, pl.from_arrow(columns)), source, damaged, tombstones)


def _array(name: str, values: Sequence[Any]) -> pa.Array:
    """A column of what JSON holds: whole numbers and truth values stay, all else becomes text or null."""
    kinds = set(map(type, values)) - {type(None)}
    scalar = pa.int64() if kinds == {int} else pa.bool_() if kinds == {bool} else pa.string()
    try:
        return pa.array(values, _LIST if name in LIST_FIELDS else scalar)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        mended = [(as_texts if name in LIST_FIELDS else as_text)(value) for value in values]
        return pa.array(mended, _LIST if name in LIST_FIELDS else pa.string())


def from_frame(raw: pl.DataFrame, source: str, damaged: int = 0, tombstones: Iterable[Tombstone] = ()) -> ReadBatch:
    """A frame whose columns bear post fields' names -> a batch, as `read_batch`."""
    raw = raw.with_columns(_present(name) for name, kind in raw.schema.items() if kind == pl.String and name != "text")
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
    typed = {name: _typed(whole[name], name) for name in _TYPES if name in whole.columns}
    arrays = [
        typed[name].to_arrow().cast(kind) if name in typed else pa.nulls(whole.height, kind)
        for name, kind in _TYPES.items()
    ]
    return ReadBatch(pa.table(arrays, POST_SCHEMA), refused, damaged, pa.Table.from_pylist(notices, TOMBSTONE_SCHEMA))


def _present(name: str) -> pl.Expr:
    """An empty text means nothing."""
    stripped = pl.col(name).str.strip_chars()
    return pl.when(stripped != "").then(stripped).alias(name)


def _typed(values: pl.Series, name: str) -> pl.Series:
    """A column in its type of POST_SCHEMA; what does not parse becomes null."""
    kind, found = _TYPES[name], values.dtype
    if pa.types.is_timestamp(kind):
        return _time(values, keep_unreadable=name == "deleted_at")
    if pa.types.is_boolean(kind) and found == pl.String:
        words = {"true": True, "1": True, "false": False, "0": False}
        return values.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if name in LIST_FIELDS and not isinstance(found, pl.List):
        frame = values.cast(pl.String).to_frame("one")
        return frame.select(pl.when(pl.col("one").is_not_null()).then(pl.concat_list("one")))["one"]
    return values.cast(_POLARS_TYPES[name], strict=False)


def _time(values: pl.Series, *, keep_unreadable: bool) -> pl.Series:
    """UTC in milliseconds from a timestamp, an epoch or text.

    `keep_unreadable`: a deletion whose time cannot be read is still a deletion (dated 1970).
    """
    found = values.dtype
    if isinstance(found, pl.Datetime):
        return (values if found.time_zone else values.dt.replace_time_zone("UTC")).cast(_TIME)
    text, time = values.cast(pl.String), pl.Series(values.name, [None], _TIME).new_from_index(0, len(values))
    sample = next(iter(text.drop_nulls().head(1)), "")
    for _, way in sorted(_WAYS, key=lambda one: re.match(one[0], sample) is None):  # mostly one way reads all
        if time.null_count() > text.null_count():
            time = time.fill_null(way(text))
    if keep_unreadable:
        time = time.fill_null(datetime.fromtimestamp(0, UTC)).set(values.is_null(), None)
    return time


def _epoch(text: pl.Series) -> pl.Series:
    number = text.str.extract(r"^(\d{1,14})(?:\.\d*)?$").cast(pl.Int64, strict=False)
    milliseconds = pl.select(pl.when(number > _MILLISECONDS_FROM).then(number).otherwise(number * 1000)).to_series()
    return milliseconds.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def _written(text: pl.Series, pattern: str, zoned: bool) -> pl.Series:
    text = text.str.replace("[zZ]$", "+00:00") if pattern.startswith("%Y") and zoned else text
    time = text.str.to_datetime(pattern, strict=False, time_unit="ms", time_zone="UTC" if zoned else None)
    return time if zoned else time.dt.replace_time_zone("UTC")


_WAYS: list[tuple[str, Callable[[pl.Series], pl.Series]]] = [
    *((look, partial(_written, pattern=pattern, zoned=zoned)) for look, pattern, zoned in _TIME_FORMATS),
    (r"[\d.]+$", _epoch),
]
