"""One Rust regex pass over all texts; Python only for the few that hit."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl


def on_hits(texts: pl.Series, pattern: str, change: Callable[[str], str]) -> pl.Series:
    """`texts` with `change` applied to those that `pattern` (Rust regex syntax) finds something in."""
    where = texts.str.contains(pattern).fill_null(False).arg_true()
    if where.is_empty():
        return texts
    changed = pl.Series([change(text) for text in texts.gather(where)], dtype=pl.String)
    return texts.clone().scatter(where, changed)
