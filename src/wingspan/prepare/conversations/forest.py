"""Replies -> conversations, in linear time over any number of posts: each is used at most once, a missing parent cuts.

Posts that hang together by replies are brought together first, by exchanges; each tree then fits into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from wingspan.model.chat import Message
from wingspan.prepare.conversations.conversation import DIALOGUE, Conversation, conversation_table
from wingspan.prepare.flow.components import components
from wingspan.prepare.flow.flow import Dataset, Flow, frame_of, keyed_by_part, place, row_of
from wingspan.prepare.repeats.hashing import text_hashes

_COLUMNS = ["post_id", "parent_id", "quote_of", "author_id", "text", "lang", "source", "likes"]


def thread_conversations(flow: Flow, split: str, posts: Dataset) -> Dataset:
    """Rows of conversations of two or more speakers out of the posts of one side of the split."""
    numbers = range(len(posts.parts))
    trees = components(
        flow, f"trees-{split}", flow.map(f"links-{split}", _links, posts.only("post_id", "parent_id", "quote_of"))
    )
    parts = flow.buckets(posts.rows)
    found = flow.exchange(f"tree-ids-{split}", _by_node, trees, parts=parts)
    places = flow.exchange(f"tree-posts-{split}", _nodes, numbers, posts.only("post_id"), parts=parts)
    labels = flow.exchange(f"tree-labels-{split}", _labelled, found, places, parts=len(numbers))
    text = posts.only(*_COLUMNS)
    whole = flow.exchange(f"forest-{split}", _in_trees, labels, text, parts=flow.batches(posts.rows))
    return flow.map(f"threads-{split}", partial(_threads, split), whole)


def _links(posts: pa.Table) -> pa.Table:
    """An edge from each reply to its parent, from each post that quotes and replies to none to what it quotes."""
    frame = _answering(frame_of(posts)).drop_nulls("answers")
    return pa.table({"left": text_hashes(frame["answers"]), "right": text_hashes(frame["post_id"])})


def _answering(posts: pl.DataFrame) -> pl.DataFrame:
    return posts.with_columns(answers=pl.coalesce("parent_id", "quote_of"))


def _by_node(stars: pa.Table) -> pa.Table:
    """Node and label; a label is its own."""
    frame = frame_of(stars)
    labels = frame.select(node="left", label="left").unique(maintain_order=True)
    both = pl.concat([frame.select(node="right", label="left"), labels])
    return both.with_columns(key="node").to_arrow()


def _nodes(part: int, posts: pa.Table) -> pa.Table:
    ids = frame_of(posts)["post_id"]
    return pa.table({"key": text_hashes(ids), "at": place(part, pl.Series(np.arange(len(ids))))})


def _labelled(labels: pa.Table, places: pa.Table) -> pa.Table:
    """Places of posts that hang together with others, and with whom."""
    known = frame_of(labels).select("node", "label").unique("node", maintain_order=True)
    found = frame_of(places).join(known, left_on="key", right_on="node", maintain_order="left").select("at", "label")
    return keyed_by_part(found, found["at"])


def _in_trees(labels: pa.Table, posts: pa.Table) -> pa.Table:
    """Posts moved to where their tree is."""
    found = frame_of(labels).sort("at")
    chosen = frame_of(posts)[row_of(found["at"])]
    return chosen.with_columns(key=found["label"]).to_arrow()


def _threads(split: str, posts: pa.Table) -> pa.Table:
    return conversation_table(conversations_of(frame_of(posts), split))


def reply_chains(posts: pl.DataFrame) -> list[list[int]]:
    """Rows of `posts` along replies, from a root to a leaf, two or more to a chain.

    A post is continued by its most liked reply, the earliest row among equals; the other replies begin
    chains of their own. A reply whose parent is absent is a root. A quote counts as a reply to what it quotes
    when it replies to nothing else. A circle of replies has no root and makes no chain.
    """
    rows = _answering(posts).select("post_id", "answers", likes=pl.col("likes").fill_null(0)).with_row_index("row")
    linked = rows.join(rows.select(answers="post_id", parent="row"), on="answers", how="left")
    best = (
        linked.drop_nulls("parent")
        .sort(["parent", "likes", "row"], descending=[False, True, False])
        .unique("parent", keep="first", maintain_order=True)
    )
    next_row = dict(zip(best["parent"], best["row"], strict=True))
    continued = set(next_row.values())
    return [chain for root in sorted(next_row.keys() - continued) if len(chain := _follow(root, next_row)) > 1]


def _follow(row: int | None, next_row: dict[int, int]) -> list[int]:
    chain: list[int] = []
    while row is not None:
        chain.append(row)
        row = next_row.get(row)
    return chain


def conversations_of(posts: pl.DataFrame, split: str) -> Iterator[Conversation]:
    """Conversations of two or more speakers out of posts (columns of POST_SCHEMA, lang).

    What one author posts in a row is one turn. Turns alternate between user and assistant so that the
    last one is the assistant's; a first turn left over on the assistant's side is dropped.
    """
    columns = {name: posts[name].to_list() for name in ("post_id", "author_id", "text", "lang", "source")}
    for chain in reply_chains(posts):
        turns = _turns(chain, columns["author_id"])
        turns = turns[len(turns) % 2 :]
        if not turns:
            continue
        messages: list[Message] = [
            {"role": ("user", "assistant")[number % 2], "content": "\n".join(columns["text"][row] for row in turn)}
            for number, turn in enumerate(turns)
        ]
        post_ids = tuple(columns["post_id"][row] for turn in turns for row in turn)
        source, lang = (columns[name][turns[0][0]] for name in ("source", "lang"))
        yield Conversation(tuple(messages), DIALOGUE, source, split, post_ids, lang)


def _turns(chain: Sequence[int], authors: Sequence[str | None]) -> list[list[int]]:
    """Consecutive rows of one known author together."""
    turns = [[chain[0]]]
    for before, row in pairwise(chain):
        if authors[row] is not None and authors[row] == authors[before]:
            turns[-1].append(row)
        else:
            turns.append([row])
    return turns
