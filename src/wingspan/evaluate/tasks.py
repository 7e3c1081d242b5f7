"""The platform's questions as lm-evaluation-harness tasks: settings and documents, made from held-out data.

A document holds both `prompt`, the text that any lm-eval backend understands, and `messages`, from which
wingspan's own backend renders token ids, so that no post can spell a special token.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from wingspan.errors import InputError
from wingspan.evaluate import measures
from wingspan.evaluate.measures import Measure
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost, grounded_messages
from wingspan.knowledge.index import PostIndex
from wingspan.knowledge.labels import LABEL_CLASSES, label_class, label_question
from wingspan.model.chat import START, STOP, Message

POSTS, REPLIES, CITATIONS = "posts", "replies", "citations"
_LONGEST_THREAD = 12  # posts put before the assistant to sum up
_CHOICE_TOKENS = 16  # of an answer that only names a choice
_SUMMARY = "Sum up this thread in two or three sentences. Cite the posts."

_T = TypeVar("_T")
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One task file: `config` is lm-eval's YAML; every document has an `id` and a `cluster`, perhaps a `thread`.

    A document that rests on posts of the run names them in `post_ids` or `posts`: deletions follow them.

    `file` is set for a task file of somebody else's, whose documents are in the harness's hands alone.
    """

    name: str
    config: dict[str, Any]
    docs: list[dict[str, Any]]
    measures: list[Measure]
    file: Path | None = None

    def write(self, folder: Path) -> None:
        """`NAME.yaml` and `NAME.jsonl`, for this run and for `lm_eval --include_path` with any backend."""
        if self.file:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.yaml").write_text(yaml.safe_dump(self.settings(Path()), sort_keys=False))
        lines = [json.dumps(doc, ensure_ascii=False) + "\n" for doc in self.docs]
        (folder / f"{self.name}.jsonl").write_text("".join(lines), encoding="utf-8")

    def settings(self, folder: Path) -> dict[str, Any] | str:
        """The YAML's content, its documents in `folder`; the path of a task file of somebody else's."""
        if self.file:
            return str(self.file)
        source = {"data_files": {"test": str(folder / f"{self.name}.jsonl")}}
        fixed = {"task": self.name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test"}
        return fixed | self.config


def posts_task(posts: Iterable[_Row], count: int, seed: int) -> Task:
    """How well the model predicts held-out posts: bits per byte of each post on its own."""
    docs = [
        {"id": post["post_id"], "post_ids": [post["post_id"]], "text": post["text"]}
        | {"cluster": _cluster(post), "thread": _thread(post)}
        for post in sample(posts, lambda post: post["post_id"], count, seed)
    ]
    config = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    docs = some(docs, "posts", "Raise prepare.held_out, or add [[prepare.posts]]")
    return Task(POSTS, config, docs, [measures.BITS_PER_BYTE])


def replies_task(conversations: Iterable[_Row], count: int, distractors: int, seed: int) -> Task:
    """Which reply is the right one? Wrong ones answer other held-out dialogues of the same language."""
    dialogues = [row for row in conversations if row["kind"] == "dialogue"]
    docs = []
    for row in sample(dialogues, lambda row: row["conversation_id"], count, seed):
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
        doc = choice_doc(row["conversation_id"], row["conversation_id"], asked, choices, gold)
        docs.append(doc | {"post_ids": row.get("post_ids") or []})
    remedy = "Raise prepare.held_out, add dialogues or threads, or lower evaluate.distractors"
    docs = some(docs, "dialogues with enough wrong replies", remedy)
    return Task(REPLIES, choice_config("acc_bytes"), docs, [measures.REPLY_CHOICE])


def summaries_task(posts: Iterable[_Row], system: str, *, answer_tokens: int, count: int, seed: int) -> Task:
    """Held-out threads of three posts and more, to be summed up with citations."""
    threads: dict[str, list[SourcePost]] = {}
    for post in posts:
        threads.setdefault(_thread(post), []).append(SourcePost(post["post_id"], post["text"]))
    long = [root for root, one in threads.items() if len(one) > 2]
    docs = [
        _asked_of_posts(root, system, _SUMMARY, threads[root][:_LONGEST_THREAD]) | {"expected": ""}
        for root in sample(long, str, count, seed)
    ]
    docs = some(docs, "threads", "Add [[prepare.posts]] with replies, or set evaluate.threads = 0")
    return Task("summaries", answer_config(answer_tokens), docs, measures.SUMMARIES)


def label_task(name: str, rated: Iterable[_Row], count: int, seed: int) -> Task:
    """The class of held-out rated posts; a row has post_id, text, value (the raters' mean) and perhaps author_id."""
    docs = []
    for row in sample(rated, lambda row: row["post_id"], count, seed):
        question: Message = {"role": "user", "content": label_question(name, row["text"])}
        gold = LABEL_CLASSES.index(label_class(row["value"]))
        doc = choice_doc(row["post_id"], _cluster(row), [question], list(LABEL_CLASSES), gold)
        docs.append(doc | {"post_ids": [row["post_id"]], "thread": _thread(row), "value": row["value"]})
    docs = some(docs, f"posts rated for {name}", "Raise prepare.held_out")
    return Task(name, choice_config("acc"), docs, measures.label_measures(name))


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
    for row in sample(grounded, lambda row: row["conversation_id"], count, seed):
        question = next(one["content"] for one in reversed(row["messages"]) if one["role"] == "user")
        expected = row["messages"][-1]["content"]
        answerable = expected.strip() != NO_SUPPORT
        posts = index.search(question, retrieved) if answerable else _given_posts(row, index)
        doc = _asked_of_posts(row["conversation_id"], system, question, posts)
        docs.append(doc | {"post_ids": row["post_ids"], "answerable": answerable, "expected": expected})
    docs = some(docs, "questions about posts", "Raise prepare.grounded_held_out")
    return Task(CITATIONS, answer_config(answer_tokens), docs, measures.CITATIONS)


def _asked_of_posts(id_: str, system: str, question: str, posts: Sequence[SourcePost]) -> dict[str, Any]:
    messages = grounded_messages(system, question, posts)
    return {
        "id": id_,
        "cluster": id_,
        "messages": messages,
        "prompt": prompt_text(messages),
        "question": question,
        "posts": [{"post_id": post.post_id, "text": post.text} for post in posts],
    }


def curated(name: str) -> list[dict[str, Any]]:
    """The rows of a data file that comes with the project."""
    text = files("wingspan.evaluate").joinpath("sets", name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def prompt_text(messages: Sequence[Message]) -> str:
    """The conversation as ChatML text, up to where the assistant speaks."""
    turns = [f"{START}{message['role']}\n{message['content'].strip()}{STOP}\n" for message in messages]
    return "".join(turns) + f"{START}assistant\n"


def answer_config(tokens: int, until: Sequence[str] = (STOP,)) -> dict[str, Any]:
    """A task that is answered in words, at most `tokens` of them; documents have `prompt` and `expected`."""
    return {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "expected",
        "generation_kwargs": {"until": [*until], "do_sample": False, "max_gen_toks": tokens},
        "metric_list": [{"metric": "exact_match"}],
    }


def choice_config(metric: str, delimiter: str = "") -> dict[str, Any]:
    """A task of choosing; documents have `prompt`, `choices` and `gold`."""
    return {
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": delimiter,
        "metric_list": [{"metric": metric}],
    }


def choice_doc(
    id_: str, cluster: str, messages: Sequence[Message], choices: Sequence[str], gold: int
) -> dict[str, Any]:
    """A question with choices, asked in the chat form."""
    return {
        "id": id_,
        "cluster": cluster,
        "messages": list(messages),
        "prompt": prompt_text(messages),
        "choices": [*choices],
        "gold": gold,
    }


def in_words(task: Task) -> Task | None:
    """The same task for a model that only talks: choices are listed and one is asked for. None: it cannot be asked."""
    if task.config.get("output_type") == "generate_until" or task.file:
        return task
    if task.config["output_type"] == "loglikelihood_rolling":
        return None
    docs = []
    for doc in task.docs:
        *before, last = doc.get("messages") or [{"role": "user", "content": doc["prompt"]}]
        options = doc.get("options") or doc.get("choices")
        listed = [f"{chr(ord('A') + number)}. {option}" for number, option in enumerate(options or [])]
        ask = (
            ["Choose one and answer with its letter alone:", *listed] if listed else ["Go on with the next word alone."]
        )
        asked: Message = {"role": last["role"], "content": "\n".join([last["content"], "", *ask])}
        docs.append({**doc, "messages": [*before, asked], "expected": ""})
    return Task(task.name, answer_config(_CHOICE_TOKENS), docs, task.measures)


def _cluster(post: _Row) -> str:
    """What a post shares with posts that are not independent of it: its author, else its thread."""
    return str(post.get("author_id") or post.get("root_id") or post["post_id"])


def _thread(post: _Row) -> str:
    return str(post.get("root_id") or post["post_id"])


def _same_question(first: Sequence[Message], second: Sequence[Message]) -> bool:
    return [one["content"] for one in first[:-1]] == [one["content"] for one in second[:-1]]


def _given_posts(row: _Row, index: PostIndex) -> list[SourcePost]:
    return [post for post in map(index.get, row["post_ids"]) if post is not None]


def sample(rows: Iterable[_T], key: Callable[[_T], str], count: int, seed: int) -> list[_T]:
    """At most `count` rows, chosen by seed and id alone."""
    ranked = sorted(rows, key=lambda row: (random.Random(f"{seed} {key(row)}").random(), key(row)))
    return ranked[:count]


def some(docs: list[dict[str, Any]], what: str, remedy: str) -> list[dict[str, Any]]:
    """The documents; raises InputError when there are none."""
    if not docs:
        raise InputError(f"there are no held-out {what} to evaluate on", remedy=remedy)
    return docs
