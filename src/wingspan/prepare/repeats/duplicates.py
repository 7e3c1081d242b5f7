"""Duplicates: equal texts after normalisation, and near-duplicates by MinHash over character 5-grams.

Short posts have a signature too, since the grams are of characters and not of words. Posts that share a band of
their signatures are compared; those that are alike hang together; of each group the post that was read first stays.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa

from wingspan.prepare.flow.components import components
from wingspan.prepare.flow.flow import Dataset, Flow, frame_of, keyed_by_part, place, row_of
from wingspan.prepare.repeats.hashing import band_keys, maybe_shared, similarities, text_hashes

HASHES = 128  # the largest signature
_RECALL = 0.99  # of pairs that are exactly as similar as the threshold
_FEWEST_ROWS = 5  # in a band: with fewer, too many posts that are not alike are compared
_MASKED = r"https?://\S+|@[\w.]+"
_BETWEEN_WORDS = r"[^\p{L}\p{N}]+"


def normalise(texts: pl.Series) -> pl.Series:
    """What counts when posts are compared: letters and digits in lower case; links and handles do not.

    A text of nothing else (emoji, a link) is compared as it stands.
    """
    core = texts.str.to_lowercase().str.replace_all(_MASKED, " ").str.replace_all(_BETWEEN_WORDS, " ").str.strip_chars()
    return pl.select(pl.when(core.str.len_chars() > 0).then(core).otherwise(texts))[core.name]


def bands_for(similarity: float) -> tuple[int, int]:
    """Bands and rows per band: the least signature with a recall of 0.99 at the threshold.

    A pair of similarity s shares at least one of b bands of r rows with probability 1 - (1 - s^r)^b
    (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4).
    """
    for rows in range(_FEWEST_ROWS, 0, -1):
        for bands in range(1, HASHES // rows + 1):
            if 1 - (1 - similarity**rows) ** bands >= _RECALL:
                return bands, rows
    return HASHES, 1


def find_duplicates(flow: Flow, posts: Dataset, similarity: float) -> Dataset:
    """For each part of `posts` (columns text, refused) the kept rows that repeat another post.

    `row`; `repeats`, the place of the post that stays in its stead; `exact`, whether an earlier post has the same
    normalised text. Two texts are near-duplicates when the Jaccard similarity of their sets of character 5-grams
    is at least `similarity`; groups are closed under that relation.
    """
    bands, rows = bands_for(similarity)
    parts, texts = len(posts.parts), posts.only("text")
    keyed = partial(_keyed, bands, rows)
    keys = flow.exchange(
        "bands", keyed, range(parts), posts.only("text", "refused"), parts=flow.buckets(posts.rows * (bands + 1))
    )
    pairs = flow.exchange("pairs", _candidates, keys, parts=parts)
    halves = flow.exchange("halves", _with_left, pairs, texts, parts=parts)
    alike = flow.map("alike", partial(_alike, similarity), halves, texts)
    groups = flow.exchange("groups", _by_part, components(flow, "groups", alike), parts=parts)
    return flow.map("duplicates", _marks, groups, alike)


def _keyed(bands: int, rows: int, part: int, posts: pa.Table) -> pa.Table:
    """A row for each band of each kept post, and one for its whole text."""
    kept = frame_of(posts).with_row_index("row").filter(pl.col("refused").is_null())
    texts = normalise(kept["text"])
    at = place(part, kept["row"])
    keys, usable = band_keys(texts, bands, rows)
    key = np.concatenate([text_hashes(texts), keys[usable].ravel()])
    return pa.table({"key": key, "at": np.concatenate([at, at[usable].repeat(bands)])})


def _candidates(keys: pa.Table) -> pa.Table:
    """Pairs of posts that share a key: each with the first that has it, and with the one before."""
    key, at = keys["key"].to_numpy(), keys["at"].to_numpy()
    several = maybe_shared(key)
    key, at = key[several], at[several]
    order = np.lexsort((at, key))
    key, at = key[order], at[order]
    later = np.append(np.zeros(min(1, len(key)), bool), key[1:] == key[:-1])
    first = at[np.maximum.accumulate(np.where(later, 0, np.arange(len(key))))]
    left = np.concatenate([first[later], at[np.flatnonzero(later) - 1]])
    pairs = pl.DataFrame({"left": left, "right": np.tile(at[later], 2)}).unique(maintain_order=True)
    return keyed_by_part(pairs, pairs["left"])


def _with_left(pairs: pa.Table, posts: pa.Table) -> pa.Table:
    """Pairs with the normalised text of their left post, moved to where the right one is."""
    distinct = frame_of(pairs).select("left", "right").unique(maintain_order=True)
    return keyed_by_part(distinct.with_columns(text=_texts(posts, distinct["left"])), distinct["right"])


def _alike(similarity: float, pairs: pa.Table, posts: pa.Table) -> pa.Table:
    """Pairs that are similar enough."""
    frame = frame_of(pairs)
    texts = _texts(posts, frame["right"])
    frame = frame.select("left", "right", exact=frame["text"] == texts, close=similarities(frame["text"], texts))
    return frame.filter(pl.col("exact") | (pl.col("close") >= similarity)).select("left", "right", "exact").to_arrow()


def _marks(groups: pa.Table, alike: pa.Table) -> pa.Table:
    """What became of this part's posts; `alike` are the pairs whose right post is here."""
    exact = frame_of(alike).filter("exact")["right"].unique()
    found = frame_of(groups).sort("right")
    repeated = found["right"].is_in(exact.implode())
    return found.select(pl.Series("row", row_of(found["right"])), repeats="left", exact=repeated).to_arrow()


def _by_part(groups: pa.Table) -> pa.Table:
    frame = frame_of(groups)
    return keyed_by_part(frame, frame["right"])


def _texts(posts: pa.Table, at: pl.Series) -> pl.Series:
    """The normalised texts of posts of this part."""
    return normalise(frame_of(posts)["text"].gather(row_of(at)))
