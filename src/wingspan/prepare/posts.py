"""The steps that every post goes through, as batch functions: tables in, a table out.

A refused post is marked with the reason, not taken away: so the funnel adds up by construction, and what
each rule removed can be shown. Steps after the mark see only posts that are still kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

from wingspan.errors import InputError
from wingspan.post import POST_SCHEMA, TOMBSTONE_SCHEMA
from wingspan.prepare.flow.flow import added, frame_of, keyed_by_part, place, row_of, tallied
from wingspan.prepare.privacy.personal import NameFinder, remove_personal_data
from wingspan.prepare.privacy.pseudonyms import pseudonymise
from wingspan.prepare.privacy.tombstones import Tombstones, bury, deletions
from wingspan.prepare.readers.registry import PART, ReadBatch, Unit, read_unit
from wingspan.prepare.repeats.decontamination import EvaluationIndex
from wingspan.prepare.repeats.hashing import text_hashes
from wingspan.prepare.split import split_of
from wingspan.prepare.text.cleaning import clean
from wingspan.prepare.text.language import detect
from wingspan.prepare.text.quality import judge
from wingspan.project import Prepare

KEPT = pl.col("refused").is_null()
NAMED = ("post_id", "repost_of", "edited_from", "notice")  # what `ids` needs of records
SETTLED = ("source", "split", "lang", "refused", "tags")  # what `settle` needs of posts
CONTAMINATED = "in an evaluation set"
_NOTICE = pa.struct([field.with_nullable(True) for field in TOMBSTONE_SCHEMA])
RECORD_SCHEMA = pa.schema(  # a post where `notice` is null, else a notice and nothing besides
    [field.with_nullable(True) for field in (*POST_SCHEMA, pa.field("notice", _NOTICE))]
)


def grouped(units: Sequence[Unit]) -> list[list[Unit]]:
    """Consecutive units of one source together, so that small files are not pieces of work of their own."""
    groups: list[list[Unit]] = []
    size = 0
    for unit in units:
        if not groups or groups[-1][0].source != unit.source or size + unit.member.size > PART:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += unit.member.size
    return groups


def read(most: int, units: Sequence[Unit]) -> Iterator[pa.Table]:
    """Records of some units of a source, about `most` at a time; counts: read, refused by reason, damaged."""
    waiting: list[pa.Table] = []
    counts: list[dict[str, Any]] = []
    for unit in units:
        for batch in read_unit(unit):
            waiting.append(_records(batch))
            counts.append({"read": batch.read, "refused": dict(batch.refused), "damaged": batch.damaged})
            if sum(map(len, waiting)) >= most:
                yield tallied(pa.concat_tables(waiting), {"sources": {unit.source.name: added(counts)}})
                waiting, counts = [], []
    rest = pa.concat_tables([RECORD_SCHEMA.empty_table(), *waiting])
    yield tallied(rest, {"sources": {units[0].source.name: added(counts)}})


def _records(batch: ReadBatch) -> pa.Table:
    posts = batch.posts.append_column("notice", pa.nulls(len(batch.posts), _NOTICE)).cast(RECORD_SCHEMA)
    said = pa.table({"notice": batch.tombstones.to_struct_array().cast(_NOTICE)})
    return pa.concat_tables([posts, said], promote_options="default")


def _posts(records: pa.Table) -> pl.DataFrame:
    return frame_of(records).filter(pl.col("notice").is_null()).drop("notice")


def notices(records: pa.Table) -> pa.Table:
    """What these records say is deleted or must not be used."""
    frame = frame_of(records)
    said = frame.filter(pl.col("notice").is_not_null()).select("notice").unnest("notice")
    return pl.concat([said, deletions(frame)]).to_arrow()


def posts_of_the_gone(tombstones: Path, records: pa.Table) -> pa.Table:
    """Posts whose authors are in the set: post_id, author_id."""
    posts = _posts(records)
    return posts.filter(_opened(tombstones).of_authors(posts["author_id"]).is_not_null()).to_arrow()


_opened = cache(Tombstones.open)


def ids(part: int, records: pa.Table) -> pa.Table:
    """Keyed ids of all posts that are no reposts, their places, and which say that they replace what had their id."""
    posts = _posts(records).with_row_index("row")
    posts = posts.filter(pl.col("repost_of").is_null())
    later = posts.select(pl.col("edited_from").list.contains(pl.col("post_id")).fill_null(False))["edited_from"]
    return pa.table({"key": text_hashes(posts["post_id"]), "at": place(part, posts["row"]), "later": later.to_arrow()})


def repeated(keys: pa.Table) -> pa.Table:
    """Places of posts whose id a later version, or else an earlier post has, moved to their part."""
    order = pl.col("at") + pl.when("later").then(pl.lit(0, pl.UInt64)).otherwise(pl.lit(1 << 63, pl.UInt64))
    found = frame_of(keys).filter(order != order.min().over("key"))
    return keyed_by_part(found.select("at"), found["at"])


def refuse(posts: pl.DataFrame, reason: str, condition: pl.Expr | pl.Series) -> pl.DataFrame:
    """Mark posts that are still kept and meet `condition`."""
    return posts.with_columns(refused=pl.when(KEPT & condition).then(pl.lit(reason)).otherwise("refused"))


def prepare(
    settings: Prepare,
    seed: int,
    tombstones: Path | Tombstones,
    evaluation: Path | None,
    pseudonym: Callable[[str], str],
    records: pa.Table,
    repeats: pa.Table,
) -> pa.Table:
    """Everything that a post alone decides; counts of personal data.

    POST_SCHEMA's columns, split, lang, refused, what `quality.judge` says, and `item`, the evaluation item it has.
    """
    posts = _posts(records).with_columns(refused=pl.lit(None, dtype=pl.String))
    posts = bury(posts, _opened(tombstones) if isinstance(tombstones, Path) else tombstones)
    posts = refuse(posts, "repost", pl.col("repost_of").is_not_null())
    posts = refuse(posts, "repeated id", _marked(posts.height, frame_of(repeats)["at"]))
    owners = posts.select(pl.coalesce("author_id", "post_id"))["author_id"]  # needs the platform's own ids
    posts = posts.with_columns(split_of(owners, seed, settings.held_out), text=clean(posts["text"]))
    posts = refuse(posts, "too short", pl.col("text").str.len_chars() < max(1, settings.min_characters))
    posts, personal = _protect_people(posts, settings, pseudonym)
    posts = posts.with_columns(detect(posts), items_in(posts["text"], evaluation))
    posts = refuse(posts, CONTAMINATED, pl.col("item").is_not_null())
    posts = posts.hstack(judge(posts["text"]))
    posts = _refuse_for(posts, pl.col("tags").list.filter(pl.element().is_in(settings.drop)).list.first())
    return tallied(posts.to_arrow(), {"personal_data": personal})


def items_in(texts: pl.Series, evaluation: Path | None) -> pl.Series:
    """For each text the name of an item of the evaluation index that it shares words with."""
    if evaluation is None:
        return pl.Series("item", [None], dtype=pl.String).new_from_index(0, len(texts))
    return _evaluation(evaluation).find(texts)


_evaluation = cache(EvaluationIndex.open)


def _refuse_for(posts: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    return posts.with_columns(refused=pl.coalesce("refused", reason))


def _marked(height: int, at: pl.Series) -> pl.Series:
    marks = np.zeros(height, np.bool_)
    marks[row_of(at)] = True
    return pl.Series(marks)


def protected(texts: pl.Series, settings: Prepare, pseudonym: Callable[[str], str]) -> tuple[pl.Series, dict[str, int]]:
    """Texts without personal data as the settings want it, and how much there was by kind."""
    in_texts = pseudonym if settings.handles == "pseudonym" else lambda _: "user"
    return remove_personal_data(texts, in_texts, _imported(settings.find_names) if settings.find_names else None)


def protected_text(text: str, settings: Prepare, pseudonym: Callable[[str], str]) -> str:
    """One text without personal data."""
    return str(protected(pl.Series([text]), settings, pseudonym)[0][0])


@cache
def _imported(name: str) -> NameFinder:
    module, _, function = name.partition(":")
    try:
        return cast(NameFinder, getattr(import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise InputError(f"'{name}' cannot be imported: {error}", where="prepare.find_names") from error


def _protect_people(
    posts: pl.DataFrame, settings: Prepare, pseudonym: Callable[[str], str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Texts without personal data, authors and mentions as pseudonyms; links and image texts go unused, so they go."""
    texts, counts = protected(posts["text"], settings, pseudonym)
    mentioned = posts["mentions"].explode().drop_nulls().unique(maintain_order=True)
    names = pl.Series([pseudonym(name.removeprefix("@")) for name in mentioned], dtype=pl.String)
    return posts.with_columns(
        pl.col("mentions").list.eval(pl.element().replace(mentioned, names)),
        text=texts,
        author_id=pseudonymise(posts["author_id"], pseudonym),
        urls=pl.lit(None, dtype=pl.List(pl.String)),
        alt_text=pl.lit(None, dtype=pl.List(pl.String)),
    ), counts


