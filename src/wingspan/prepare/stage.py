"""prepare: posts -> conversations -> tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from wingspan.errors import InputError, WorkError
from wingspan.knowledge.index import PostIndex
from wingspan.post import POST_SCHEMA
from wingspan.prepare import posts as steps
from wingspan.prepare import report
from wingspan.prepare.conversations import Conversation, write_conversations
from wingspan.prepare.dialogues import in_served_form, read_dialogues, split_dialogues
from wingspan.prepare.forest import thread_conversations
from wingspan.prepare.grounded import grounded_conversations, source_posts
from wingspan.prepare.labels import label_conversations, labelled_posts, read_labels
from wingspan.prepare.personal import remove_personal_data
from wingspan.prepare.pseudonyms import pseudonym_key, pseudonymiser
from wingspan.prepare.split import HELD_OUT, TRAIN
from wingspan.prepare.tokenizer import make_tokenizer, start_model_folder
from wingspan.prepare.tokens import write_tokens
from wingspan.prepare.tombstones import (
    Tombstones,
    bury,
    deletions,
    forgotten,
    list_lines,
    prove,
)
from wingspan.workspace import StageContext

SPLITS = (TRAIN, HELD_OUT)
SHOWN_POSTS = 4  # before a question; what serve.retrieved_posts is by default
ASKED_ABOUT = 20_000  # posts of each side that grounded conversations are made from: enough for any number of them


def work(context: StageContext) -> dict[str, Any]:
    """Read, clean, split and tokenise the project's posts and make its conversations; returns the summary.

    Raises InputError before anything is read when the project declares no rights, names no posts or names
    one source twice; WorkError when a tombstoned id would remain.
    """
    _check(context)
    pseudonym = pseudonymiser(pseudonym_key())
    posts, counts, tombstones, personal = _posts(context, pseudonym)
    kept = posts.filter(steps.KEPT)
    if kept.is_empty():
        raise InputError("no post is left to train on", remedy="Look at the sources and their column maps")
    funnel = report.funnel(posts, counts, context.project.prepare.posts)
    context.progress.say(f"{funnel['read']:,} posts read, {funnel['kept']:,} kept")

    splits = {split: kept.filter(pl.col("split") == split) for split in SPLITS}
    _write_posts(context, splits)
    dialogues, dialogue_counts = _dialogues(context, pseudonym)
    labels, label_counts = _labels(context, kept)
    conversations = [*thread_conversations(kept), *labels, *_with_posts(context, splits, dialogues)]
    for split in SPLITS:
        path = context.output / f"conversations/{split}-00000.parquet"
        write_conversations([one for one in conversations if one.split == split], path)
    tokenizer = _tokenizer(context, splits[TRAIN], dialogues)
    with context.progress.task("tokens", kept.height, "posts") as task:
        index = write_tokens(splits, tokenizer, context.project.prepare.documents_per_shard, context.output / "tokens")
        task.advance(kept.height)

    proof = prove(context.output, tombstones)
    if proof["found"]:
        raise WorkError(f"{proof['found']} tombstoned ids remain", where=context.output, remedy="Report this as a bug")
    assert context.project.rights is not None
    tokens = {split: sum(shard["tokens"] for shard in shards) for split, shards in index["splits"].items()}
    content = {
        "rights": context.project.rights.model_dump(),
        **funnel,
        **report.profile(kept),
        "tombstones": proof,
        "personal_data": dict(sorted(personal.items())),
        "dialogues": dialogue_counts,
        "labels": label_counts,
        "conversations": report.conversation_counts(conversations),
        "tokenizer": {"from": context.project.model.start, "vocab": index["vocab"]},
        "tokens": tokens,
        "samples": report.samples(posts),
    }
    (context.output / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    summary = ("read", "refused", "damaged", "kept", "split", "languages", "personal_data", "conversations", "tokens")
    return {name: content[name] for name in summary} | {"bytes": content["bytes"], "vocab": index["vocab"]}


def _check(context: StageContext) -> None:
    """What must be right before the first byte of anybody's words is read."""
    project = context.project
    if project.rights is None:
        raise InputError(
            "the project does not say on what grounds the posts may be used, so none is read",
            where="[rights]",
            remedy="Add [rights] with basis and statement to the project file",
        )
    if not project.prepare.posts:
        raise InputError("the project names no posts", where="[[prepare.posts]]", remedy="Add a source of posts")
    for kind in (project.prepare.posts, project.prepare.dialogues, project.prepare.labels):
        names = [source.name for source in kind]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"two sources are named '{repeated}'", where="[prepare]", remedy="Rename one of them")
    known = {source.name for source in project.prepare.posts}
    for label in project.prepare.labels:
        if label.posts not in known:
            raise InputError(
                f"there is no source of posts '{label.posts}'",
                where=f"prepare.labels '{label.name}'.posts",
                remedy=f"Name one of {', '.join(sorted(known))}",
            )


