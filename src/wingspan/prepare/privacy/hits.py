"""Rust regular expressions pass over all texts; Python sees only the few that hit."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl


def on_hits(texts: pl.Series, pattern: str, change: Callable[[str], str]) -> pl.Series:
    """`texts` with `change` applied to those that `pattern` (Rust regex syntax) finds something in."""
    return where(texts, texts.str.contains(pattern), lambda some: [change(text) for text in some])


def where(texts: pl.Series, chosen: pl.Series, change: Callable[[list[str]], list[str]]) -> pl.Series:
    """`texts` with the chosen ones (a boolean column; null is no) changed, all at once."""
    rows = chosen.fill_null(False).arg_true()
    if rows.is_empty():
        return texts
    return texts.clone().scatter(rows, pl.Series(change(texts.gather(rows).to_list()), dtype=pl.String))


def where_true(texts: pl.Series, chosen: pl.Series, test: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """A boolean column: whether a text is chosen and passes `test`, which looks at no other."""
    rows = chosen.arg_true()
    passed = test(texts.gather(rows)).fill_null(False)
    return pl.repeat(False, len(texts), eager=True).scatter(rows, passed)