def settle(settings: Prepare, posts: pa.Table, habits: pa.Table, duplicates: pa.Table) -> pa.Table:
    """What became of each post in the end: `refused`, `tags`, and `repeats`, the place of the post that it repeats.

    Counts: kept by split, kept and refused by source and by language, kept by tag.
    """
    outcome = frame_of(posts).with_row_index("row")
    outcome = outcome.join(frame_of(habits), on="row", how="left", maintain_order="left")
    outcome = _refuse_for(outcome, pl.when(pl.col("tag").is_in(settings.drop)).then("tag"))
    outcome = outcome.join(frame_of(duplicates), on="row", how="left", maintain_order="left")
    outcome = outcome.with_columns(tags=pl.concat_list("tags", "tag").list.drop_nulls())
    outcome = refuse(outcome, "duplicate", pl.col("exact").fill_null(False))
    outcome = refuse(outcome, "near duplicate", pl.col("repeats").is_not_null())
    kept = outcome.filter(KEPT)
    tally = {
        "split": counts(kept, "split"),
        "kept": counts(kept, "source"),
        "refused": {
            source: counts(rows.filter(~KEPT), "refused")
            for (source,), rows in outcome.group_by("source", maintain_order=True)
        },
        "by_language": {
            lang: counts(rows.fill_null("kept"), "refused")
            for (lang,), rows in outcome.select("lang", "refused").group_by("lang", maintain_order=True)
        },
        "tags": counts(kept.explode("tags").drop_nulls("tags"), "tags"),
    }
    return tallied(outcome.select("refused", "repeats", "tags").to_arrow(), tally)


def counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    """How often each value occurs."""
    return dict(frame[column].value_counts(sort=True).iter_rows())
