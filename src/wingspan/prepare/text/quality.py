"""What a post looks like: tags, which a policy in the project file turns into refusals.

Rules for posts and not for web pages: a post of three words is a good post. Each rule looks at one post and counts
its characters, or asks a small model; what many posts have in common is judged in accounts.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from wingspan.prepare.flow.compiled import compiled
from wingspan.prepare.privacy.hits import where_true
from wingspan.prepare.text.ngrams import code_point, load_model, scores, stands_alone, text_bytes

_COUNTS = ("links", "handles", "hashtags", "emoji", "letters", "words", "different", "longest_run", "capitals")
_LINKS, _HANDLES, _HASHTAGS, _EMOJI, _LETTERS, _WORDS, _DIFFERENT, _RUN, _CAPITALS = range(len(_COUNTS))
_WORD = -1  # a token that is none of the first three
_OPENING = 5  # words that an opening has
_WORDS_COMPARED = 256  # of a long post only the first words are compared with each other
_SEEN = 1024

# Nats of evidence from which a post reads like spam, if it also wants something done, and like abuse; what they find
# on messages that the model was not trained on is in docs/prepare.md.
_SPAM, _TOXIC = -2.0, 0.0
_WANTED = (
    r"(?i)\b(?:call|te?xt|reply|claim|click|visit|join|subscribe|free|win|won|prize|offer|cash|order|bonus|deals?)\b"
)
_CUT = r"[\p{L}\p{N}]…(?:\s*https?://\S+)?$"  # as platforms cut: within a word, perhaps with a link to the rest
_WAY = r"[0-9]|\[phone\]|https?://|[£$€]"
_FEATURES_OF_A_POST = 100  # a longer one is judged by its mean, so that length is no evidence

RULES: dict[str, pl.Expr] = {
    "cut short": pl.col("cut") & (pl.col("letters") >= 50),
    "link farm": (pl.col("links") >= 3) & (pl.col("words") < 8 * pl.col("links")),
    "link alone": (pl.col("links") >= 1) & (pl.col("words") == 0),
    "hashtag flood": (pl.col("hashtags") >= 5) & (pl.col("hashtags") > pl.col("words")),
    "handle flood": (pl.col("handles") >= 5) & (pl.col("handles") >= 2 * pl.col("words")),
    "emoji flood": (pl.col("emoji") >= 10) & (2 * pl.col("emoji") >= pl.col("letters")),
    "repetition": ((pl.col("words") >= 8) & (4 * pl.col("different") <= pl.col("compared")))
    | ((pl.col("longest_run") >= 20) & (4 * pl.col("longest_run") >= pl.col("letters"))),
    "shouting": (pl.col("letters") >= 20) & (10 * pl.col("capitals") >= 9 * pl.col("letters")),
    "spam": (pl.col("spam") > _SPAM) & pl.col("asks"),
    "toxic": pl.col("toxic") > _TOXIC,
}


def judge(texts: pl.Series) -> pl.DataFrame:
    """Of each text `tags`, the names of the rules that it meets; and what it has in common with others.

    `skeleton` is a hash of its words in letters alone, `opening` that of the first five (0 where there are fewer),
    `words` their number, `linked` whether it has a link.
    """
    content, offsets = text_bytes(texts)
    counts, skeletons = _counts(content, offsets)
    counted = pl.DataFrame(counts, schema=list(_COUNTS))
    model = load_model("posts")
    sums, features, _ = scores(texts, model)
    share = _FEATURES_OF_A_POST / np.maximum(features, _FEATURES_OF_A_POST)
    nats = (sums * share[:, None] + model.bias) / model.scale
    judged = counted.with_columns(
        pl.min_horizontal("words", pl.lit(_WORDS_COMPARED)).alias("compared"),
        *(pl.Series(name, nats[:, at]) for at, name in enumerate(model.classes)),
        texts.str.contains(_CUT).fill_null(False).alias("cut"),
        asks=where_true(texts, pl.Series(nats[:, 0] > _SPAM), _asks),
    )
    bits = judged.select(
        bits=pl.sum_horizontal(rule.cast(pl.Int32) * (1 << at) for at, rule in enumerate(RULES.values()))
    )
    met = bits.unique()
    names = [[name for at, name in enumerate(RULES) if one >> at & 1] for one in met["bits"]]
    met = met.with_columns(tags=pl.Series(names, dtype=pl.List(pl.String)))
    return bits.join(met, on="bits", how="left", maintain_order="left").select(
        "tags",
        skeleton=pl.Series(skeletons[:, 0]),
        opening=pl.Series(skeletons[:, 1]),
        words=counted["words"],
        linked=counted["links"] > 0,
    )


def _asks(texts: pl.Series) -> pl.Series:
    """Whether somebody wants something done, and gives a number or a link for it."""
    return texts.str.contains(_WANTED) & texts.str.contains(_WAY)


@compiled
def _counts(
    content: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Counts of _COUNTS for each text, and hashes of all its words and of the first; links, handles, tags are none.

    In scripts without spaces each character is a word, different from all others.
    """
    texts = len(offsets) - 1
    counts, hashes = np.zeros((texts, len(_COUNTS)), np.int32), np.zeros((texts, 2), np.uint64)
    seen = np.zeros(_SEEN, np.uint64)
    for text in range(texts):
        at, end = offsets[text], offsets[text + 1]
        row = counts[text]
        seen[:] = 0
        previous, run, word, kind, begins = 0, 0, np.uint64(0), _WORD, True
        while at <= end:
            point, width = code_point(content, at) if at < end else (32, 1)
            if point <= 32:
                if word:
                    _add_word(row, hashes[text], word)
                    row[_DIFFERENT] += row[_WORDS] <= _WORDS_COMPARED and _is_new(seen, word)
                begins, word, run = True, np.uint64(0), 0
            else:
                if begins:
                    kind, begins = _kind(content, at, end), False
                    if kind != _WORD:
                        row[kind] += 1
                if kind == _WORD:
                    run = run + 1 if point == previous else 1
                    row[_RUN] = max(row[_RUN], run)
                    if _is_emoji(point):
                        row[_EMOJI] += 1
                    elif _is_letter(point):
                        row[_LETTERS] += 1
                        row[_CAPITALS] += 65 <= point <= 90
                        word = (word + np.uint64(point | 32) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
                        if stands_alone(point):
                            _add_word(row, hashes[text], word)
                            row[_DIFFERENT] += 1
                            word = np.uint64(0)
            previous = point
            at += width
    return counts, hashes


@compiled
def _add_word(row: npt.NDArray[np.int32], hashes: npt.NDArray[np.uint64], word: np.uint64) -> None:
    row[_WORDS] += 1
    hashes[0] = (hashes[0] ^ word) * np.uint64(0xBF58476D1CE4E5B9)
    if row[_WORDS] == _OPENING:
        hashes[1] = hashes[0]


@compiled
def _is_new(seen: npt.NDArray[np.uint64], word: np.uint64) -> bool:
    """Put a word into a table of words, four times as large as there are words; whether it was not there."""
    slot = int(np.int64(word >> np.uint64(54)))
    while seen[slot] != 0:
        if seen[slot] == word:
            return False
        slot = (slot + 1) % _SEEN
    seen[slot] = word
    return True


@compiled
def _kind(content: npt.NDArray[np.uint8], at: int, end: int) -> int:
    first = content[at]
    if first == 64:
        return _HANDLES
    if first == 35:
        return _HASHTAGS
    if first == 104 and at + 8 <= end and content[at + 1] == 116 and content[at + 2] == 116 and content[at + 3] == 112:
        return _LINKS
    return _WORD


@compiled
def _is_emoji(point: int) -> bool:
    return 0x1F000 <= point < 0x20000 or 0x2600 <= point < 0x27C0 or 0x2B00 <= point < 0x2C00


@compiled
def _is_letter(point: int) -> bool:
    """ASCII letters, and whatever else is no punctuation, symbol, mark or digit by its block."""
    if point < 0xC0:
        return 97 <= point | 32 <= 122
    return not (0x2000 <= point < 0x2C00 or 0x3000 <= point < 0x3040 or 0xFE00 <= point < 0xFE10 or point >= 0xE0000)
