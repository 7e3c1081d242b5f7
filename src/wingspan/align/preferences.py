"""Which answers people preferred: from files of pairs or labels, and from feedback to served answers.

Every preference keeps where it came from, why it holds and the posts it rests on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from wingspan.align.answers import Answer, answer_of
from wingspan.errors import InputError
from wingspan.knowledge.grounding import SourcePost, posts_message
from wingspan.model.chat import ChatRenderer, Message
from wingspan.model.forms import messages_of

_COLUMNS: dict[str, Any] = {
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    **dict.fromkeys(("chosen", "rejected", "source", "reason"), pl.String),
    "post_ids": pl.List(pl.String),
    "consent": pl.String,
}
_FEEDBACK = "feedback: "
_PER_USER = 20  # preferences from one user's feedback: nobody teaches alone
_TURNS = re.compile(r"\n\n(Human|Assistant): ")  # Anthropic's HH-RLHF, where a conversation is one text
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Preference:
    """A question (turns up to where the assistant speaks), a better and a worse answer; KTO needs only one of them.

    `post_ids` are the posts that it rests on; `consent` says on what grounds it may be used.
    """

    messages: tuple[Message, ...]
    chosen: str | None
    rejected: str | None
    source: str
    reason: str
    post_ids: tuple[str, ...] = ()
    consent: str = ""


@dataclass(frozen=True)
class PreferencesRead:
    """The preferences of a file, and how many of its records were left out, by reason."""

    preferences: list[Preference]
    refused: Counter[str]


def read_preferences(path: Path, name: str, licence: str) -> PreferencesRead:
    """All preferences of a file of JSON lines; raises InputError when it holds none.

    A record is a pair (`chosen` and `rejected`, as text behind a `prompt` or as whole conversations), a labelled
    answer (`prompt`, `completion`, `label`), or feedback as serve writes it (`messages`, `answer`, `feedback`).
    """
    refused: Counter[str] = Counter()
    found: dict[str, Preference] = {}  # by what is preferred to what: a repeated word counts once
    of_user: Counter[str] = Counter()
    for number, line in enumerate(filter(str.strip, path.open(encoding="utf-8", errors="replace")), start=1):
        record = _record(line)
        if (one := _preference(record, f"{name} {number}", licence)) is None:
            refused["not understood"] += 1
        elif not record.get("consent", "feedback" not in record):  # a served answer needs its user's word
            refused["without consent"] += 1
        elif (user := str(record.get("user") or number)) and of_user[user] >= _PER_USER:
            refused["too much of one user"] += 1
        elif one.chosen == one.rejected:
            refused["the same answer twice"] += 1
        else:
            of_user[user] += 1
            found[json.dumps([user, one.messages, sorted([one.chosen or "", one.rejected or ""])])] = one
    if not found:
        raise InputError("no preference was found", where=path, remedy="Use one of the forms in docs/align.md")
    return PreferencesRead(list(found.values()), refused)


def _record(line: str) -> dict[str, Any]:
    """A line as an object; an empty one where it is none, which is no preference either."""
    try:
        record = json.loads(line)
    except ValueError:
        record = {}
    return record if isinstance(record, dict) else {}


def _preference(record: Mapping[str, Any], source: str, licence: str) -> Preference | None:
    """A record in any of the forms, None where it is in none."""
    if "feedback" in record:
        return _feedback(record, source)
    prompt = next((record[key] for key in ("prompt", "instruction", "question", "input") if key in record), None)
    if "label" in record:
        good, bad = (record.get("completion"), None) if record["label"] else (None, record.get("completion"))
        reason = f"labelled {'desirable' if record['label'] else 'undesirable'}"
    else:
        good, bad, reason = record.get("chosen"), record.get("rejected"), "chosen over the other"
    begin, sides = _question(prompt), [None if side is None else _answer(side) for side in (good, bad)]
    if sides == [None, None] or [side is None for side in sides] != [given is None for given in (good, bad)]:
        return None
    turns = next((side[:-1] for side in sides if side and len(side) > 1), None)
    question = begin or turns
    told = begin is not None or all(side is None or side[:-1] == turns for side in sides)
    if not question or question[-1]["role"] == "assistant" or not told:
        return None
    chosen, rejected = (side[-1]["content"] if side else None for side in sides)
    posts = tuple(map(str, record.get("post_ids") or ()))
    return Preference(tuple(question), chosen, rejected, source, reason, posts, str(record.get("consent") or licence))


def _question(prompt: Any) -> list[Message] | None:
    return [{"role": "user", "content": prompt.strip()}] if isinstance(prompt, str) else messages_of(prompt)


def _answer(side: Any) -> list[Message] | None:
    """Turns that end with the answer: a conversation, the answer alone, or a text in HH-RLHF's form."""
    if isinstance(side, str):
        parts = _TURNS.split(side)
        spoken = zip(parts[1::2], parts[2::2], strict=True)
        side = [{"role": _SPEAKERS[who], "content": said} for who, said in spoken] or [
            {"role": "assistant", "content": side}
        ]
    alone = isinstance(side, list) and len(side) == 1  # an answer without its question
    turns = messages_of([{"role": "user", "content": "?"}, *side] if alone else side)
    turns = turns[alone:] if turns else None
    return turns if turns and turns[-1]["role"] == "assistant" else None