def _posts(
    context: StageContext, pseudonym: Callable[[str], str]
) -> tuple[pl.DataFrame, dict[str, steps.SourceCount], Tombstones, Counter[str]]:
    """All posts with what became of each, the sources' counts, the tombstones, personal data by kind."""
    settings, seed = context.project.prepare, context.project.project.seed
    counts, frames, notices = {}, [], [forgotten(context.run.folder)]
    with context.progress.task("read", None, "posts") as task:
        for source in settings.posts:
            frame, counts[source.name], said = steps.read_source(source, context.run.outside(source.path), task)
            frames.append(frame)
            notices += [said, deletions(frame)]
    posts = steps.in_order(pl.concat(frames))
    opt_outs = [*list_lines(context.run.outside(settings.opt_outs) if settings.opt_outs else None)]
    tombstones = Tombstones.build(pl.concat(notices), opt_outs, settings.consent, pseudonym)
    tombstones = tombstones.with_posts_of_authors(posts)
    with context.progress.task("clean", posts.height, "posts") as task:
        posts = steps.refuse_repeats(bury(posts, tombstones))
        posts = steps.choose_split(posts, seed, settings.held_out)
        posts = steps.clean_posts(posts, settings)
        posts, personal = steps.protect_people(posts, pseudonym)
        posts = steps.add_language(posts)
        posts = steps.refuse_duplicates(posts, settings.near_duplicate_similarity)
        task.advance(posts.height)
    return posts, counts, tombstones, personal


def _dialogues(
    context: StageContext, pseudonym: Callable[[str], str]
) -> tuple[list[Conversation], list[dict[str, Any]]]:
    """Dialogues of all sources without personal data, and what became of each source's records."""
    project = context.project
    conversations: list[Conversation] = []
    counts = []
    for source in project.prepare.dialogues:
        read = read_dialogues(source, context.run.outside(source.path))
        found = split_dialogues(read.dialogues, source, project.project.seed, project.prepare.held_out)
        conversations += found
        counts.append(
            {
                "name": source.name,
                "reader": source.reader,
                "licence": source.licence,
                "read": read.read,
                "refused": dict(sorted(read.refused.items())) | {"over the limit": len(read.dialogues) - len(found)},
                "damaged": read.damaged,
                "kept": len(found),
            }
        )
    texts = pl.Series([turn["content"] for one in conversations for turn in one.messages], dtype=pl.String)
    protected = iter(remove_personal_data(texts, pseudonym)[0])
    conversations = [
        replace(one, messages=tuple({"role": turn["role"], "content": next(protected)} for turn in one.messages))
        for one in conversations
    ]
    return conversations, counts


def _labels(context: StageContext, kept: pl.DataFrame) -> tuple[list[Conversation], list[dict[str, Any]]]:
    """Writes labels/NAME.parquet; returns label questions of both sides, and what became of each source's records."""
    settings = context.project.prepare
    conversations: list[Conversation] = []
    counts = []
    for source in settings.labels:
        read = read_labels(source, context.run.outside(source.path))
        labelled = labelled_posts(read, source, kept)
        path = context.output / f"labels/{source.name}.parquet"
        path.parent.mkdir(exist_ok=True)
        labelled.select("post_id", "value", "split").write_parquet(path, compression="zstd")
        for split in SPLITS:
            count = _share(settings.label_dialogues, settings.held_out, split)
            conversations += label_conversations(source.name, labelled, split, count, _generator(context, split, 1))
        counts.append(
            {
                "name": source.name,
                "licence": source.licence,
                "read": len(read.values) + read.damaged,
                "damaged": read.damaged,
                "of kept posts": labelled.height,
            }
        )
    return conversations, counts


def _with_posts(
    context: StageContext, splits: dict[str, pl.DataFrame], dialogues: Sequence[Conversation]
) -> Iterator[Conversation]:
    """Grounded conversations of both sides, and the dialogues, some of them in the server's form."""
    settings, system = context.project.prepare, context.project.assistant.system
    for split, posts in splits.items():
        random = _generator(context, split, 2)
        asked_about = posts[np.sort(random.permutation(posts.height)[:ASKED_ABOUT])]
        index = PostIndex()
        index.add(source_posts(asked_about))
        count = settings.grounded_dialogues if split == TRAIN else settings.grounded_held_out
        yield from grounded_conversations(asked_about, index, split, count, system, SHOWN_POSTS, random)
        found = partial(_finds_posts, index)
        yield from (in_served_form(one, system, found) for one in dialogues if one.split == split)
        index.close()


def _finds_posts(index: PostIndex, question: str) -> bool:
    return bool(index.search(question, 1))


def _share(count: int, held_out: float, split: str) -> int:
    """`count` for training and, beside it, the same share as of posts for the held-out side."""
    return count if split == TRAIN else round(count * held_out / (1 - held_out))


def _generator(context: StageContext, split: str, purpose: int) -> np.random.Generator:
    return np.random.default_rng([context.project.project.seed, SPLITS.index(split), purpose])


def _write_posts(context: StageContext, splits: dict[str, pl.DataFrame]) -> None:
    schema = POST_SCHEMA.append(pa.field("lang", pa.string()))
    for split, posts in splits.items():
        path = context.output / f"posts/{split}-00000.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(posts.select(schema.names).to_arrow().cast(schema), path, compression="zstd")


def _tokenizer(context: StageContext, train: pl.DataFrame, dialogues: Sequence[Conversation]) -> Tokenizer:
    model = context.project.model
    with context.progress.task("tokenizer") as task:
        base = start_model_folder(model, context.run.outside)
        folder = context.output / "tokenizer"
        tokenizer = make_tokenizer(model, base, _tokenizer_texts(train, dialogues), folder)
        task.advance()
    return tokenizer


def _tokenizer_texts(train: pl.DataFrame, dialogues: Sequence[Conversation]) -> Iterator[str]:
    yield from steps.iter_texts(train)
    for one in dialogues:
        if one.split == TRAIN:
            yield from (turn["content"] for turn in one.messages)
