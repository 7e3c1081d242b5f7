"""Train prepare's two text models: the language of a post, and whether it reads like spam or abuse.

    pip download --no-deps -d DIR lingua-language-detector==1.3.5 langdetect==1.0.9   (both Apache-2.0)
    pip install brotli scikit-learn
    python scripts/train_text_models.py DIR --udhr UDHR2 --sms SMSSpamCollection --abuse labeled_data.csv \\
        --plain goemotions/train.tsv goemotions/labels.txt --titles reddit-top

UDHR2 is the NLTK corpus of the Universal Declaration of Human Rights (public domain), SMSSpamCollection the
UCI SMS Spam Collection v.1 (CC BY 4.0), labeled_data.csv that of Davidson et al. 2017 (MIT), goemotions the
Reddit comments of Demszky et al. 2020 (CC BY 4.0), reddit-top the titles of popular submissions (PDDL). No text
of theirs is kept: what is written to src/wingspan/prepare/text/weights/ are rounded sums over hashed n-grams. The same
inputs give the same bytes.
Prints precision and recall on the fifth of the messages that was not trained on.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tarfile
import tomllib
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse
from sklearn.linear_model import LogisticRegression

from wingspan.prepare.flow.compiled import compiled
from wingspan.prepare.text.cleaning import clean
from wingspan.prepare.text.ngrams import SCRIPTS, Model, features, longest_text, text_bytes

WEIGHTS = Path(__file__).parents[1] / "src/wingspan/prepare/text/weights"
WORDS = Path(__file__).with_name("language_words.toml")


def _list(text: str) -> list[str]:
    return text.split()


LATIN = _list("en es pt fr de it nl sv da no fi pl cs sk hu ro tr id vi tl ca hr sl et lv lt sw")
OTHERS = _list("ru uk bg mk ar fa ur hi mr")
ROMANISED_HINDI = "hi-Latn"
COMMON = _list("en es pt fr id tr de it hi hi-Latn pl nl sv ru ar")  # the others need 4 nats more evidence
FLOOR = 3e-5  # added to the probability of every n-gram: what was never seen may still be written
GRAMS = {2: 3_000, 3: 20_000, 4: 30_000}  # length -> the most frequent ones are kept
WORD_NATS = 6.0
SIZE, SCALE = 1 << 16, 10
_SCRIPTS = len(SCRIPTS) + 1


def main() -> None:
    """Both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    for name in ("--udhr", "--sms", "--abuse"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--plain", type=Path, nargs=2, required=True)
    parser.add_argument("--titles", type=Path, required=True)
    given = parser.parse_args()
    train_language(given.packages, given.udhr)
    train_posts(given.sms, given.abuse, *given.plain, given.titles)


def save(name: str, model: Model) -> None:
    """Write weights/NAME.npz."""
    WEIGHTS.mkdir(exist_ok=True)
    np.savez_compressed(WEIGHTS / f"{name}.npz", **(vars(model) | {"classes": np.array(model.classes)}))
    print(f"{name}.npz: {(WEIGHTS / f'{name}.npz').stat().st_size:,} bytes")


# The language of a post: naive Bayes over counted n-grams (Cavnar & Trenkle 1994; Lui & Baldwin 2012).


def train_language(packages: Path, udhr: Path) -> None:
    """Log probabilities of n-grams, centred over the languages, plus the words of few languages."""
    languages = [*LATIN, *OTHERS, ROMANISED_HINDI]
    profiles = wikipedia_profiles(packages)
    lingua = {language: lingua_grams(packages, language) for language in [*LATIN, *OTHERS]}
    hindi = romanised_hindi(lingua["hi"], udhr / "hin.txt")
    weights = np.zeros((SIZE, len(languages)))
    for length, kept in GRAMS.items():
        found: dict[str, Any] = {}
        for column, language in enumerate(languages):
            if language == ROMANISED_HINDI:
                grams = {gram: share for gram, share in hindi.items() if len(gram) == length}
            elif length == 4:
                grams = lingua[language][4]
            else:
                grams = profiles[language][length]
            for gram, share in grams.items():
                found.setdefault(gram, np.zeros(len(languages)))[column] = share
        for gram in sorted(found, key=lambda one: (-found[one].max(), one))[:kept]:
            nats = np.log(found[gram] + FLOOR)
            weights[bucket_of(gram, backwards=True)] += nats - nats.mean()
    owners: dict[str, set[str]] = {}
    for language, words in tomllib.loads(WORDS.read_text("utf-8")).items():
        for word in words.split():
            if re.fullmatch(r"\w+", word):
                owners.setdefault(word, set()).add(ROMANISED_HINDI if language == "hi" and word.isascii() else language)
    for word, ours in owners.items():
        for language in ours:
            weights[bucket_of(word), languages.index(language)] += WORD_NATS / len(ours)
    bias = np.array([0 if one in COMMON else -4 * SCALE for one in languages], np.int32)
    rounded = np.clip(np.round(weights * SCALE), -127, 127).astype(np.int8)
    save("language", Model(rounded, tuple(languages), bias, 2, 4, True, SCALE))


def bucket_of(text: str, backwards: bool = False) -> int:
    """The bucket in which the kernel looks an n-gram (from its last character back; space: boundary) or a word up."""
    factor, mask = (0x9E3779B97F4A7C15 if backwards else 0xC2B2AE3D27D4EB4F), (1 << 64) - 1
    value = 0
    for character in reversed(text) if backwards else text:
        value = (value + (0 if character == " " else ord(character)) + 1) * factor & mask
    return ((value ^ value >> 29) * 0xBF58476D1CE4E5B9 & mask) >> 40 & SIZE - 1


def wikipedia_profiles(packages: Path) -> dict[str, dict[int, dict[str, float]]]:
    """language -> length -> n-gram -> share, of langdetect's counts over Wikipedia abstracts; space: boundary."""
    profiles = {}
    with tarfile.open(next(packages.glob("langdetect-*.tar.gz"))) as archive:
        root = archive.getnames()[0].split("/")[0]
        for language in [*LATIN, *OTHERS]:
            stream = archive.extractfile(f"{root}/langdetect/profiles/{language}")
            assert stream
            counts: Counter[str] = Counter()
            for gram, count in json.load(stream)["freq"].items():
                counts[gram.lower()] += count
            profiles[language] = {
                length: {
                    gram: count / sum(n for one, n in counts.items() if len(one) == length)
                    for gram, count in counts.items()
                    if len(gram) == length and gram.strip() and gram[1:-1].strip() == gram[1:-1]
                }
                for length in (2, 3)
            }
    return profiles


def lingua_grams(packages: Path, language: str) -> dict[int, dict[str, float]]:
    """length -> n-gram -> joint probability within words, from Lingua's conditional ones; rare ones left out."""
    joint: dict[int, dict[str, float]] = {0: {"": 1.0}}
    folder = f"lingua/language-models/{'nb' if language == 'no' else language}"
    with zipfile.ZipFile(next(packages.glob("lingua_language_detector-1*.whl"))) as wheel:
        for length, name in enumerate(("unigrams", "bigrams", "trigrams", "quadrigrams", "fivegrams"), 1):
            shares = json.loads(brotli.decompress(wheel.read(f"{folder}/{name}.json.br")))["ngrams"]
            before, joint[length] = joint[length - 1], {}
            for fraction, grams in shares.items():
                over, under = map(int, fraction.split("/"))
                for gram in grams.split():
                    if (share := before.get(gram[:-1], 0.0) * over / under) > 1e-6:
                        joint[length][gram] = share
    return joint


_VOWELS = dict(zip("अआइईउऊऋएऐओऔ", _list("a a i i u u ri e ai o au"), strict=True))
_SIGNS = dict(zip("ािीुूृेैोौ", _list("a i i u u ri e ai o au"), strict=True))
_CONSONANTS = dict(
    zip(
        "कखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहळ",
        _list("k kh g gh n ch chh j jh n t th d dh n t th d dh n p ph b bh m y r l w sh sh s h l"),
        strict=True,
    )
)


def romanised(text: str, ends: bool) -> str:
    """Hindi in Latin letters, roughly as people type it; at the end of a word the inherent vowel is silent."""
    written = []
    for place, character in enumerate(text):
        following = text[place + 1 : place + 2]
        if character in _CONSONANTS:
            silent = following == "्" or following in _SIGNS or (ends and not following)
            written.append(_CONSONANTS[character] + ("" if silent else "a"))
        else:
            written.append(_VOWELS.get(character) or _SIGNS.get(character) or ("n" if character in "ंँ" else ""))
    return "".join(written)


def romanised_hindi(lingua: dict[int, dict[str, float]], declaration: Path) -> dict[str, float]:
    """n-gram -> share: inside words by Lingua's Hindi five-grams, at their borders by the Declaration's words."""
    inside: dict[int, Counter[str]] = {length: Counter() for length in GRAMS}
    border: dict[int, Counter[str]] = {length: Counter() for length in GRAMS}
    for gram, share in lingua[5].items():
        text = romanised(gram, ends=False)
        for length, counts in inside.items():
            for at in range(len(text) - length + 1):
                counts[text[at : at + length]] += share  # type: ignore[assignment]
    for word in re.findall(r"[\u0900-\u0963]+", declaration.read_text("utf-8")):
        text = f" {romanised(word, ends=True)} "
        for length, counts in border.items():
            for at in range(len(text) - length + 1):
                counts[text[at : at + length]] += 1
    shares: dict[str, float] = {}
    for length in GRAMS:
        at_borders = {gram: count for gram, count in border[length].items() if " " in gram}
        share_of_borders = sum(at_borders.values()) / border[length].total()
        shares |= {gram: count / border[length].total() for gram, count in at_borders.items()}
        shares |= {
            gram: count / inside[length].total() * (1 - share_of_borders) for gram, count in inside[length].items()
        }
    return shares


# Spam and abuse: logistic regression over the same kind of features.

UNFRIENDLY = _list("anger annoyance disappointment disapproval disgust embarrassment fear sadness")


def train_posts(sms: Path, abuse: Path, comments: Path, emotions: Path, titles: Path) -> None:
    """One table with a column for each of the two; friendly comments and titles are examples of neither."""
    shape = Model(np.zeros((1 << 15, 2), np.int8), ("spam", "toxic"), np.zeros(2, np.int32), 3, 5, False, 12)
    unfriendly = {str(at) for at, name in enumerate(emotions.read_text("utf-8").split()) if name in UNFRIENDLY}
    rows = [line.split("\t") for line in comments.read_text("utf-8").splitlines()]
    plain = [(row[0], False) for row in rows if not unfriendly & set(row[1].split(","))]
    plain += [(title, False) for file in sorted(titles.glob("*.csv")) for title in _titles(file)]
    messages = [line.partition("\t")[::2] for line in sms.read_text("utf-8").splitlines()[1:]]
    with abuse.open(encoding="utf-8") as stream:
        tweets = [(row["tweet"], row["class"] != "2") for row in csv.DictReader(stream)]
    spam = fit(shape, [(text, label == "spam") for label, text in messages], plain, "spam", 3.0)
    toxic = fit(shape, tweets, plain, "toxic", 0.3)
    weights = np.clip(np.round(np.stack([spam[0], toxic[0]], axis=1) * shape.scale), -127, 127).astype(np.int8)
    bias = np.round(np.array([spam[1], toxic[1]]) * shape.scale).astype(np.int32)
    save("posts", Model(weights, shape.classes, bias, shape.shortest, shape.longest, False, shape.scale))


def _titles(file: Path) -> list[str]:
    csv.field_size_limit(1 << 24)
    with file.open(encoding="utf-8", errors="replace") as stream:
        return [row["title"] for row in csv.DictReader(line.replace("\0", "") for line in stream) if row["title"]]


def fit(
    shape: Model, labelled: list[tuple[str, bool]], plain: list[tuple[str, bool]], name: str, strength: float
) -> tuple[Any, float]:
    """Weights per bucket and the intercept; trained on four fifths, measured on the rest of the labelled ones."""
    texts, labels = zip(*labelled, *plain, strict=True)
    found, begins = buckets(clean(pl.Series(texts)), shape)
    counts = np.diff(begins)
    values = np.repeat(100 / np.maximum(counts, 100), counts)  # a long text weighs no more than one of 100 features
    features = scipy.sparse.csr_matrix((values, found, begins), (len(texts), len(shape.weights)))
    true, own = np.array(labels), np.arange(len(texts)) < len(labelled)
    held_out = own & (np.arange(len(texts)) % 5 == 4)
    model = LogisticRegression(C=strength, max_iter=200)
    model.fit(features[~held_out], true[~held_out])
    nats = model.decision_function(features)
    for least in (0, 1, 2):
        chosen = nats > least
        hits = (chosen & true)[held_out].sum()
        print(
            f"{name} from {least} nats: precision {hits / chosen[held_out].sum():.3f},"
            f" recall {hits / true[held_out].sum():.3f} of {true[held_out].sum()};"
            f" {chosen[~own].mean():.2%} of the others"
        )
    return model.coef_[0], float(model.intercept_[0])


def buckets(texts: pl.Series, model: Model) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What a model sees of texts, for its training: bucket numbers, and where each text's begin."""
    content, offsets = text_bytes(texts)
    return _buckets(content, offsets, len(model.weights), model.shortest, model.longest, model.letters_only)


@compiled
def _buckets(
    content: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    size: int,
    shortest: int,
    longest: int,
    letters_only: bool,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    begins = np.zeros(len(offsets), np.int64)
    found = np.empty((longest_text(offsets) + 1) * (longest - shortest + 2), np.int64)
    all_found = np.empty((offsets[-1] - offsets[0] + len(offsets)) * (longest - shortest + 2), np.int64)
    scripts = np.zeros(_SCRIPTS, np.int32)
    for text in range(len(offsets) - 1):
        begin, end = offsets[text], offsets[text + 1]
        count = features(content, begin, end, size, shortest, longest, letters_only, found, scripts)
        begins[text + 1] = begins[text] + count
        all_found[begins[text] : begins[text + 1]] = found[:count]
    return all_found[: begins[-1]], begins


if __name__ == "__main__":
    main()
