"""The post: one Arrow schema for all platforms, and the conversation made of posts.

Readers yield tables of `POST_SCHEMA`; everything after them depends on nothing else.
Ids are strings on every platform (many exceed 2**53).
"""

from __future__ import annotations

import pyarrow as pa

_TIME = pa.timestamp("ms", tz="UTC")

POST_SCHEMA = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("author_id", pa.string()),  # a keyed pseudonym after prepare, never the platform's id
        pa.field("created_at", _TIME),
        pa.field("text", pa.string(), nullable=False),
        pa.field("lang_hint", pa.string()),  # what the platform says, not what prepare finds
        pa.field("parent_id", pa.string()),
        pa.field("root_id", pa.string()),
        pa.field("quote_of", pa.string()),
        pa.field("repost_of", pa.string()),
        pa.field("visibility", pa.string(), nullable=False),  # only "public" and "unlisted" are ever read
        pa.field("sensitive", pa.bool_()),
        pa.field("edited_from", pa.list_(pa.string())),
        pa.field("deleted_at", _TIME),
        pa.field("urls", pa.list_(pa.string())),
        pa.field("mentions", pa.list_(pa.string())),
        pa.field("alt_text", pa.list_(pa.string())),
        pa.field("likes", pa.int64()),
        pa.field("replies", pa.int64()),
        pa.field("reposts", pa.int64()),
        pa.field("source", pa.string(), nullable=False),  # the name of the source in the project file
    ]
)

# What must not be used: a notice may name a post of any source and any age, or all posts of an author.
TOMBSTONE_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # "post" | "author"
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # "deleted", "withheld", "protected account", ...
        pa.field("at", _TIME),  # of the notice; of several on one id the latest holds, one without time holds always
        pa.field("lifted", pa.bool_(), nullable=False),  # the notice takes an earlier one back
    ]
)

MESSAGE = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])

CONVERSATION_SCHEMA = pa.schema(
    [
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),  # the usual chat form: role, content
        pa.field("post_ids", pa.list_(pa.string()), nullable=False),  # posts this rests on: deletions follow them
        pa.field("lang", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # dialogue | grounded | label
        pa.field("source", pa.string(), nullable=False),
    ]
)
