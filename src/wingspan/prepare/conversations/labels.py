"""Labels of posts: read, joined to the posts that stayed, and asked as questions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from wingspan.errors import InputError
from wingspan.knowledge.labels import LABEL_CLASSES, label_class, label_question
from wingspan.prepare.conversations.conversation import LABEL, Conversation, exchange
from wingspan.prepare.readers.delimited import rows
from wingspan.project import LabelSource


@dataclass(frozen=True)
class LabelsRead:
    """Values by post id, and how many records could not be read."""

    values: dict[str, float]
    damaged: int


def read_labels(source: LabelSource, path: Path) -> LabelsRead:
    """Labels of a delimited file without a header; raises InputError when not one record can be read."""
    values: dict[str, float] = {}
    damaged = 0
    for row in rows(path, source.separator):
        if (label := _label(row, source)) is None:
            damaged += 1
        else:
            values[label[0]] = label[1]
    if not values:
        raise InputError(
            "no label could be read",
            where=path,
            remedy=f"Check separator, post_id and value of prepare.labels '{source.name}'",
        )
    return LabelsRead(values, damaged)


def _label(row: list[str] | None, source: LabelSource) -> tuple[str, float] | None:
    if row is None or len(row) <= max(source.post_id, source.value):
        return None
    try:
        value = float(row[source.value])
    except ValueError:
        return None
    return (row[source.post_id].strip(), value) if math.isfinite(value) else None


def labelled_posts(labels: LabelsRead, source: LabelSource, posts: pl.LazyFrame) -> pl.DataFrame:
    """Columns post_id, value, split, text, lang: the labels of posts that stayed, in the posts' order."""
    schema = {"post_id": pl.String, "value": pl.Float64}
    values = pl.DataFrame([[*labels.values], [*labels.values.values()]], schema, orient="col")
    chosen = posts.filter(pl.col("source") == source.posts).select("post_id", "text", "lang", "split")
    joined = chosen.join(values.lazy(), on="post_id", maintain_order="left")
    return joined.select("post_id", "value", "split", "text", "lang").collect()


def label_conversations(
    name: str, labelled: pl.DataFrame, split: str, count: int, generator: np.random.Generator
) -> list[Conversation]:
    """At most `count` label questions about posts of one side, the classes as equal in number as the posts allow."""
    by_class: dict[str, list[dict[str, str]]] = {one: [] for one in LABEL_CLASSES}
    for row in labelled.filter(pl.col("split") == split).iter_rows(named=True):
        by_class[label_class(row["value"])].append(row)
    conversations = []
    for position, (answer, candidates) in enumerate(by_class.items()):
        wanted = (count + position) // len(LABEL_CLASSES)  # thirds that add up to count
        for at in generator.permutation(len(candidates))[:wanted]:
            row = candidates[at]
            messages = exchange(label_question(name, row["text"]), answer)
            conversations.append(Conversation(messages, LABEL, name, split, (row["post_id"],), row["lang"]))
    return conversations
