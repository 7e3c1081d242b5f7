"""Personal data out of texts: a Rust regex finds candidates in one pass, validators decide on the hits.

Each kind becomes a plain word in brackets; handles become keyed pseudonyms, so that who answers whom
can still be read.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import phonenumbers
import polars as pl

from wingspan.prepare.privacy.hits import on_hits, where
from wingspan.prepare.privacy.pseudonyms import PLACEHOLDERS

NameFinder = Callable[[Sequence[str]], Sequence[Sequence[tuple[int, int]]]]


@dataclass(frozen=True)
class Kind:
    """A kind of personal data: its pattern, and what tells it from look-alikes."""

    name: str
    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]


def luhn(text: str) -> bool:
    """Whether the digits of `text` pass the check of payment card numbers (ISO/IEC 7812-1, annex B)."""
    digits = [int(one) for one in text if one.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Whether `text` is an IBAN: 15 to 34 characters, check digits by mod 97 (ISO 13616, ISO 7064)."""
    compact = text.replace(" ", "").upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(one, 36)) for one in compact[4:] + compact[:4])) % 97 == 1


def _ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _phone(text: str) -> bool:
    """A number that some country's plan allows, after a plus; else 10 or 11 digits, grouped or with a leading 0."""
    if text.startswith("+"):
        try:
            return phonenumbers.is_possible_number(phonenumbers.parse(text))
        except phonenumbers.NumberParseException:
            return False
    digits = re.sub(r"\D", "", text)
    grouped_in_thousands = re.fullmatch(r"\d{1,3}(?:[ .]\d{3})+", text)
    groups = len(re.findall(r"\d+", text))
    return len(digits) in (10, 11) and not grouped_in_thousands and (3 <= groups <= 6 or text.startswith("0"))


# In this order: a secret may hold anything.
KINDS = (
    Kind(
        "secret",
        re.compile(
            r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}|\bhf_[A-Za-z]{30,}"
            r"|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[A-Za-z0-9_-]{35}|\b[0-9]{8,10}:AA[\w-]{33}"
            r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
            r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
            r"|(?i:(?<=password:)|(?<=password: )|(?<=passwd: ))(?=\S*\d)\S{6,}"
        ),
        lambda text: True,
    ),
    Kind("iban", re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{2,4}){3,8}\b"), iban),
    Kind("card", re.compile(r"\b[2-6](?:[ -]?[0-9]){12,18}\b"), luhn),
    Kind(
        "ip",
        re.compile(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b|\b(?:[0-9A-Fa-f]{1,4}:){2,7}(?:(?::?[0-9A-Fa-f]{1,4}){1,6})\b"),
        _ip_address,
    ),
    Kind("phone", re.compile(r"(?:\+|\(|\b)[0-9](?:[ ().-]{0,2}[0-9]){7,14}\b"), _phone),
    Kind(
        "address",  # a house number beside a word for a street: en, fr, de, es, pt, it
        re.compile(
            r"\b\d{1,5}[A-Za-z]?,? (?:[NSEW]\.? )?(?:[A-Z0-9][A-Za-z0-9'.]* ){1,3}?(?:Street|St|Avenue|Ave|Road|Rd"
            r"|Boulevard|Blvd|Lane|Ln|Drive|Dr|Terrace|Highway|Hwy)\b\.?"
            r"|\b\d{1,4},? (?:bis |ter )?(?:rue|avenue|boulevard|chemin|impasse|quai) (?:de |du |des |la |le |l'|d')*"
            r"[A-ZÉ][\w'-]+(?:[ -][A-ZÉ][\w'-]+)*"
            r"|\b[A-ZÄÖÜ][\w-]*(?:straße|strasse|str\.|weg|allee|gasse) \d{1,4}[a-z]?\b"
            r"|\b(?:Calle|Avenida|Rua|Viale|Piazza|Corso)(?: (?:de|da|do|del|della|la|los|las))*"
            r"(?: [A-Z][\w'-]+){1,3},? \d{1,4}\b"
        ),
        lambda text: True,
    ),
)
_EMAIL = re.compile(r"(?<![\w@])[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b")
_HANDLE = re.compile(  # begins with a plain character, which the engine jumps to
    rf"@(?!(?i:{'|'.join(sorted(PLACEHOLDERS))})(?![\w@]|\.\w))(?:(?<=\bRT@)|(?<![A-Za-z0-9_@]@))"
    r"([A-Za-z0-9_]{1,30}(?:@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?:\.[A-Za-z0-9-]+){2,})?)"
)
_PSEUDONYM = re.compile(r"user_[0-9a-f]{16}")
# What Rust looks for in every text, in one pass and in ASCII alone: the kinds above and more.
_CANDIDATE = (
    r"(?-u)[0-9](?:[ ().\-]{0,3}[0-9]){6}|[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
    r"|[A-Z]{2}[0-9]{2} ?[A-Z0-9]{3}|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]"
    r"|(?:sk|pk|rk)[-_][A-Za-z0-9_\-]{20}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_|hf_[A-Za-z]{30}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-|AIza[A-Za-z0-9_\-]{35}|eyJ[A-Za-z0-9_\-]{10}|[0-9]:AA[A-Za-z0-9_\-]{33}|-----BEGIN "
    r"|(?i:passw(?:or)?d:)"
    r"|[0-9][A-Za-z]?,? (?:[NSEW]\.? )?(?:[A-Z0-9][A-Za-z0-9'.]* ){1,3}(?:St|Ave|Ro?a?d|B(?:oulevard|lvd)|L(?:ane|n)"
    r"|Dr|Terrace|H(?:ighway|wy))|[0-9],? (?:bis |ter )?(?:rue|avenue|boulevard|chemin|impasse|quai) "
    r"|(?:(?u:straße)|strasse|str\.|weg|allee|gasse) [0-9]"
    r"|(?:Calle|Avenida|Rua|Viale|Piazza|Corso) (?u:[^0-9\n]{2,40}) [0-9]"
)
_WITH_AT = r"@[A-Za-z0-9_]"
_EMAIL_CANDIDATE = r"[0-9A-Za-z_]@[A-Za-z0-9]"
_BETWEEN = "\0"  # all texts with handles are one string to the engine


