"""The language of a post: its script, a fast n-gram model, and what the platform says, together.

A script that one language owns decides at once. Among the languages of a shared script the model's weights
add up, the platform's tag counts as evidence beside them, and a post that gives too little stays `und`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

from wingspan.prepare.flow.compiled import compiled
from wingspan.prepare.text.ngrams import LATIN, SCRIPTS, Ints, Model, load_model, scores

UNKNOWN = "und"
_HINT = 6.0  # nats: as much as one common word of that language alone
_LEAST = 1.0  # nats by which the best language must lead the second
_KANA_SHARE = 0.1  # of the letters: Japanese mixes kana with Han

# Scripts that one language owns on social platforms, or writes most of.
_OWNERS = {
    "greek": "el", "armenian": "hy", "hebrew": "he", "bengali": "bn", "gurmukhi": "pa", "gujarati": "gu",
    "tamil": "ta", "telugu": "te", "kannada": "kn", "malayalam": "ml", "thai": "th", "georgian": "ka",
    "amharic": "am", "kana": "ja", "han": "zh", "hangul": "ko",
}  # fmt: skip
_SHARED = {"cyrillic": ("ru", "uk", "bg", "mk"), "arabic": ("ar", "fa", "ur"), "devanagari": ("hi", "mr")}
# Languages that the model does not know: the platform's tag is believed where the script is theirs.
_TAGGED = ("sr", "be", "kk", "mn", "ky", "ps", "ug", "sd", "ne")
KANA, HAN = (list(SCRIPTS).index(name) for name in ("kana", "han"))


def detect(posts: pl.DataFrame) -> pl.Series:
    """ISO 639-1 codes of `posts` (columns text and lang_hint), `und` where nothing tells."""
    model, codes, of_script = _model()
    sums, _, letters = scores(posts["text"], model)
    hints = posts.select(pl.col("lang_hint").str.to_lowercase().str.extract(r"^([a-z]{2})(?:[-_].*)?$")).to_series()
    hint_codes = hints.replace_strict(list(codes), list(codes.values()), default=-1, return_dtype=pl.Int64).to_numpy()
    class_codes = np.array([codes[_iso(one)] for one in model.classes])
    best, script = _decide(sums + model.bias, letters, hint_codes, class_codes, of_script, model.scale)
    found = pl.Series("lang", [*map(_iso, model.classes), None], dtype=pl.String).gather(best)
    owner = pl.Series([_OWNERS.get(name) for name in (*SCRIPTS, "latin")], dtype=pl.String).gather(script)
    untold = hints.is_not_null() & pl.Series(hint_codes < 0)  # a tag that the model does not know
    tagged = untold & (pl.Series(script == LATIN) | hints.is_in(_TAGGED))
    written = pl.Series(letters.any(axis=1))
    decided = pl.when(written & ~(tagged & owner.is_null())).then(pl.coalesce(owner, found))
    return pl.select(pl.coalesce(decided, hints, pl.lit(UNKNOWN)).alias("lang"))["lang"]


@compiled
def _decide(
    sums: Ints,
    letters: Ints,
    hints: npt.NDArray[np.int64],
    class_codes: npt.NDArray[np.int64],
    of_script: npt.NDArray[np.bool_],
    scale: float,
) -> tuple[Ints, Ints]:
    """Per post the best class of its script (the number of classes: none leads enough), and the script."""
    texts, classes = sums.shape
    best, script = np.full(texts, classes, np.int32), np.zeros(texts, np.int32)
    for text in range(texts):
        main = int(np.argmax(letters[text]))
        if main == HAN and letters[text, KANA] > _KANA_SHARE * letters[text].sum():
            main = KANA
        script[text] = main
        lead, second = -np.inf, -np.inf
        for one in range(classes):
            if of_script[main, one]:
                nats = sums[text, one] / scale + (_HINT if hints[text] == class_codes[one] else 0.0)
                if nats > lead:
                    lead, second, best[text] = nats, lead, one
                elif nats > second:
                    second = nats
        if lead - second < _LEAST:
            best[text] = classes
    return best, script


def _iso(name: str) -> str:
    return name.partition("-")[0]


@cache
def _model() -> tuple[Model, dict[str, int], npt.NDArray[np.bool_]]:
    """The model, a number for each ISO code of its classes, and which classes each script may be."""
    model = load_model("language")
    of_script = np.zeros((len(SCRIPTS) + 1, len(model.classes)), np.bool_)
    for number, name in enumerate(SCRIPTS):
        of_script[number] = [one in _SHARED.get(name, ()) for one in model.classes]
    of_script[LATIN] = ~of_script.any(axis=0)
    return model, {name: number for number, name in enumerate(dict.fromkeys(map(_iso, model.classes)))}, of_script
