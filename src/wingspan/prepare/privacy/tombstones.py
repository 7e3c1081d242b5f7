"""What must not be used: one global set of posts and authors, whatever says so, applied to all sources at once.

Notices (deletions, deactivated accounts, consent signals, opt-outs, what was forgotten) are settled first, since some
take others back. What holds is kept as 128-bit digests in sorted arrays that processes map from disk: 50 bytes an id
at most. Among 10^10 posts and 10^9 tombstones one innocent post is taken for another with a probability of 10^-19
(n m / 2^128), and nobody can look for such an id, since the digests are seeded with the pseudonym key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq
import xxhash

from wingspan.knowledge.index import PostIndex
from wingspan.post import TOMBSTONE_SCHEMA
from wingspan.prepare.readers.columns import Tombstone

POST, AUTHOR = "post", "author"
OPTED_OUT, FORGOTTEN, DELETED = "opted out", "forgotten", "deleted"
# What authors say of all their posts, on profiles of Mastodon and Bluesky; `prepare.consent` names those that count.
SIGNALS = ("indexable", "noindex", "discoverable", "memorial", "no-unauthenticated", "ai-preference")
FORGOTTEN_LIST = "forgotten.jsonl"  # in the run folder: what `wingspan forget` was asked, a request a line
KEY_CHECK = "pseudonym key"  # its pseudonym in report.json tells whether a key is the one that was used
LINKS = ("parent_id", "root_id", "quote_of")
POST_COLUMNS, _AUTHOR_COLUMNS = ("post_id", "post_ids", "repost_of", "repeats", *LINKS), ("author_id",)
_DIGEST = np.dtype("S16")
_ARRAYS = ("keys", "codes", "sieve")
_TOLD = np.dtype([("key", _DIGEST), ("code", "u1"), ("at", "<i8"), ("holds", "?"), ("again", "?")])
_OWNER = r"^(?:at://)?(did:[^/]+|https?://.+?)/(?:statuses|app\.bsky\.feed\.post)/"  # the author in a post's address
_HANDLE = re.compile(r"@([\w.-]+)@([\w.-]+)")


@dataclass(frozen=True)
class Tombstones:
    """The settled set: `keys` are sorted digests of 16 bytes, `codes` say which of `reasons` holds for each."""

    seed: int
    reasons: tuple[str, ...]
    counts: dict[str, int]  # reason -> ids given
    pattern: str  # of ids of posts and authors that opted out, for Rust's regex; empty: none
    keys: npt.NDArray[np.bytes_]
    codes: npt.NDArray[np.uint8]
    sieve: npt.NDArray[np.bool_]  # by the first bits of a digest: whether any key has them; a sixteenth or less is true

    @classmethod
    def build(
        cls,
        notices: Iterable[pl.DataFrame],
        opt_outs: Iterable[str],
        consent: Sequence[str],
        pseudonym: Callable[[str], str],
    ) -> Tombstones:
        """Settle notices (rows of TOMBSTONE_SCHEMA), of SIGNALS only those in `consent`, and lines of an opt-out list.

        Of notices about one id for one reason the latest holds, one without a time always; one without a time that
        lifts means nothing. Of several reasons the last by name stands. An author is known by the platform's id and
        by its pseudonym, so the set serves before and after pseudonyms are given. Memory holds 27 bytes a notice, twice
        that while they are sorted.
        """
        listed, patterns = read_list(opt_outs)
        seed = int.from_bytes(hashlib.blake2b(pseudonym("tombstones").encode(), digest_size=8).digest(), "big")
        ignored = [signal for signal in SIGNALS if signal not in consent]
        named, parts = [OPTED_OUT], [np.empty(0, _TOLD)]
        for frame in chain(notices, [as_notices(listed)]):
            rows = frame.filter(~pl.col("reason").is_in(ignored), pl.col("at").is_not_null() | ~pl.col("lifted"))
            named += [one for one in rows["reason"].unique(maintain_order=True) if one not in named]
            posts, authors = (rows.filter(kind=kind) for kind in (POST, AUTHOR))
            hidden = authors.with_columns(pl.Series("id", [pseudonym(name) for name in authors["id"]], dtype=pl.String))
            parts += [_told(POST, posts, named, seed), _told(AUTHOR, authors, named, seed)]
            parts += [_told(AUTHOR, hidden, named, seed, again=True)]
        told, reasons = np.concatenate(parts), sorted(named)
        told["code"] = np.array([reasons.index(one) for one in named], dtype=np.uint8)[told["code"]]
        held = told[_settled(told)]
        numbers = np.bincount(held["code"][~held["again"]], minlength=len(reasons)).tolist()
        numbers[reasons.index(OPTED_OUT)] = len({name for _, name, *_ in listed}) + len(patterns)
        counts = {reason: number for reason, number in zip(reasons, numbers, strict=True) if number}
        keys, codes = held["key"].copy(), held["code"].copy()
        return cls(seed, tuple(reasons), counts, "|".join(patterns), keys, codes, _sieve(keys))

    def with_posts_of_authors(self, posts: pl.DataFrame) -> Tombstones:
        """The set and, of `posts` (columns post_id, author_id), those whose authors are in it.

        So no other post links to them either.
        """
        reasons = self.of_authors(posts["author_id"])
        return self._with(POST, posts.select(id="post_id", reason=reasons).drop_nulls("reason"))

    def _with(self, kind: str, rows: pl.DataFrame) -> Tombstones:
        """The set and rows of columns id, reason."""
        codes = np.array([self.reasons.index(reason) for reason in rows["reason"]], dtype=np.uint8)
        keys, first = np.unique(np.append(self.keys, _digests(kind, rows["id"], self.seed)), return_index=True)
        codes = np.append(self.codes, codes)[first]  # the earlier of two reasons stays
        return replace(self, keys=keys, codes=codes, sieve=_sieve(keys))

    def write(self, folder: Path) -> None:
        """Keep the set in `folder`."""
        facts = {name: getattr(self, name) for name in ("seed", "reasons", "counts", "pattern")}
        (folder / "tombstones.json").write_text(json.dumps(facts))
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def open(cls, folder: Path) -> Tombstones:
        """The set that was kept in `folder`, mapped: processes share its memory."""
        facts = json.loads((folder / "tombstones.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return cls(**facts | arrays | {"reasons": tuple(facts["reasons"])})

    def of_posts(self, ids: pl.Series) -> pl.Series:
        """For each post id the reason why it must not be used, or null; of an id that names its author, theirs too."""
        owners = self._look_up(AUTHOR, ids.str.extract(_OWNER))
        return pl.select(pl.coalesce(self._look_up(POST, ids), owners)).to_series()

    def of_authors(self, ids: pl.Series) -> pl.Series:
        """For each author, by platform id or pseudonym, the reason why nothing of theirs may be used, or null."""
        return self._look_up(AUTHOR, ids)

    def of(self, posts: pl.DataFrame) -> pl.Series:
        """For each post (columns post_id, author_id) the reason why it must not be used, or null."""
        return pl.select(pl.coalesce(self.of_posts(posts["post_id"]), self.of_authors(posts["author_id"]))).to_series()

    def _look_up(self, kind: str, ids: pl.Series) -> pl.Series:
        reasons = pl.repeat(None, len(ids), dtype=pl.String, eager=True).alias(ids.name)
        digests = _digests(kind, ids.drop_nulls(), self.seed) if self.keys.size else self.keys
        likely = np.flatnonzero(self.sieve[_first_bits(digests, self.sieve.size)])
        at = np.minimum(np.searchsorted(self.keys, digests[likely]), self.keys.size - 1)
        hits = self.keys[at] == digests[likely]
        if hits.any():
            rows = ids.is_not_null().arg_true().gather(likely[hits])
            reasons = reasons.scatter(rows, pl.Series(self.reasons).gather(self.codes[at[hits]]))
        if not self.pattern:
            return reasons
        patterned = pl.when(ids.str.contains(self.pattern)).then(pl.lit(OPTED_OUT))
        return pl.select(pl.coalesce(reasons, patterned)).to_series()


def _sieve(keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    sieve = np.zeros(1 << (16 * keys.size).bit_length(), dtype=np.bool_)
    sieve[_first_bits(keys, sieve.size)] = True
    return sieve


def _first_bits(digests: npt.NDArray[np.bytes_], size: int) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(digests).view(np.uint64)[::2] & np.uint64(size - 1)


def _digests(kind: str, ids: pl.Series, seed: int) -> npt.NDArray[np.bytes_]:
    """xxh3 of 128 bits of each id; an author's name means the same in any case."""
    names = (ids.str.to_lowercase() if kind == AUTHOR else ids).cast(pl.Binary)
    digests = map(xxhash.xxh3_128_digest, names.to_list(), repeat(seed ^ (kind == AUTHOR)))
    return np.frombuffer(b"".join(digests), dtype=_DIGEST)


