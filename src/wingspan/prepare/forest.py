"""Replies -> conversations, in linear time: each post is used at most once, a missing parent cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import polars as pl

from wingspan.model.chat import Message
from wingspan.prepare.conversations import DIALOGUE, Conversation


def reply_chains(posts: pl.DataFrame) -> list[list[int]]:
    """Rows of `posts` along replies, from a root to a leaf, two or more to a chain.

    A post is continued by its most liked reply, the earliest row among equals; the other replies begin
    chains of their own. A reply whose parent is absent, or is on the other side of the split, is a root.
    A circle of replies has no root and makes no chain.
    """
    rows = posts.select("post_id", "parent_id", "split", likes=pl.col("likes").fill_null(0)).with_row_index("row")
    parents = rows.select(parent_id="post_id", parent="row", split="split")
    linked = rows.join(parents, on=["parent_id", "split"], how="left")
    best = (
        linked.drop_nulls("parent")
        .sort(["parent", "likes", "row"], descending=[False, True, False])
        .unique("parent", keep="first", maintain_order=True)
    )
    next_row = dict(zip(best["parent"], best["row"], strict=True))
    continued = set(next_row.values())
    roots = linked.filter(pl.col("parent").is_null() | ~pl.col("row").is_in(list(continued)))["row"].sort()
    return [chain for root in roots if len(chain := _follow(root, next_row)) > 1]


def _follow(row: int | None, next_row: dict[int, int]) -> list[int]:
    chain: list[int] = []
    while row is not None:
        chain.append(row)
        row = next_row.get(row)
    return chain


def thread_conversations(posts: pl.DataFrame) -> Iterator[Conversation]:
    """Conversations of two or more speakers out of posts (columns of POST_SCHEMA, lang, split).

    What one author posts in a row is one turn. Turns alternate between user and assistant so that the
    last one is the assistant's; a first turn left over on the assistant's side is dropped.
    """
    columns = {name: posts[name].to_list() for name in ("post_id", "author_id", "text", "lang", "split", "source")}
    for chain in reply_chains(posts):
        turns = _turns(chain, columns["author_id"])
        turns = turns[len(turns) % 2 :]
        if not turns:
            continue
        messages: list[Message] = [
            {"role": ("user", "assistant")[number % 2], "content": "\n".join(columns["text"][row] for row in turn)}
            for number, turn in enumerate(turns)
        ]
        first, used = turns[0][0], [row for turn in turns for row in turn]
        yield Conversation(
            tuple(messages),
            DIALOGUE,
            columns["source"][first],
            columns["split"][first],
            tuple(columns["post_id"][row] for row in used),
            columns["lang"][first],
        )


def _turns(chain: Sequence[int], authors: Sequence[str | None]) -> list[list[int]]:
    """Consecutive rows of one known author together."""
    turns = [[chain[0]]]
    for before, row in pairwise(chain):
        if authors[row] is not None and authors[row] == authors[before]:
            turns[-1].append(row)
        else:
            turns.append([row])
    return turns
