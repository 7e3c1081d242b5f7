"""What is said, in the chat form: dialogues of the sources, questions about labels, questions about posts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from wingspan.knowledge.index import PostIndex
from wingspan.prepare import posts as steps
from wingspan.prepare.conversations.conversation import Conversation
from wingspan.prepare.conversations.dialogues import in_served_form, read_dialogues, split_dialogues
from wingspan.prepare.conversations.grounded import grounded_conversations, source_posts
from wingspan.prepare.conversations.labels import label_conversations, labelled_posts, read_labels
from wingspan.prepare.flow.flow import Dataset, frame_of
from wingspan.prepare.split import SPLITS, TRAIN
from wingspan.workspace import StageContext

SHOWN_POSTS = 4  # before a question; what serve.retrieved_posts is by default
ASKED_ABOUT = 20_000  # posts of each side that grounded conversations are made from: enough for any number of them


def dialogues_of(
    context: StageContext, pseudonym: Callable[[str], str], evaluation: Path | None
) -> tuple[list[Conversation], list[dict[str, Any]], list[dict[str, str]]]:
    """Dialogues of all sources without personal data, what became of each source's records, and evaluation items."""
    project = context.project
    conversations: list[Conversation] = []
    counts = []
    asked: list[dict[str, str]] = []
    for source in project.prepare.dialogues:
        read = read_dialogues(source, context.run.outside(source.path))
        found = split_dialogues(read.dialogues, source, project.project.seed, project.prepare.held_out)
        items = [_item(one, evaluation) for one in found]
        kept = [one for one, item in zip(found, items, strict=True) if item is None]
        conversations += kept
        pairs = zip(found, items, strict=True)
        asked += [{"conversation_id": one.conversation_id, "item": item} for one, item in pairs if item is not None]
        counts.append(
            {
                "name": source.name,
                "reader": source.reader,
                "licence": source.licence,
                "read": read.read,
                "refused": dict(sorted(read.refused.items()))
                | {"over the limit": len(read.dialogues) - len(found), steps.CONTAMINATED: len(found) - len(kept)},
                "damaged": read.damaged,
                "kept": len(kept),
            }
        )
    texts = pl.Series([turn["content"] for one in conversations for turn in one.messages], dtype=pl.String)
    protected = iter(steps.protected(texts, project.prepare, pseudonym)[0])
    conversations = [
        replace(one, messages=tuple({"role": turn["role"], "content": next(protected)} for turn in one.messages))
        for one in conversations
    ]
    return conversations, counts, asked


def _item(conversation: Conversation, evaluation: Path | None) -> str | None:
    """The first evaluation item that a turn shares words with."""
    turns = pl.Series([turn["content"] for turn in conversation.messages], dtype=pl.String)
    return next(iter(steps.items_in(turns, evaluation).drop_nulls()), None)


def labels_of(context: StageContext) -> tuple[list[Conversation], list[dict[str, Any]]]:
    """Writes labels/NAME.parquet; returns label questions of both sides, and what became of each source's records."""
    settings = context.project.prepare
    conversations: list[Conversation] = []
    counts = []
    sides = (
        pl.scan_parquet(context.output / f"posts/{one}-*.parquet").with_columns(split=pl.lit(one)) for one in SPLITS
    )
    posts = pl.concat(sides)
    for source in settings.labels:
        read = read_labels(source, context.run.outside(source.path))
        labelled = labelled_posts(read, source, posts)
        path = context.output / f"labels/{source.name}.parquet"
        path.parent.mkdir(exist_ok=True)
        labelled.select("post_id", "value", "split").write_parquet(path, compression="zstd")
        for split in SPLITS:
            count = _share(settings.label_dialogues, settings.held_out, split)
            conversations += label_conversations(source.name, labelled, split, count, _generator(context, split, 1))
        counts.append(
            {
                "name": source.name,
                "licence": source.licence,
                "read": len(read.values) + read.damaged,
                "damaged": read.damaged,
                "of kept posts": labelled.height,
            }
        )
    return conversations, counts


def with_posts(
    context: StageContext, splits: Mapping[str, Dataset], dialogues: Sequence[Conversation]
) -> Iterator[Conversation]:
    """Grounded conversations of both sides, and the dialogues, some of them in the server's form."""
    settings, system = context.project.prepare, context.project.assistant.instructions
    for split, posts in splits.items():
        random = _generator(context, split, 2)
        asked_about = _some(posts, random)
        index = PostIndex()
        index.add(source_posts(asked_about))
        count = settings.grounded_dialogues if split == TRAIN else settings.grounded_held_out
        yield from grounded_conversations(asked_about, index, split, count, system, SHOWN_POSTS, random)
        found = partial(_finds_posts, index)
        yield from (in_served_form(one, system, found) for one in dialogues if one.split == split)
        index.close()


def _some(posts: Dataset, random: np.random.Generator) -> pl.DataFrame:
    """At most `ASKED_ABOUT` posts, all equally likely, in order."""
    rows = posts.rows
    chosen = np.sort(random.choice(rows, min(rows, ASKED_ABOUT), replace=False, shuffle=False))
    found, before = [], 0
    for table in posts.tables():
        here = chosen[(chosen >= before) & (chosen < before + len(table))] - before
        found.append(frame_of(table.select(["post_id", "text"]))[here])
        before += len(table)
    return pl.concat(found)


def _finds_posts(index: PostIndex, question: str) -> bool:
    return bool(index.search(question, 1))


def _share(count: int, held_out: float, split: str) -> int:
    """`count` for training and, beside it, the same share as of posts for the held-out side."""
    return count if split == TRAIN else round(count * held_out / (1 - held_out))


def _generator(context: StageContext, split: str, purpose: int) -> np.random.Generator:
    return np.random.default_rng([context.project.project.seed, SPLITS.index(split), purpose])