def _feedback(record: Mapping[str, Any], source: str) -> Preference | None:
    """What somebody did with a served answer: thumbs say good or bad, an edit or another answer kept says better."""
    kind, answer, better = record["feedback"], record.get("answer"), record.get("better")
    turns = messages_of(record.get("messages"))
    if not turns or turns[-1]["role"] == "assistant" or not isinstance(answer, str) or not answer.strip():
        return None
    sides: dict[str, tuple[Any, Any]] = {"up": (answer, None), "down": (None, answer)}
    sides |= {"edit": (better, answer), "regenerate": (better, answer)} if isinstance(better, str) else {}
    if kind not in sides:
        return None
    chosen, rejected = (side.strip() if side else None for side in sides[kind])
    posts = tuple(map(str, record.get("post_ids") or ()))
    return Preference(tuple(turns), chosen, rejected, source, f"{_FEEDBACK}{kind}", posts, "the user's consent")


def as_served(preferences: Sequence[Preference], posts: Path, system: str) -> list[Preference]:
    """Feedback as the server asked: under the policy, the posts that the answer rested on before the last question.

    What rests on a post that is no longer in prepare's `posts` is left out: it was deleted.
    """
    wanted = [post for one in preferences for post in one.post_ids]
    known: dict[str, str] = {}
    if wanted:
        kept = pl.scan_parquet(posts / "*.parquet").filter(pl.col("post_id").is_in(wanted))
        known = dict(kept.select("post_id", "text").collect().iter_rows())
    found = []
    for one in preferences:
        turns = [turn for turn in one.messages if turn["role"] != "system"]
        if one.reason.startswith(_FEEDBACK) and not any(turn["role"] == "posts" for turn in turns):
            shown = [SourcePost(post, known[post]) for post in one.post_ids if post in known]
            rules: Message = {"role": "system", "content": system}
            one = replace(one, messages=(rules, *turns[:-1], posts_message(shown), turns[-1]))
        if not one.reason.startswith(_FEEDBACK) or known.keys() >= set(one.post_ids):
            found.append(one)
    return found


def split_preferences(
    preferences: Sequence[Preference], held_out: float, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """Those to learn from, and about that share to measure on; all of one question are on the same side."""
    sides: tuple[list[Preference], list[Preference]] = [], []
    for one in preferences:
        key = json.dumps([seed, one.messages[-1]["content"]]).encode()
        sides[int.from_bytes(hashlib.sha256(key).digest()[:8]) < held_out * 2**64].append(one)
    return sides


def units_of(
    preferences: Sequence[Preference], renderer: ChatRenderer, sequence: int, paired: bool
) -> tuple[list[list[Answer]], list[Preference]]:
    """Pairs, or single answers for KTO, as the loop learns them, and the preferences they are of.

    Left out are preferences that lack a side that is needed, or do not fit into `sequence` tokens.
    """
    units, used = [], []
    for one in preferences:
        sides = [(one.chosen, 1.0), (one.rejected, -1.0)]
        answers = [answer_to(one.messages, text, label, renderer) for text, label in sides if text]
        if sum(map(len, answers)) <= sequence and (len(answers) == 2 or not paired):
            units += [answers] if paired else [[answer] for answer in answers]
            used.append(one)
    return units, used


def answer_to(messages: Sequence[Message], text: str, label: float, renderer: ChatRenderer) -> Answer:
    """An answer of which the words and the end of turn are predicted, none of the turns before it."""
    return answer_of(renderer.prompt(messages), [*renderer.encode(text.strip()), renderer.stop_id], label)


def write_preferences(preferences: Sequence[Preference], path: Path) -> None:
    """What was learned from, with its reasons, as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame([asdict(one) for one in preferences], _COLUMNS).write_parquet(path)
