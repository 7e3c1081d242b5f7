"""The platform's questions as lm-evaluation-harness tasks: settings and documents, made from held-out data.

A document holds both `prompt`, the text that any lm-eval backend understands, and `messages`, from which
wingspan's own backend renders token ids, so that no post can spell a special token.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from wingspan.errors import InputError
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost, grounded_messages
from wingspan.knowledge.index import PostIndex
from wingspan.knowledge.labels import LABEL_CLASSES, label_class, label_question
from wingspan.model.chat import START, STOP, Message

POSTS, REPLIES, CITATIONS = "posts", "replies", "citations"

_T = TypeVar("_T")
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One task file: `config` is lm-eval's YAML; every document has an `id` and a `cluster` (author or thread)."""

    name: str
    config: dict[str, Any]
    docs: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """`NAME.yaml` and `NAME.jsonl`, for this run and for `lm_eval --include_path` with any backend."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.yaml").write_text(yaml.safe_dump(self.settings(Path()), sort_keys=False))
        lines = [json.dumps(doc, ensure_ascii=False) + "\n" for doc in self.docs]
        (folder / f"{self.name}.jsonl").write_text("".join(lines), encoding="utf-8")

    def settings(self, folder: Path) -> dict[str, Any]:
        """The YAML's content, its documents in `folder`."""
        source = {"data_files": {"test": str(folder / f"{self.name}.jsonl")}}
        fixed = {"task": self.name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test"}
        return fixed | self.config


def posts_task(posts: Iterable[_Row], count: int, seed: int) -> Task:
    """How well the model predicts held-out posts: bits per byte of each post on its own."""
    docs = [
        {"id": post["post_id"], "cluster": _cluster(post), "text": post["text"]}
        for post in _sample(posts, lambda post: post["post_id"], count, seed)
    ]
    config = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    return Task(POSTS, config, _some(docs, "posts", "Raise prepare.held_out, or add [[prepare.posts]]"))


def replies_task(conversations: Iterable[_Row], count: int, distractors: int, seed: int) -> Task:
    """Which reply is the right one? Wrong ones answer other held-out dialogues of the same language."""
    dialogues = [row for row in conversations if row["kind"] == "dialogue"]
    docs = []
    for row in _sample(dialogues, lambda row: row["conversation_id"], count, seed):
        *asked, reply = row["messages"]
        others = {
            other["messages"][-1]["content"]
            for other in dialogues
            if other["lang"] == row["lang"] and not _same_question(other["messages"], row["messages"])
        }
        others = {other for other in others if other.strip().casefold() != reply["content"].strip().casefold()}
        if len(others) < distractors:
            continue
        order = random.Random(f"{seed} {row['conversation_id']}")
        choices = [*order.sample(sorted(others), distractors), reply["content"]]
        order.shuffle(choices)
        gold = choices.index(reply["content"])
        docs.append(_choice_doc(row["conversation_id"], row["conversation_id"], asked, choices, gold))
    remedy = "Raise prepare.held_out, add [[prepare.dialogues]], or lower evaluate.distractors"
    return Task(REPLIES, _choice_config("acc_bytes"), _some(docs, "dialogues with enough wrong replies", remedy))


def label_task(name: str, rated: Iterable[_Row], count: int, seed: int) -> Task:
    """The class of held-out rated posts; a row has post_id, text, value (the raters' mean) and perhaps author_id."""
    docs = []
    for row in _sample(rated, lambda row: row["post_id"], count, seed):
        question: Message = {"role": "user", "content": label_question(name, row["text"])}
        gold = LABEL_CLASSES.index(label_class(row["value"]))
        doc = _choice_doc(row["post_id"], _cluster(row), [question], list(LABEL_CLASSES), gold)
        docs.append(doc | {"value": row["value"]})
    return Task(name, _choice_config("acc"), _some(docs, f"posts rated for {name}", "Raise prepare.held_out"))


def citations_task(
    conversations: Iterable[_Row],
    index: PostIndex,
    system: str,
    *,
    retrieved: int,
    answer_tokens: int,
    count: int,
    seed: int,
) -> Task:
    """Held-out questions about posts, asked as serve asks them: with the posts that retrieval finds.

    Questions whose right answer is that the posts do not say keep the posts they were made with.
    """
    grounded = [row for row in conversations if row["kind"] == "grounded"]
    docs = []
    for row in _sample(grounded, lambda row: row["conversation_id"], count, seed):
        question = next(one["content"] for one in reversed(row["messages"]) if one["role"] == "user")
        expected = row["messages"][-1]["content"]
        answerable = expected.strip() != NO_SUPPORT
        posts = index.search(question, retrieved) if answerable else _given_posts(row, index)
        messages = grounded_messages(system, question, posts)
        docs.append(
            {
                "id": row["conversation_id"],
                "cluster": row["conversation_id"],
                "messages": messages,
                "prompt": prompt_text(messages),
                "question": question,
                "posts": [{"post_id": post.post_id, "text": post.text} for post in posts],
                "answerable": answerable,
                "expected": expected,
            }
        )
    config = {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "expected",
        "generation_kwargs": {"until": [STOP], "do_sample": False, "max_gen_toks": answer_tokens},
        "metric_list": [{"metric": "exact_match"}],
    }
    return Task(CITATIONS, config, _some(docs, "questions about posts", "Raise prepare.grounded_held_out"))


def prompt_text(messages: Sequence[Message]) -> str:
    """The conversation as ChatML text, up to where the assistant speaks."""
    turns = [f"{START}{message['role']}\n{message['content'].strip()}{STOP}\n" for message in messages]
    return "".join(turns) + f"{START}assistant\n"


def _choice_config(metric: str) -> dict[str, Any]:
    return {
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": metric}],
    }


def _choice_doc(id_: str, cluster: str, messages: Sequence[Message], choices: list[str], gold: int) -> dict[str, Any]:
    return {
        "id": id_,
        "cluster": cluster,
        "messages": list(messages),
        "prompt": prompt_text(messages),
        "choices": choices,
        "gold": gold,
    }


def _cluster(post: _Row) -> str:
    """What a post shares with posts that are not independent of it: its author, else its thread."""
    return str(post.get("author_id") or post.get("root_id") or post["post_id"])


def _same_question(first: Sequence[Message], second: Sequence[Message]) -> bool:
    return [one["content"] for one in first[:-1]] == [one["content"] for one in second[:-1]]


def _given_posts(row: _Row, index: PostIndex) -> list[SourcePost]:
    return [post for post in map(index.get, row["post_ids"]) if post is not None]


def _sample(rows: Iterable[_T], key: Callable[[_T], str], count: int, seed: int) -> list[_T]:
    """At most `count` rows, chosen by seed and id alone."""
    ranked = sorted(rows, key=lambda row: (random.Random(f"{seed} {key(row)}").random(), key(row)))
    return ranked[:count]


def _some(docs: list[dict[str, Any]], what: str, remedy: str) -> list[dict[str, Any]]:
    if not docs:
        raise InputError(f"there are no held-out {what} to evaluate on", remedy=remedy)
    return docs
