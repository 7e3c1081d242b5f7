"""prepare: posts -> conversations -> tokens."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from wingspan.errors import InputError, WorkError
from wingspan.model.chat import load_tokenizer
from wingspan.prepare import posts as steps
from wingspan.prepare import report
from wingspan.prepare.conversations.conversation import Conversation, conversation_table, publish_conversations
from wingspan.prepare.conversations.forest import thread_conversations
from wingspan.prepare.conversations.talk import dialogues_of, labels_of, with_posts
from wingspan.prepare.flow.engines import open_engine
from wingspan.prepare.flow.flow import Dataset, Flow, frame_of
from wingspan.prepare.privacy.pseudonyms import pseudonym_key, pseudonymiser
from wingspan.prepare.privacy.tombstones import KEY_CHECK, Tombstones, forgotten, prove
from wingspan.prepare.reactions import publish_reactions
from wingspan.prepare.readers.records import text_lines
from wingspan.prepare.readers.registry import units
from wingspan.prepare.repeats.accounts import judge_groups
from wingspan.prepare.repeats.decontamination import write_index
from wingspan.prepare.repeats.duplicates import find_duplicates
from wingspan.prepare.samples import SAMPLES_FILE, write_samples
from wingspan.prepare.shards import publish_posts
from wingspan.prepare.split import HELD_OUT, SPLITS, TRAIN
from wingspan.prepare.terminal import note_of_reading, note_of_settling
from wingspan.prepare.tokens.mixture import mix
from wingspan.prepare.tokens.shards import write_tokens
from wingspan.prepare.tokens.tokenizer import make_tokenizer, start_model_folder
from wingspan.prepare.tokens.vocabulary import compression_curve
from wingspan.project import Project
from wingspan.workspace import StageContext, write_atomically

LEARNED_FROM = 32 << 20  # bytes of posts that a tokenizer is trained on: more change its vocabulary little
MEASURED_ON = 2_000  # posts that the compression of smaller vocabularies is measured on
REPORT = "report.json"
SUMMARY = (
    "read", "refused", "damaged", "kept", "split", "languages", "personal_data", "conversations", "tokens", "bytes",
)  # fmt: skip
_WORK = ".work"  # what steps hand to each other; gone at the end

Splits = dict[str, Dataset]


def work(context: StageContext) -> dict[str, Any]:
    """Read, clean, split and tokenise the project's posts and make its conversations; returns the summary.

    Raises InputError before anything is read when the project declares no rights, names no posts or names
    one source twice; WorkError when a tombstoned id would remain.
    """
    _check(context)
    with open_engine() as engine:
        return prepare(context, Flow(context.output / _WORK, engine, context.progress))


def prepare(context: StageContext, flow: Flow) -> dict[str, Any]:
    """Do what is missing: after a kill the steps go on from their finished pieces, which are files in flow's folder."""
    path = context.output / REPORT
    if not path.exists():
        write_atomically(path, json.dumps(_steps(context, flow), indent=1, ensure_ascii=False))
    shutil.rmtree(flow.folder, ignore_errors=True)
    for leftover in context.output.rglob(".*.tmp"):
        leftover.unlink()
    content = json.loads(path.read_text("utf-8"))
    return {name: content[name] for name in SUMMARY} | {"vocab": content["tokenizer"]["vocab"]}


def _steps(context: StageContext, flow: Flow) -> dict[str, Any]:
    """The steps in order; returns the report."""
    settings, seed, output = context.project.prepare, context.project.project.seed, context.output
    pseudonym = pseudonymiser(pseudonym_key())

    sources = [unit for source in settings.posts for unit in units(source, context.run.outside(source.path))]
    records = flow.map("read", partial(steps.read, flow.batch), steps.grouped(sources), note=note_of_reading)
    tombstones = _tombstones(context, flow, records, pseudonym)
    numbers = range(len(records.parts))
    named = records.only(*steps.NAMED)
    ids = flow.exchange("ids", steps.ids, numbers, named, parts=flow.buckets(records.rows))
    repeats = flow.exchange("repeats", steps.repeated, ids, parts=len(numbers))
    evaluation = _evaluation(context, flow)
    step = partial(steps.prepare, settings, seed, tombstones, evaluation, pseudonym)
    posts = flow.map("prepare", step, records, repeats)
    habits = judge_groups(flow, posts, settings)
    duplicates = find_duplicates(flow, posts, settings.near_duplicate_similarity)
    marked = posts.only(*steps.SETTLED)
    outcome = flow.map("settle", partial(steps.settle, settings), marked, habits, duplicates, note=note_of_settling)
    funnel = report.funnel(records.tally, outcome.tally, settings.posts)
    context.progress.say(f"{funnel['read']:,} posts read, {funnel['kept']:,} kept")
    if not funnel["kept"]:
        raise InputError("no post is left to train on", remedy="Look at the sources and their column maps")

    most = settings.documents_per_shard
    splits = {split: publish_posts(flow, output / "posts", split, posts, outcome, most) for split in SPLITS}
    dialogues, dialogue_counts, asked = dialogues_of(context, pseudonym, evaluation)
    labels, label_counts = labels_of(context)
    reaction_counts = publish_reactions(context, pseudonym, Tombstones.open(tombstones))
    made = [*labels, *with_posts(context, splits, dialogues)]
    talk = flow.map("made", conversation_table, [made])
    for split in SPLITS:
        talk += thread_conversations(flow, split, splits[split])
    conversations = publish_conversations(flow, talk, output / "conversations")
    tokenizer = _tokenizer(context, splits[TRAIN], dialogues)
    trained_on, epochs = mix(flow, splits[TRAIN], settings.mixture, seed)
    index = write_tokens(flow, splits | {TRAIN: trained_on}, tokenizer, output / "tokens")

    drawn = write_samples(flow, posts, outcome, seed, output / SAMPLES_FILE)
    proof = prove(output, Tombstones.open(tombstones))
    if proof["found"]:
        raise WorkError(f"{proof['found']} tombstoned ids remain", where=output, remedy="Report this as a bug")
    assert context.project.rights is not None
    return {
        "rights": context.project.rights.model_dump(),
        **funnel,
        **report.profile(outcome.tally, sum(splits.values(), Dataset(())).tally),
        "tombstones": proof,
        "pseudonym_key": pseudonym(KEY_CHECK),
        "personal_data": dict(sorted(posts.tally["personal_data"].items())),
        "dialogues": dialogue_counts,
        "labels": label_counts,
        "reactions": reaction_counts,
        "conversations": conversations,
        "tokenizer": {"from": context.project.model.start, "vocab": index["vocab"]},
        "tokens": {split: sum(shard["tokens"] for shard in shards) for split, shards in index["splits"].items()},
        "compression": compression_curve(load_tokenizer(tokenizer), _some_texts(splits)),
        "mixture": epochs,
        "by_language": outcome.tally["by_language"],
        "tags": outcome.tally["tags"],
        "evaluation_sets": [*report.contaminated(posts), *asked],
        "samples": report.samples(drawn.filter("dropped")),
        "tagged_samples": report.samples(drawn.filter(~pl.col("dropped"))),
    }


