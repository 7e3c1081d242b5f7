"""The chat form: one renderer for what the assistant is aligned on, evaluated with and served.

ChatML, with a role of its own for posts. Text that people wrote is encoded as text only: a special
token spelled out in a post or a question never becomes that token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from tokenizers import Tokenizer

from wingspan.errors import InputError

START, STOP, END_OF_DOCUMENT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_DOCUMENT, START, STOP)

TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] | trim + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}"
    "{%- else -%}{{- message['content'] | trim + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class Message(TypedDict):
    """One turn; role is system, posts, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation and, for each, whether the assistant is trained to say it."""

    token_ids: list[int]
    supervised: list[bool]


class ChatRenderer:
    """Conversations -> token ids, equal to what transformers renders with `TEMPLATE`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        known = {token: tokenizer.token_to_id(token) for token in (START, STOP)}
        ids = {token: number for token, number in known.items() if number is not None}
        missing = [token for token in known if token not in ids]
        if missing:
            raise InputError(
                f"the tokenizer has no token {', '.join(missing)}",
                remedy="Chat needs ChatML tokens; train a tokenizer with prepare or start from a ChatML model",
            )
        self._tokenizer = tokenizer
        self._start, self.stop_id = ids[START], ids[STOP]
        tokenizer.encode_special_tokens = True  # text is text, also where it spells a special token

    @classmethod
    def from_folder(cls, folder: Path) -> ChatRenderer:
        """The renderer of a tokenizer or model folder."""
        return cls(load_tokenizer(folder))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def render(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation; supervised are the assistant's words and its end of turn."""
        ids: list[int] = []
        supervised: list[bool] = []
        newline = self.encode("\n")
        for message in messages:
            header = [self._start, *self.encode(f"{message['role']}\n")]
            content = [*self.encode(message["content"].strip()), self.stop_id]
            ids += [*header, *content, *newline]
            learned = message["role"] == "assistant"
            supervised += [False] * len(header) + [learned] * len(content) + [False] * len(newline)
        return Rendered(ids, supervised)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to the point where the assistant speaks next."""
        return [*self.render(messages).token_ids, self._start, *self.encode("assistant\n")]


def load_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.json of a folder; raises InputError when it is missing or damaged."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError("there is no tokenizer here", where=path, remedy="Give a folder with a tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"the tokenizer cannot be read: {error}", where=path, remedy="Make it anew") from error
