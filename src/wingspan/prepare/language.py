"""The language of a post: its script, its common words, and what the platform says, together.

Small on purpose: a script that one language owns decides at once; in the Latin script, words that few
languages share vote, the platform's tag votes too, and a post that gives no sign stays `und`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

import polars as pl

UNKNOWN = "und"
_HINT_WEIGHT = 1.5  # about one and a half words of that language alone

# Scripts and the language that writes most of each on social platforms; kana comes before Han.
_SCRIPTS = {
    "ja": r"[\p{Hiragana}\p{Katakana}]",
    "ko": r"\p{Hangul}",
    "zh": r"\p{Han}",
    "ru": r"\p{Cyrillic}",
    "ar": r"\p{Arabic}",
    "he": r"\p{Hebrew}",
    "el": r"\p{Greek}",
    "hi": r"\p{Devanagari}",
    "th": r"\p{Thai}",
}
_KANA_SHARE = 0.1  # of the letters: Japanese mixes kana with Han
_SCRIPT_SHARE = 0.5
_NOT_WORDS = r"https?://\S+|[@#][\w.]+"


def detect(posts: pl.DataFrame) -> pl.Series:
    """ISO 639-1 codes of `posts` (columns text and lang_hint), `und` where nothing tells."""
    rows = posts.select(
        text=pl.col("text").str.replace_all(_NOT_WORDS, " ").str.to_lowercase(),
        hint=pl.col("lang_hint").str.to_lowercase().str.extract(r"^([a-z]{2})(?:[-_].*)?$"),
    ).with_row_index("row")
    scored = rows.join(_best_by_words(rows), on="row", how="left", maintain_order="left")
    return scored.select(pl.coalesce(_by_script(), "by_words", "hint", pl.lit(UNKNOWN)).alias("lang"))["lang"]


def _by_script() -> pl.Expr:
    letters = pl.col("text").str.count_matches(r"\p{L}")
    decided = pl.lit(None, dtype=pl.String)
    for language, script in reversed(_SCRIPTS.items()):
        share = _KANA_SHARE if language == "ja" else _SCRIPT_SHARE
        enough = (letters > 0) & (pl.col("text").str.count_matches(script) > share * letters)
        written = (
            pl.when(pl.col("hint").is_in(_SHARED_SCRIPTS.get(language, ()))).then("hint").otherwise(pl.lit(language))
        )
        decided = pl.when(enough).then(written).otherwise(decided)
    return decided


# Other languages of a script: the platform's tag is believed among them.
_SHARED_SCRIPTS = {"ru": ("uk", "bg", "sr", "mk", "be", "kk"), "ar": ("fa", "ur", "ps"), "hi": ("mr", "ne")}


def _best_by_words(rows: pl.DataFrame) -> pl.DataFrame:
    """Row -> the language whose common words weigh most; rows without any are absent."""
    words = rows.select("row", word=pl.col("text").str.extract_all(r"\p{L}+(?:['’]\p{L}+)?")).explode("word")
    votes = words.join(_word_weights(), on="word").group_by("row", "language").agg(pl.col("weight").sum())
    hints = rows.select("row", language="hint", weight=pl.lit(_HINT_WEIGHT)).drop_nulls()
    return (
        pl.concat([votes, hints])
        .group_by("row", "language")
        .agg(pl.col("weight").sum())
        .join(_ranks(), on="language", how="left")
        .sort("row", "weight", "rank", "language", descending=[False, True, False, False], nulls_last=True)
        .group_by("row", maintain_order=True)
        .agg(by_words=pl.col("language").first())
    )


@cache
def _word_lists() -> dict[str, str]:
    """Language -> its common words, languages with the most posts first."""
    return tomllib.loads(files("wingspan.prepare").joinpath("language_words.toml").read_text("utf-8"))


def _ranks() -> pl.DataFrame:
    """Columns language, rank: among equals the more common language is the better guess."""
    return pl.DataFrame({"language": list(_word_lists())}).with_row_index("rank")


@cache
def _word_weights() -> pl.DataFrame:
    """Columns word, language, weight: a word of n languages weighs 1/n in each."""
    table = pl.DataFrame(
        [(word, language) for language, text in _word_lists().items() for word in dict.fromkeys(text.split())],
        schema={"word": pl.String, "language": pl.String},
        orient="row",
    )
    return table.with_columns(weight=1 / pl.len().over("word").cast(pl.Float64))
