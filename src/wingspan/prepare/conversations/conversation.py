"""The conversation as prepare makes it, and its Parquet form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wingspan.model.chat import Message
from wingspan.post import CONVERSATION_SCHEMA, MESSAGE
from wingspan.prepare.flow.flow import Dataset, Flow, Tally, frame_of, tallied
from wingspan.prepare.repeats.hashing import text_hashes
from wingspan.prepare.split import SPLITS

_ROWS = CONVERSATION_SCHEMA.append(pa.field("split", pa.string()))
_quoted = json.JSONEncoder(ensure_ascii=False).encode
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
        turns = [f'{{"content": {_quoted(turn["content"])}, "role": "{turn["role"]}"}}' for turn in self.messages]
        whole = "[" + ", ".join(turns) + "]"
        return f"{self.kind}-{hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()}"


def conversation_table(conversations: Iterable[Conversation]) -> pa.Table:
    """As rows of CONVERSATION_SCHEMA and `split`."""
    found = [*conversations]
    turns = [turn for one in found for turn in one.messages]
    ids = [sorted(set(one.post_ids)) for one in found]
    message = pa.StructArray.from_arrays(
        [pa.array([turn[name] for turn in turns], pa.string()) for name in ("role", "content")], fields=list(MESSAGE)
    )
    columns = {
        "conversation_id": [one.conversation_id for one in found],
        "messages": _lists([len(one.messages) for one in found], message),
        "post_ids": _lists([len(one) for one in ids], pa.array([name for one in ids for name in one], pa.string())),
        **{name: [getattr(one, name) for one in found] for name in ("lang", "kind", "source", "split")},
    }
    return pa.table(columns, schema=_ROWS)


def _lists(lengths: list[int], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, *accumulate(lengths)], pa.int32()), values)


def publish_conversations(flow: Flow, conversations: Dataset, folder: Path) -> Tally:
    """Write them by id, each once, as shards of either split; returns how many, by split and kind."""
    moved = flow.exchange("conversations", _by_id, conversations, parts=flow.batches(conversations.rows))
    folder.mkdir(exist_ok=True)
    return flow.map("talk", partial(_publish, folder), range(len(moved.parts)), moved).tally


def _by_id(rows: pa.Table) -> pa.Table:
    return rows.append_column("key", pa.array(text_hashes(pl.Series(rows["conversation_id"]))))


def _publish(folder: Path, number: int, rows: pa.Table) -> pa.Table:
    frame = frame_of(rows).unique("conversation_id", keep="first", maintain_order=True).sort("conversation_id")
    for split in SPLITS:
        path = folder / f"{split}-{number:05d}.parquet"
        temporary = path.with_name(f".{path.name}")
        table = frame.filter(pl.col("split") == split).select(CONVERSATION_SCHEMA.names).to_arrow()
        pq.write_table(table.cast(CONVERSATION_SCHEMA), temporary, compression="zstd")
        temporary.replace(path)
    counts = frame.group_by("split", "kind").len().sort("split", "kind")
    tally: Tally = {}
    for split, kind, count in counts.iter_rows():
        tally.setdefault(split, {})[kind] = count
    return tallied(pa.table({"rows": [frame.height]}), tally)


def exchange(question: str, answer: str) -> tuple[Message, ...]:
    """The user's question and the assistant's answer."""
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}