def _told(kind: str, rows: pl.DataFrame, named: list[str], seed: int, *, again: bool = False) -> npt.NDArray[np.void]:
    """Notices of one kind as numbers; `again`: of authors who are counted already."""
    told = np.empty(rows.height, _TOLD)
    told["key"] = _digests(kind, rows["id"], seed)
    told["code"] = rows["reason"].replace_strict(named, range(len(named)), return_dtype=pl.UInt8)
    told["at"] = rows["at"].dt.epoch("ms").fill_null(np.iinfo(np.int64).max)
    told["holds"], told["again"] = ~rows["lifted"], again
    return told


def _settled(told: npt.NDArray[np.void]) -> npt.NDArray[np.intp]:
    """Which notices hold, by their digests, each of them once."""
    order = np.lexsort((told["holds"], told["at"], told["code"], told["key"]))
    key, code = told["key"][order], told["code"][order]
    latest = np.append((key[1:] != key[:-1]) | (code[1:] != code[:-1]), True)[: len(order)]
    order = order[latest & told["holds"][order]]
    key = told["key"][order]
    chosen: npt.NDArray[np.intp] = order[np.append(key[1:] != key[:-1], True)[: len(order)]]
    return chosen


def read_list(lines: Iterable[str]) -> tuple[list[Tombstone], list[str]]:
    """Notices and patterns of an opt-out list, one entry a line; blank lines and `#` comments are skipped.

    An entry is `post:ID`, `author:ID`, an id that may be either, `@name@server` (an author of the fediverse),
    `domain:NAME` (whatever has its address there, subdomains too) or an address in which `*` stands for anything.
    """
    notices: list[Tombstone] = []
    patterns = []
    for line in lines:
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        kind, _, rest = entry.partition(":")
        if handle := _HANDLE.fullmatch(entry):
            name, server = handle.groups()
            names = [entry, f"{name}@{server}", f"https://{server}/users/{name}", f"https://{server}/@{name}"]
            notices += [(AUTHOR, one, OPTED_OUT, None, False) for one in names]
        elif kind == "domain":
            patterns.append(rf"(?i)^(?:[a-z]+://)?(?:[^/]*[.@])?{re.escape(rest.strip())}(?:[:/]|$)")
        elif "*" in entry:
            patterns.append("(?i)^" + ".*".join(re.escape(part) for part in entry.split("*")) + "$")
        else:
            named = [kind] if kind in (POST, AUTHOR) else [POST, AUTHOR]
            name = rest.strip() if kind in (POST, AUTHOR) else entry
            notices += [(one, name, OPTED_OUT, None, False) for one in named]
    return notices, patterns