def require_rights(project: Project) -> None:
    """Raises InputError where the project does not declare on what grounds posts may be read."""
    if project.rights is None:
        raise InputError(
            "the project does not say on what grounds the posts may be used, so none is read",
            where="[rights]",
            remedy="Add [rights] with basis and statement to the project file",
        )


def _check(context: StageContext) -> None:
    """What must be right before the first byte of anybody's words is read."""
    project = context.project
    require_rights(project)
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


def _tombstones(context: StageContext, flow: Flow, records: Dataset, pseudonym: Callable[[str], str]) -> Path:
    """The folder of the one set that all processes look ids up in."""
    settings = context.project.prepare
    folder = flow.folder / "tombstones"
    notices = flow.map("notices", steps.notices, records.only("post_id", "deleted_at", "notice"))
    if not (folder / "complete").exists():
        (folder / "authors").mkdir(parents=True, exist_ok=True)
        opt_outs = text_lines(context.run.outside(settings.opt_outs)) if settings.opt_outs else ()
        said = chain([forgotten(context.run.folder)], map(frame_of, notices.tables()))
        tombstones = Tombstones.build(said, opt_outs, settings.consent, pseudonym)
        tombstones.write(folder / "authors")
        gone = flow.map(
            "gone", partial(steps.posts_of_the_gone, folder / "authors"), records.only("post_id", "author_id", "notice")
        )
        tombstones.with_posts_of_authors(pl.concat(map(frame_of, gone.tables()))).write(folder)
        (folder / "complete").touch()
    return folder


def _evaluation(context: StageContext, flow: Flow) -> Path | None:
    """The index of texts that must not be trained on; None without any."""
    names = context.project.prepare.evaluation_sets
    target = flow.folder / "evaluation.npz"
    if names and not target.exists():
        paths = [context.run.outside(name) for name in names]
        write_index(
            [file for path in paths for file in (sorted(path.glob("*.*")) if path.is_dir() else [path])], target
        )
    return target if names else None


def _some_texts(splits: Splits) -> list[str]:
    """Posts to measure a tokenizer on: held-out ones, where there are any."""
    posts = splits[HELD_OUT] if splits[HELD_OUT].rows else splits[TRAIN]
    texts: list[str] = next(iter(posts.tables()))["text"].slice(0, MEASURED_ON).to_pylist()
    return texts


def _tokenizer(context: StageContext, train: Dataset, dialogues: Sequence[Conversation]) -> Path:
    model, folder = context.project.model, context.output / "tokenizer"
    if not folder.exists():
        with context.progress.task("tokenizer") as task:
            base = start_model_folder(model, context.run.outside)
            unfinished = context.output / _WORK / "tokenizer"
            shutil.rmtree(unfinished, ignore_errors=True)
            make_tokenizer(model, base, _tokenizer_texts(train, dialogues), unfinished)
            unfinished.rename(folder)
            task.advance()
    return folder


def _tokenizer_texts(train: Dataset, dialogues: Sequence[Conversation]) -> Iterator[str]:
    """The first posts of each batch, as many as make `LEARNED_FROM`, and the turns of dialogues."""
    share = min(1.0, LEARNED_FROM / max(1, train.tally["bytes"]))
    for table in train.tables():
        yield from table["text"][: math.ceil(share * len(table))].to_pylist()
    for one in dialogues:
        if one.split == TRAIN:
            yield from (turn["content"] for turn in one.messages)
