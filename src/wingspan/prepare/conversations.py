"""The conversation as prepare makes it, and its Parquet form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wingspan.model.chat import Message
from wingspan.post import CONVERSATION_SCHEMA

DIALOGUE, GROUNDED, LABEL = "dialogue", "grounded", "label"


@dataclass(frozen=True)
class Conversation:
    """Turns of a conversation, the posts it rests on (deletions follow them), and which side of the split it is on."""

    messages: tuple[Message, ...]
    kind: str
    source: str
    split: str
    post_ids: tuple[str, ...] = ()
    lang: str | None = None

    @property
    def conversation_id(self) -> str:
        """Kind and a hash of the turns: the same words have the same id in every run."""
        turns = json.dumps(self.messages, ensure_ascii=False, sort_keys=True)
        return f"{self.kind}-{hashlib.blake2b(turns.encode(), digest_size=8).hexdigest()}"


def write_conversations(conversations: Iterable[Conversation], path: Path) -> int:
    """Write them by id, each once; returns how many."""
    rows = {one.conversation_id: one for one in conversations}
    ordered = [(name, rows[name]) for name in sorted(rows)]
    table = pa.Table.from_pylist([_row(name, one) for name, one in ordered], schema=CONVERSATION_SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
    return len(ordered)


def _row(name: str, one: Conversation) -> dict[str, object]:
    return {
        "conversation_id": name,
        "messages": list(one.messages),
        "post_ids": sorted(set(one.post_ids)),
        "lang": one.lang,
        "kind": one.kind,
        "source": one.source,
    }


def exchange(question: str, answer: str, before: Sequence[Message] = ()) -> tuple[Message, ...]:
    """`before`, then the user's question and the assistant's answer."""
    return (*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer})
