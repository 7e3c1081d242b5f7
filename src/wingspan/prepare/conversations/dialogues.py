"""Dialogue sources: chatterbot's YAML folders and JSON lines of `messages`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from wingspan.errors import InputError, did_you_mean
from wingspan.knowledge.grounding import grounded_messages
from wingspan.model.chat import Message
from wingspan.model.forms import turns_of
from wingspan.prepare.conversations.conversation import DIALOGUE, Conversation, exchange
from wingspan.prepare.readers.records import json_object, text_lines
from wingspan.prepare.readers.registry import files_of
from wingspan.prepare.repeats.duplicates import normalise
from wingspan.prepare.split import TRAIN, split_of
from wingspan.project import DialogueSource

LONGEST = 800  # characters of a dialogue; longer ones teach a chat to be an essay
_TEXTS_ONLY = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # no scalar becomes a number, a date or an object

# Folders of chatterbot-corpus -> ISO 639-1.
_LANGUAGES = {
    "english": "en", "french": "fr", "german": "de", "spanish": "es", "italian": "it", "portuguese": "pt",
    "dutch": "nl", "swedish": "sv", "turkish": "tr", "russian": "ru", "ukrainian": "uk", "chinese": "zh",
    "traditionalchinese": "zh", "japanese": "ja", "korean": "ko", "indonesian": "id", "hindi": "hi", "hebrew": "he",
    "persian": "fa", "thai": "th", "bengali": "bn", "marathi": "mr", "tamil": "ta", "telugu": "te", "urdu": "ur",
}  # fmt: skip


@dataclass(frozen=True)
class Dialogue:
    """Turns as they were read; `group` is the file, so that a limit takes from all of them."""

    messages: tuple[Message, ...]
    lang: str | None
    group: str


@dataclass(frozen=True)
class DialoguesRead:
    """The dialogues of a source, and what became of all of its records: read = kept + refused + damaged."""

    dialogues: list[Dialogue]
    refused: Counter[str]
    damaged: int

    @property
    def read(self) -> int:
        """Records seen."""
        return len(self.dialogues) + self.refused.total() + self.damaged


def read_dialogues(source: DialogueSource, path: Path) -> DialoguesRead:
    """All usable dialogues of a source; raises InputError for an unknown reader or an empty selection."""
    readers = {"chatterbot": _chatterbot, "messages": _messages}
    where = f"prepare.dialogues '{source.name}'"
    if source.reader not in readers:
        remedy = did_you_mean(source.reader, readers, "Known readers")
        raise InputError(f"there is no dialogue reader '{source.reader}'", where=where, remedy=remedy)
    kept: dict[tuple[str, ...], Dialogue] = {}
    refused: Counter[str] = Counter()
    damaged = 0
    for dialogue in readers[source.reader](source, path):
        if dialogue is None:
            damaged += 1
            continue
        turns = tuple(message["content"] for message in dialogue.messages)
        if source.reader == "chatterbot" and sum(map(len, turns)) > LONGEST:
            refused["too long"] += 1
        elif turns in kept:
            refused["duplicate"] += 1
        else:
            kept[turns] = dialogue
    if not kept:
        raise InputError("no dialogue was found", where=where, remedy="Check its path and languages")
    return DialoguesRead(list(kept.values()), refused, damaged)


def _chatterbot(source: DialogueSource, path: Path) -> Iterator[Dialogue | None]:
    """One dialogue per list: a statement and its first reply.

    Longer lists are left at that: some files go on with further turns, others with alternative replies,
    and the format does not tell which.
    """
    there = sorted(one.name for one in path.iterdir() if one.is_dir())
    for language in source.languages or there:
        if language not in there:
            raise InputError(
                f"the corpus has no language '{language}'",
                where=f"prepare.dialogues '{source.name}'.languages",
                remedy=f"It has {', '.join(there)}",
            )
        for file in files_of(path / language, (".yml", ".yaml")):
            for entry in _yaml_conversations(file):
                yield _first_exchange(entry, _LANGUAGES.get(language), f"{language}/{file.stem}")


def _yaml_conversations(file: Path) -> Iterable[Any]:
    """Entries under `conversations`, every scalar as text; a file that is no YAML is one damaged entry."""
    try:
        content = yaml.load(file.read_bytes(), Loader=_TEXTS_ONLY)  # noqa: S506
    except (yaml.YAMLError, UnicodeError):
        return [None]
    entries = content.get("conversations") if isinstance(content, dict) else None
    return entries if isinstance(entries, list) else [None]


def _first_exchange(entry: Any, lang: str | None, group: str) -> Dialogue | None:
    if not isinstance(entry, list) or len(entry) < 2 or not all(isinstance(turn, str) for turn in entry[:2]):
        return None
    question, answer = (turn.strip() for turn in entry[:2])
    return Dialogue(exchange(question, answer), lang, group) if question and answer else None


def _messages(source: DialogueSource, path: Path) -> Iterator[Dialogue | None]:
    """JSON lines in any of the forms that model.forms knows, with `lang`; turns after the last answer are cut."""
    for file in files_of(path, (".jsonl", ".ndjson")):
        for line in text_lines(file):
            if not line.strip():
                continue
            record = json_object(line)
            messages = _turns(record) if record else None
            lang = record.get("lang") if record else None
            if messages is None:
                yield None
            elif not source.languages or lang in source.languages:
                yield Dialogue(messages, lang if isinstance(lang, str) else None, file.stem)


def _turns(record: dict[str, Any]) -> tuple[Message, ...] | None:
    """Checked turns with an answer last."""
    turns = turns_of(record) or []
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    return tuple(turns) or None


def split_dialogues(
    dialogues: Sequence[Dialogue], source: DialogueSource, seed: int, held_out: float
) -> list[Conversation]:
    """Dialogues as conversations on both sides of the split; the source's limit holds per language and side.

    Dialogues that open with the same words are on the same side.
    """
    spoken = (next(turn["content"] for turn in one.messages if turn["role"] == "user") for one in dialogues)
    openings = normalise(pl.Series(list(spoken), dtype=pl.String))
    sides: dict[tuple[str | None, str], list[Dialogue]] = {}
    for dialogue, split in zip(dialogues, split_of(openings, seed, held_out), strict=True):
        sides.setdefault((dialogue.lang, split), []).append(dialogue)
    return [
        Conversation(dialogue.messages, DIALOGUE, source.name, split, lang=lang)
        for (lang, split), group in sides.items()
        for dialogue in _from_all_groups(group)[: source.limit]
    ]


def _from_all_groups(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The dialogues one from each file in turn, so that the first n of them cover all files."""
    groups: dict[str, list[Dialogue]] = {}
    for dialogue in dialogues:
        groups.setdefault(dialogue.group, []).append(dialogue)
    return [one for one in chain.from_iterable(zip_longest(*groups.values())) if one is not None]


def in_served_form(conversation: Conversation, system: str, finds_posts: Callable[[str], bool]) -> Conversation:
    """Half the training dialogues that no post answers, exactly as the server then asks; all others unchanged.

    So the assistant also chats under its system prompt, and is not bound to one. Held-out dialogues stay.
    """
    messages = conversation.messages
    chosen = conversation.split == TRAIN and len(messages) == 2 and int(conversation.conversation_id[-1], 16) % 2
    if not chosen or finds_posts(messages[0]["content"]):
        return conversation
    return replace(conversation, messages=(*grounded_messages(system, messages[0]["content"], []), messages[1]))
