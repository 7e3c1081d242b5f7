"""Duplicates: equal texts after normalisation, and near-duplicates by MinHash over character 5-grams.

Short posts keep a signature too, since the shingles are characters and not words. Everything is
deterministic: of a group of duplicates the earliest id stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

GRAM = 5  # characters
HASHES = 120  # the largest signature, as in 20 bands of 6
_RECALL = 0.99  # of pairs that are exactly as similar as the threshold
_MASKED = r"https?://\S+|@[\w.]+"
_BETWEEN_WORDS = r"[^\p{L}\p{N}]+"
_CHUNK = 1 << 20  # grams signed at once

Grams = npt.NDArray[np.uint64]


def normalise(texts: pl.Series) -> pl.Series:
    """What counts when posts are compared: letters and digits in lower case; links and handles do not.

    A text of nothing else (emoji, a link) is compared as it stands.
    """
    core = texts.str.to_lowercase().str.replace_all(_MASKED, " ").str.replace_all(_BETWEEN_WORDS, " ").str.strip_chars()
    return pl.select(pl.when(core.str.len_chars() > 0).then(core).otherwise(texts))[core.name]


def find_duplicates(texts: pl.Series, similarity: float) -> pl.DataFrame:
    """Duplicates among `texts`, given in order of preference: the first of a group stays.

    Two texts are near-duplicates when the Jaccard similarity of their sets of character 5-grams is at
    least `similarity`; groups are closed under that relation. Returns, row by row, `first` (the row that
    stays in its stead, null for one that stays itself) and `exact` (whether the normalised texts are equal).
    """
    frame = pl.DataFrame({"text": normalise(texts)}).with_row_index("row")
    equal_to = frame.select(pl.col("row").first().over("text"))["row"].to_numpy().astype(np.int64)
    rows = np.arange(len(texts))
    exact = equal_to != rows
    distinct = rows[~exact]
    leaders = near_duplicates(frame["text"].gather(distinct), similarity)
    first = rows.copy()
    first[distinct] = distinct[leaders]
    first[exact] = first[equal_to[exact]]
    named = pl.select(pl.when(pl.Series(first != rows)).then(pl.Series(first))).to_series()
    return pl.DataFrame({"first": named, "exact": exact})


def near_duplicates(texts: pl.Series, similarity: float) -> npt.NDArray[np.int64]:
    """For each text the index of the first text of its group of near-duplicates (itself where it has none)."""
    grams = list(_gram_sets(texts))
    bands, rows_per_band = bands_for(similarity)
    signatures = minhash(grams, bands * rows_per_band)
    parent = np.arange(len(texts))
    for bucket in _buckets(signatures, bands, rows_per_band):
        leaders: list[int] = []
        for member in bucket:
            match = next((one for one in leaders if _alike(parent, grams, one, member, similarity)), None)
            if match is None:
                leaders.append(member)
            else:
                _join(parent, match, member)
    return np.array([_root(parent, row) for row in range(len(parent))], dtype=np.int64)


def bands_for(similarity: float) -> tuple[int, int]:
    """Bands and rows per band: the most selective with a recall of 0.99 at the threshold.

    A pair of similarity s shares at least one of b bands of r rows with probability 1 - (1 - s^r)^b
    (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4).
    """
    for rows in range(12, 1, -1):
        bands = HASHES // rows
        if 1 - (1 - similarity**rows) ** bands >= _RECALL:
            return bands, rows
    return HASHES, 1


def jaccard(one: Grams, other: Grams) -> float:
    """|A and B| / |A or B| of two sorted sets."""
    common = np.intersect1d(one, other, assume_unique=True).size
    return common / (one.size + other.size - common) if common else 0.0


def minhash(grams: list[Grams], hashes: int) -> npt.NDArray[np.uint32]:
    """Signatures, shape (documents, hashes) (Broder 1997); a document without grams gets all ones."""
    signatures = np.full((len(grams), hashes), np.iinfo(np.uint32).max, dtype=np.uint32)
    random = np.random.Generator(np.random.PCG64(5))
    multipliers = random.integers(1, 2**64, hashes, dtype=np.uint64) | np.uint64(1)
    offsets = random.integers(0, 2**64, hashes, dtype=np.uint64)
    for start, stop in _chunks(grams):
        sizes = np.array([one.size for one in grams[start:stop]])
        filled = np.flatnonzero(sizes) + start
        if not filled.size:
            continue
        flat = np.concatenate([grams[row] for row in filled])
        begins = np.concatenate(([0], np.cumsum(sizes[sizes > 0])[:-1]))
        for column in range(hashes):  # the high half of a 64-bit multiply-add (Dietzfelbinger et al. 1997)
            values = ((flat * multipliers[column] + offsets[column]) >> np.uint64(32)).astype(np.uint32)
            signatures[filled, column] = np.minimum.reduceat(values, begins)
    return signatures


def _chunks(grams: list[Grams]) -> Iterator[tuple[int, int]]:
    """Ranges of documents of about `_CHUNK` grams each."""
    start, size = 0, 0
    for row, one in enumerate(grams):
        size += one.size
        if size >= _CHUNK:
            yield start, row + 1
            start, size = row + 1, 0
    if start < len(grams):
        yield start, len(grams)


def gram_set(text: str) -> Grams:
    """The sorted set of hashes of a text's character 5-grams; empty for a shorter text."""
    return next(_gram_sets(pl.Series([text])))


def _gram_sets(texts: pl.Series) -> Iterator[Grams]:
    """Code points packed into one array, hashed by position, then cut per document."""
    for batch in texts.to_frame("text").iter_slices(50_000):
        points = np.frombuffer("".join(batch["text"]).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        hashes = np.zeros(max(0, points.size - GRAM + 1), dtype=np.uint64)
        for offset in range(GRAM):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + points[offset : offset + hashes.size]
        hashes = _mix(hashes)
        begin = 0
        for length in batch["text"].str.len_chars():
            yield np.unique(hashes[begin : begin + max(0, length - GRAM + 1)])
            begin += length


def _mix(values: Grams) -> Grams:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _buckets(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> Iterator[list[int]]:
    """Groups of two or more documents that agree on a whole band, members in order."""
    usable = np.flatnonzero((signatures != np.iinfo(np.uint32).max).any(axis=1))
    for band in range(bands):
        keys = np.ascontiguousarray(signatures[usable, band * rows : (band + 1) * rows])
        _, group, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(group, kind="stable")
        ends = np.cumsum(sizes)
        for end, size in zip(ends[sizes > 1], sizes[sizes > 1], strict=True):
            yield usable[order[end - size : end]].tolist()


def _alike(parent: npt.NDArray[np.int64], grams: list[Grams], one: int, other: int, similarity: float) -> bool:
    return _root(parent, one) == _root(parent, other) or jaccard(grams[one], grams[other]) >= similarity


def _root(parent: npt.NDArray[np.int64], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row


def _join(parent: npt.NDArray[np.int64], one: int, other: int) -> None:
    first, second = sorted((_root(parent, one), _root(parent, other)))
    parent[second] = first
