"""What prepare did, as data for report.json: a funnel that adds up, and samples to judge the rules by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from wingspan.prepare.flow.flow import Dataset, Tally, frame_of
from wingspan.project import PostSource

_SAMPLES = 5


def funnel(read: Tally, settled: Tally, sources: Sequence[PostSource]) -> dict[str, Any]:
    """Records read, refused by reason, damaged and kept, in total and per source.

    read = kept + sum of refused + damaged, exactly; a break of that is a bug and stops the stage.
    """
    by_source: list[dict[str, Any]] = []
    for source in sources:
        count = read["sources"][source.name]
        refused = Counter(count.get("refused", {})) + Counter(settled["refused"].get(source.name, {}))
        by_source.append(
            {
                "name": source.name,
                "reader": source.reader,
                "licence": source.licence,
                "read": count.get("read", 0),
                "refused": _largest_first(refused),
                "damaged": count.get("damaged", 0),
                "kept": settled["kept"].get(source.name, 0),
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


def samples(drawn: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """At most five posts per rule, without personal data; a duplicate with what it repeats."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for row in drawn.group_by("rule", maintain_order=True).head(_SAMPLES).iter_rows(named=True):
        names = ("post_id", "text", "repeats", "kept") if row["repeats"] else ("post_id", "text")
        shown.setdefault(row["rule"], []).append({name: row[name] for name in names})
    return shown


def contaminated(posts: Dataset) -> list[dict[str, str]]:
    """The posts that share words with an evaluation set, and the item of it."""
    columns = [frame_of(table.select(["post_id", "item"])).drop_nulls("item") for table in posts.tables()]
    return pl.concat(columns).to_dicts() if columns else []


def profile(settled: Tally, published: Tally) -> dict[str, Any]:
    """Languages, lengths and the split of the kept posts."""
    lengths = np.array(sorted((int(length), number) for length, number in published["lengths"].items()))
    up_to = np.cumsum(lengths[:, 1])
    quantiles = {
        name: int(lengths[np.searchsorted(up_to, 1 + round(share * (up_to[-1] - 1))), 0])
        for name, share in (("shortest", 0.0), ("median", 0.5), ("p95", 0.95), ("longest", 1.0))
    }
    return {
        "split": _largest_first(settled["split"]),
        "languages": _largest_first(published["languages"]),
        "characters": quantiles | {"total": int((lengths[:, 0] * lengths[:, 1]).sum())},
        "lengths": _histogram(lengths),
        "bytes": published["bytes"],
    }


def _histogram(lengths: npt.NDArray[np.int64]) -> list[dict[str, int]]:
    """Posts of up to so many characters, each bound twice the one before."""
    bounds = np.maximum(8, 2 ** np.ceil(np.log2(np.maximum(lengths[:, 0], 1))).astype(np.int64))
    return [
        {"up_to": int(bound), "posts": int(lengths[bounds == bound, 1].sum())}
        for bound in 2 ** np.arange(3, int(bounds.max()).bit_length())
    ]


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
