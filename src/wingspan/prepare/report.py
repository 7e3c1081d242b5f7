"""What prepare did, as data for report.json: a funnel that adds up, and samples to judge the rules by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from wingspan.prepare.conversations import Conversation
from wingspan.prepare.posts import KEPT, SourceCount
from wingspan.project import PostSource

_SAMPLES = 5


def funnel(posts: pl.DataFrame, counts: Mapping[str, SourceCount], sources: Sequence[PostSource]) -> dict[str, Any]:
    """Records read, refused by reason, damaged and kept, in total and per source.

    read = kept + sum of refused + damaged, exactly; a break of that is a bug and stops the stage.
    """
    by_source: list[dict[str, Any]] = []
    for source in sources:
        count, own = counts[source.name], posts.filter(pl.col("source") == source.name)
        refused = count.refused + Counter(own["refused"].drop_nulls().to_list())
        by_source.append(
            {
                "name": source.name,
                "reader": source.reader,
                "licence": source.licence,
                "read": count.read,
                "refused": _largest_first(refused),
                "damaged": count.damaged,
                "kept": own.filter(KEPT).height,
            }
        )
    refused = sum((Counter(one["refused"]) for one in by_source), Counter[str]())
    total = {name: sum(one[name] for one in by_source) for name in ("read", "damaged", "kept")}
    assert total["read"] == total["kept"] + refused.total() + total["damaged"], "records were lost"
    return {
        "read": total["read"],
        "refused": _largest_first(refused),
        "damaged": total["damaged"],
        "kept": total["kept"],
        "sources": by_source,
    }


def samples(posts: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """At most five refused posts per rule, without personal data; a duplicate with what it repeats."""
    kept = dict(posts.filter(KEPT).select("post_id", "text").iter_rows())
    shown = {}
    for reason in sorted(posts["refused"].drop_nulls().unique().to_list()):
        rows = posts.filter((pl.col("refused") == reason) & (pl.col("text") != "")).head(_SAMPLES)
        if rows.is_empty():  # nobody reads what is deleted or opted out any more, here neither
            continue
        shown[reason] = [
            {"post_id": post_id, "text": text} | ({"repeats": repeats, "kept": kept.get(repeats)} if repeats else {})
            for post_id, text, repeats in rows.select("post_id", "text", "repeats").iter_rows()
        ]
    return shown


def profile(kept: pl.DataFrame) -> dict[str, Any]:
    """Languages, lengths and the split of the kept posts."""
    characters = kept["text"].str.len_chars()
    quantiles = {
        name: characters.quantile(share, "nearest")
        for name, share in (("shortest", 0.0), ("median", 0.5), ("p95", 0.95), ("longest", 1.0))
    }
    return {
        "split": _largest_first(Counter(kept["split"].to_list())),
        "languages": _largest_first(Counter(kept["lang"].to_list())),
        "characters": quantiles | {"total": int(characters.sum())},
        "bytes": int(kept["text"].str.len_bytes().sum()),
    }


def conversation_counts(conversations: Sequence[Conversation]) -> dict[str, dict[str, int]]:
    """Split -> kind -> number."""
    found = Counter((one.split, one.kind) for one in conversations)
    table: dict[str, dict[str, int]] = {}
    for (split, kind), number in sorted(found.items()):
        table.setdefault(split, {})[kind] = number
    return table


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
