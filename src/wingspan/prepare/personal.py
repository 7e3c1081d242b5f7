"""Personal data out of texts: a Rust regex finds candidates in one pass, validators decide on the hits.

Each kind becomes a plain word in brackets; handles become keyed pseudonyms, so that who answers whom
can still be read.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import polars as pl

from wingspan.prepare.hits import on_hits
from wingspan.prepare.pseudonyms import PLACEHOLDERS


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
    """8 to 15 digits (E.164) written as a phone number: after a plus sign, or grouped, or with a leading 0."""
    digits = re.sub(r"\D", "", text)
    if text.startswith("+"):
        return 8 <= len(digits) <= 15
    grouped_in_thousands = re.fullmatch(r"\d{1,3}(?:[ .]\d{3})+", text)
    groups = len(re.findall(r"\d+", text))
    return len(digits) in (10, 11) and not grouped_in_thousands and (3 <= groups <= 6 or text.startswith("0"))


# In this order: a secret may hold an e-mail address, an e-mail address looks like a handle.
KINDS = (
    Kind(
        "secret",
        re.compile(
            r"\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{36,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}"
            r"|\bAIza[A-Za-z0-9_-]{35}|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
            r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
        ),
        lambda text: True,
    ),
    Kind("email", re.compile(r"(?<![\w@])[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b"), lambda text: True),
    Kind("iban", re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{2,4}){3,8}\b"), iban),
    Kind("card", re.compile(r"\b[2-6](?:[ -]?[0-9]){12,18}\b"), luhn),
    Kind(
        "ip",
        re.compile(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b|\b(?:[0-9A-Fa-f]{1,4}:){2,7}(?:(?::?[0-9A-Fa-f]{1,4}){1,6})\b"),
        _ip_address,
    ),
    Kind("phone", re.compile(r"(?:\+|\(|\b)[0-9](?:[ ().-]{0,2}[0-9]){7,14}\b"), _phone),
)
_HANDLE = re.compile(
    r"(?:(?<=\bRT)|(?<![A-Za-z0-9_@]))@([A-Za-z0-9_]{1,30}(?:@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?:\.[A-Za-z0-9-]+){2,})?)"
)
_PSEUDONYM = re.compile(r"user_[a-z2-7]{13}")
# What Rust searches for, which knows no look-around: an @ stands for e-mail addresses and handles.
_CANDIDATE = "|".join([*(kind.pattern.pattern for kind in KINDS if kind.name != "email"), r"@[A-Za-z0-9_]"])


def remove_personal_data(texts: pl.Series, pseudonym: Callable[[str], str]) -> tuple[pl.Series, Counter[str]]:
    """`texts` without personal data, and how often each kind was replaced.

    Found: keys and secrets, e-mail addresses, IBANs, card numbers, IP addresses, phone numbers, handles.
    """
    counts: Counter[str] = Counter()

    def replace(text: str) -> str:
        for kind in KINDS:
            text = kind.pattern.sub(partial(_replacement, kind, counts), text)
        return _HANDLE.sub(partial(_handle, pseudonym, counts), text)

    return on_hits(texts, _CANDIDATE, replace), counts


def _replacement(kind: Kind, counts: Counter[str], match: re.Match[str]) -> str:
    found = match.group()
    if not kind.is_valid(found):
        return found
    counts[kind.name] += 1
    return f"[{kind.name}]"


def _handle(pseudonym: Callable[[str], str], counts: Counter[str], match: re.Match[str]) -> str:
    name = match.group(1)
    if name.lower() in PLACEHOLDERS or _PSEUDONYM.fullmatch(name):
        return match.group()
    counts["handle"] += 1
    return "@" + pseudonym(name)