def remove_personal_data(
    texts: pl.Series, pseudonym: Callable[[str], str], find_names: NameFinder | None = None
) -> tuple[pl.Series, Counter[str]]:
    """`texts` without personal data, and how often each kind was replaced.

    Found: keys and secrets, e-mail addresses, IBANs, card numbers, IP addresses, phone numbers, street addresses,
    handles. `find_names` is asked about the texts in which one of these was found: who gives an address often gives
    a name too. It returns for each text the spans of names, which become pseudonyms.
    """
    counts: Counter[str] = Counter()

    def replace(text: str) -> str:
        for kind in KINDS:
            text = kind.pattern.sub(partial(_replacement, kind, counts), text)
        return text

    given = texts
    texts = on_hits(texts, _CANDIDATE, replace)
    texts = on_hits(texts, _EMAIL_CANDIDATE, lambda text: _EMAIL.sub(lambda _: _counted(counts, "email"), text))
    if find_names is not None:
        texts = where(texts, texts != given, partial(_without_names, find_names, pseudonym, counts))
    texts = where(texts, texts.str.contains(_WITH_AT), partial(_without_handles, pseudonym, counts))
    return texts, +counts


def _without_names(
    find_names: NameFinder, pseudonym: Callable[[str], str], counts: Counter[str], texts: list[str]
) -> list[str]:
    changed = []
    for text, spans in zip(texts, find_names(texts), strict=True):
        for start, end in sorted(spans, reverse=True):
            text = text[:start] + pseudonym(text[start:end]) + text[end:]
            counts["name"] += 1
        changed.append(text)
    return changed


def _counted(counts: Counter[str], kind: str) -> str:
    counts[kind] += 1
    return f"[{kind}]"


def _replacement(kind: Kind, counts: Counter[str], match: re.Match[str]) -> str:
    return _counted(counts, kind.name) if kind.is_valid(match.group()) else match.group()


def _without_handles(pseudonym: Callable[[str], str], counts: Counter[str], texts: list[str]) -> list[str]:
    joined = _BETWEEN.join(texts)
    if joined.count(_BETWEEN) >= len(texts):
        joined = _BETWEEN.join(text.replace(_BETWEEN, "") for text in texts)
    parts = _HANDLE.split(joined)  # every second part is a name
    found = Counter(name for name in parts[1::2] if not _PSEUDONYM.fullmatch(name))
    names = {name: pseudonym(name) for name in found}
    counts["handle"] += found.total()
    parts[1::2] = ["@" + names.get(name, name) for name in parts[1::2]]
    return "".join(parts).split(_BETWEEN)
