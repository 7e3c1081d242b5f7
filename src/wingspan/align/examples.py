"""Conversations -> rendered examples: what the assistant learns to say, and nothing else.

Training refuses to start when an end of turn would not be learned: such an assistant never stops
talking, and its loss looks fine all the while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from wingspan.errors import InputError
from wingspan.knowledge.grounding import grounded_messages
from wingspan.model.chat import ChatRenderer, Message, Rendered
from wingspan.model.loss import IGNORED
from wingspan.project import Assistant
from wingspan.train.data.batches import PackedPieces, Piece
from wingspan.train.data.order import permute


@dataclass(frozen=True)
class Example:
    """One rendered conversation. `mask` says which tokens the assistant learns to say.

    `provenance` are the posts it rests on, so that deletions can follow them; `consent` are the grounds of its use.
    """

    conversation_id: str
    kind: str
    source: str
    messages: tuple[Message, ...]
    token_ids: list[int]
    mask: list[bool]
    provenance: tuple[str, ...]
    consent: str

    @property
    def predictions(self) -> int:
        """Tokens that the assistant is trained to say."""
        return sum(self.mask)

    def piece(self) -> Piece:
        """Inputs, and for each the token that follows where it is supervised; ends with the last such token."""
        end = max(number for number, learned in enumerate(self.mask) if learned)
        following = np.asarray(self.token_ids[1 : end + 1], dtype=np.int64)
        learned = np.asarray(self.mask[1 : end + 1])
        return np.asarray(self.token_ids[:end], dtype=np.int64), np.where(learned, following, IGNORED)


@dataclass(frozen=True)
class Examples:
    """Examples of a file, and what happened to conversations longer than a sequence."""

    examples: list[Example]
    shortened: int
    dropped: int

    @property
    def predictions(self) -> int:
        """Tokens that the assistant is trained to say."""
        return sum(example.predictions for example in self.examples)

    def __add__(self, other: Examples) -> Examples:
        return Examples(self.examples + other.examples, self.shortened + other.shortened, self.dropped + other.dropped)

    def kinds(self) -> dict[str, int]:
        """Examples per kind of conversation."""
        return dict(sorted(Counter(example.kind for example in self.examples).items()))

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(len(example.token_ids) for example in self.examples)

    def sample(self, tokens: int, seed: int) -> Examples:
        """Random examples of about `tokens` tokens in all; at least one where there are any."""
        count = len(self.examples)
        order = permute(np.arange(count), max(1, count), seed, 0)
        lengths = np.array([len(self.examples[number].token_ids) for number in order])
        chosen = order[: 1 + int(np.searchsorted(lengths.cumsum(), tokens))]
        return replace(self, examples=[self.examples[number] for number in chosen])

    def packed(self, sequence: int, padding: int) -> PackedPieces:
        """Several conversations per row of `sequence` tokens, without attention across them."""
        pieces = [example.piece() for example in self.examples]
        lengths = np.array([len(inputs) for inputs, _ in pieces], dtype=np.int64)
        return PackedPieces(lengths, lambda number: pieces[number], sequence, padding)


def read_examples(folder: Path, split: str, renderer: ChatRenderer, sequence: int, consent: str = "") -> Examples:
    """The conversations of `split` ("train" or "held_out") in `folder`, rendered, at most `sequence` tokens each.

    `consent` are the grounds on which the project uses its posts.

    Raises InputError when a conversation does not teach the assistant to end
    its turn.
    """
    files = sorted(folder.glob(f"{split}-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return render_examples(rows, renderer, sequence, consent)


def render_examples(
    rows: Iterable[dict[str, Any]], renderer: ChatRenderer, sequence: int, consent: str = ""
) -> Examples:
    """Render rows of the conversation schema; too long ones end at their last assistant turn that fits."""
    examples: list[Example] = []
    shortened = dropped = 0
    for row in rows:
        check_turns(row["messages"], row["conversation_id"])
        messages, rendered = _fit(row["messages"], renderer, sequence)
        if rendered is None:
            dropped += 1
            continue
        check_supervision(messages, rendered, renderer.stop_id, row["conversation_id"])
        shortened += len(messages) < len(row["messages"])
        examples.append(
            Example(
                row["conversation_id"],
                row["kind"],
                row["source"],
                tuple(messages),
                rendered.token_ids,
                rendered.supervised,
                tuple(row["post_ids"]),
                consent,
            )
        )
    return Examples(examples, shortened, dropped)


def policy_examples(policy: Assistant, renderer: ChatRenderer, sequence: int) -> Examples:
    """What the policy refuses, asked as it says and answered as it says, before no posts."""
    rows = [
        {
            "conversation_id": f"refusal {number}.{place}",
            "messages": [*grounded_messages(policy.instructions, question, []), _said(one.answer)],
            "kind": "refusal",
            "source": f"policy {policy.version}",
            "post_ids": (),
        }
        for number, one in enumerate(policy.refuse)
        for place, question in enumerate(one.questions)
    ]
    return render_examples(rows, renderer, sequence, "the project's own")


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def check_turns(messages: Sequence[Message], conversation_id: str) -> None:
    """Raise InputError for a conversation that does not end in the assistant's words."""
    if not messages or messages[-1]["role"] != "assistant":
        raise InputError(
            "the conversation does not end with the assistant, so its end of turn would not be learned",
            where=f"conversation {conversation_id}",
            remedy="End it with an assistant message, or remove it",
        )
    if any(message["role"] == "assistant" and not message["content"].strip() for message in messages):
        raise InputError(
            "an assistant message is empty",
            where=f"conversation {conversation_id}",
            remedy="Give it words, or remove the conversation",
        )


def check_supervision(messages: Sequence[Message], rendered: Rendered, stop_id: int, conversation_id: str) -> None:
    """Raise InputError unless every assistant turn ends in a supervised end-of-turn token."""
    learned = sum(
        token == stop_id and supervised
        for token, supervised in zip(rendered.token_ids, rendered.supervised, strict=True)
    )
    turns = sum(message["role"] == "assistant" for message in messages)
    if learned != turns:
        raise InputError(
            f"{learned} of {turns} assistant turns end in a token that is trained",
            where=f"conversation {conversation_id}",
            remedy="The chat form must supervise the end-of-turn token; an assistant without it never stops",
        )


def _fit(messages: list[Message], renderer: ChatRenderer, sequence: int) -> tuple[list[Message], Rendered | None]:
    """The longest part from the start that ends with the assistant and fits; None when no part does."""
    while messages:
        rendered = renderer.render(messages)
        if len(rendered.token_ids) <= sequence:
            return messages, rendered
        ends = [number for number, message in enumerate(messages[:-1]) if message["role"] == "assistant"]
        messages = messages[: ends[-1] + 1] if ends else []
    return [], None