def as_notices(rows: Sequence[Tombstone]) -> pl.DataFrame:
    """Rows as a frame of TOMBSTONE_SCHEMA."""
    return pl.DataFrame(rows, schema=pl.DataFrame(TOMBSTONE_SCHEMA.empty_table()).schema, orient="row")


def deletions(posts: pl.DataFrame) -> pl.DataFrame:
    """Notices of posts that their own source marks as deleted."""
    gone = posts.filter(pl.col("deleted_at").is_not_null())["post_id"]
    return as_notices([(POST, one, DELETED, None, False) for one in gone])


def bury(posts: pl.DataFrame, tombstones: Tombstones) -> pl.DataFrame:
    """`posts` with tombstoned ones refused, whatever source they are from; their words and links to them are gone."""
    reason = tombstones.of(posts)
    return posts.with_columns(
        *(pl.when(tombstones.of_posts(posts[link]).is_null()).then(pl.col(link)) for link in LINKS),
        refused=pl.coalesce(reason, "refused"),
        text=pl.when(reason.is_null()).then("text").otherwise(pl.lit("")),
    )


def unindex(index: PostIndex, tombstones: Tombstones) -> int:
    """Take out of a search index what the set holds, by post or by author; returns how many posts that were."""
    posts = pl.DataFrame(index.owners(), schema={"post_id": pl.String, "author_id": pl.String}, orient="row")
    return index.remove(posts.filter(tombstones.of(posts).is_not_null())["post_id"])


def prove(folder: Path, tombstones: Tombstones) -> dict[str, Any]:
    """Look for every tombstoned id in every Parquet file of `folder`, as it lies on disk; the proof wants 0 found."""
    files = sorted(folder.rglob("*.parquet"))
    looked_up = [search(file, tombstones) for file in files]
    return {
        "reasons": tombstones.counts,
        "files_searched": len(files),
        "ids_searched": sum(searched for searched, _ in looked_up),
        "found": sum(found for _, found in looked_up),
    }


def search(file: Path, tombstones: Tombstones) -> tuple[int, int]:
    """How many ids a Parquet file holds in all its columns of ids, and how many of them are in the set."""
    searched = found = 0
    with pq.ParquetFile(file) as parquet:
        columns = set(parquet.schema_arrow.names)
        for look_up, names in ((tombstones.of_posts, POST_COLUMNS), (tombstones.of_authors, _AUTHOR_COLUMNS)):
            for name in columns.intersection(names):
                for batch in parquet.iter_batches(1 << 16, columns=[name]):
                    ids = pl.Series(batch.column(0))
                    ids = (ids.explode() if ids.dtype == pl.List else ids).drop_nulls()
                    searched += len(ids)
                    found += len(ids) - look_up(ids).null_count()
    return searched, found


def requests_of(run_folder: Path) -> list[dict[str, Any]]:
    """What this run was asked to forget, and what was answered."""
    path = run_folder / FORGOTTEN_LIST
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def forgotten(run_folder: Path) -> pl.DataFrame:
    """Notices of what this run was asked to forget."""
    notices, _ = read_list(line for request in requests_of(run_folder) for line in request["requests"])
    return as_notices([(kind, name, FORGOTTEN, None, False) for kind, name, *_ in notices])
