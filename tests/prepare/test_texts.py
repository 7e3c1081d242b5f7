"""Cleaning, personal data, pseudonyms, language: what happens to a text."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.prepare.privacy import personal
from wingspan.prepare.privacy.personal import iban, luhn, remove_personal_data
from wingspan.prepare.privacy.pseudonyms import pseudonym_key, pseudonymiser
from wingspan.prepare.text import cleaning
from wingspan.prepare.text.cleaning import clean, mend_mojibake
from wingspan.prepare.text.language import detect

PSEUDONYM = pseudonymiser(b"k" * 32)


def cleaned(text: str) -> str:
    return str(clean(pl.Series([text]))[0])


def protected(text: str) -> str:
    return str(remove_personal_data(pl.Series([text]), PSEUDONYM)[0][0])


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ("a &amp; b &gt; c", "a & b > c"),
        ("&amp;lt; stays escaped once", "&lt; stays escaped once"),
        ("<p>One</p><p>Two<br>three &amp; four</p>", "One\nTwo\nthree & four"),
        ('<p>see <a href="https://a.example/long"><span class="invisible">https://</span>a.ex…</a></p>',
         "see https://a.example/long"),
        ('<p><span class="h-card"><a href="https://m.example/@ann" class="mention">@<span>ann</span></a></span> hi</p>',
         "@ann hi"),
        ("I <3 you, 2 < 3", "I <3 you, 2 < 3"),
        ("cafÃ© â€œnoÃ«lâ€\x9d", "café “noël”"),
        ("déjà vu Ã la carte", "déjà vu Ã la carte"),
        ("  many   \u00a0 spaces \r\n and\0 lines  ", "many spaces\nand lines"),
        ("cafe\u0301", "café"),
    ],
)  # fmt: skip
def test_cleaning_gives_what_the_person_wrote(stored: str, written: str) -> None:
    assert cleaned(stored) == written


@given(st.text(max_size=60))
def test_cleaning_twice_changes_plain_text_no_further(text: str) -> None:
    once = cleaned(text)
    if "&" not in once and "<" not in once and mend_mojibake(once) == once:
        assert cleaned(once) == once


@given(
    st.text(
        st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("<>/&;#pabÃ© \t\n\r\u00a0e\u0301")),
        max_size=20,
    )
)
def test_only_texts_that_cleaning_would_change_are_cleaned(text: str) -> None:
    assert cleaned(text) == cleaning._clean(pl.Series([text]))[0]


def test_no_character_that_cleaning_changes_looks_clean() -> None:
    texts = pl.Series([f"a{chr(point)}a" for point in range(0x32000) if not 0xD800 <= point < 0xE000])
    assert (clean(texts) == cleaning._clean(texts)).all()


PIECES = (
    "+33 6 12 34 56 78", "(555) 123-4567", "0612345678", "GB82 WEST 1234 5698 7654 32", "4111 1111 1111 1111",
    "192.168.0.1", "2001:db8::8a2e:370:7334", "sk-abcdefghijklmnopqrstuvwx", "AKIAIOSFODNN7EXAMPLE",
    "221B Baker Street", "Calle Mayor 4", "12 rue de la Paix", "Hauptstraße 5a", "Password: hunter2hunter2",
    "-----BEGIN PRIVATE KEY-----", "xoxb-1234567890",
)  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text("0123456789 .:-+()ABabé@,", max_size=12)), max_size=4))
def test_the_first_look_misses_no_personal_data(parts: list[str]) -> None:
    text = " ".join(parts)
    slowly = text
    for kind in personal.KINDS:
        replaced = partial(personal._replacement, kind, Counter())
        slowly = kind.pattern.sub(replaced, slowly)
    if "@" not in text:
        assert protected(text) == slowly


@given(st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=30))
def test_mojibake_is_undone_exactly(text: str) -> None:
    broken = text.encode("utf-8").decode("latin-1")
    assert mend_mojibake(broken) == text


@given(st.integers(0, 10**15 - 1), st.integers(1, 9))
def test_luhn_finds_every_single_wrong_digit(number: int, change: int) -> None:
    digits = f"{number:015d}"
    check = next(one for one in "0123456789" if luhn(digits + one))
    assert sum(luhn(digits + one) for one in "0123456789") == 1
    wrong = digits[:7] + str((int(digits[7]) + change) % 10) + digits[8:] + check
    assert not luhn(wrong)


@given(st.sampled_from(["FR", "DE", "GB"]), st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=18, max_size=24))
def test_iban_check_digits(country: str, account: str) -> None:
    number = int("".join(str(int(one, 36)) for one in account + country + "00"))
    check = f"{98 - number % 97:02d}"
    assert iban(country + check + account)
    assert not iban(country + f"{(int(check) + 1) % 100:02d}" + account)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("write to jane.doe+x@mail.example.org now", "write to [email] now"),
        ("call +33 6 12 34 56 78!", "call [phone]!"),
        ("call (555) 123-4567", "call [phone]"),
        ("0612345678", "[phone]"),
        ("pay to GB82 WEST 1234 5698 7654 32 today", "pay to [iban] today"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("server 192.168.0.1 and 2001:db8::8a2e:370:7334", "server [ip] and [ip]"),
        ("key sk-abcdefghijklmnopqrstuvwx", "key [secret]"),
        ("key AKIAIOSFODNN7EXAMPLE", "key [secret]"),
        ("password: hunter2hunter2 please", "password: [secret] please"),
        ("meet at 221B Baker Street tonight", "meet at [address] tonight"),
        ("j'habite 12 bis rue de la Paix", "j'habite [address]"),
        ("wohne in der Hauptstraße 5a", "wohne in der [address]"),
        ("vive en Calle de Alcalá 42", "vive en [address]"),
        ("Occupy Wall Street, 3 people on a street, I forgot my password: again", None),
        ("on 2024-12-25 we sold 1 000 000 000 in 10.5 s, version 1.2.3.400", None),
        ("4111 1111 1111 1112 is no card", None),
        ("tweet 1844674407370955161 of 2,500,000", None),
        ("RT @anonymous: hello @user", None),
        ("what the f@ck", None),
        ("at 10:30:15 sharp", None),
    ],
)
def test_personal_data_is_replaced_and_look_alikes_are_not(text: str, safe: str | None) -> None:
    assert protected(text) == (text if safe is None else safe)


def test_handles_become_the_same_pseudonym_everywhere() -> None:
    texts = pl.Series(
        ["@Ann hi", "thanks @ann! (@bob)", "@ann@social.example too", ".@bob RT@ann https://m.example/@ann"]
    )
    safe, counts = remove_personal_data(texts, PSEUDONYM)
    assert safe[0] == f"@{PSEUDONYM('ann')} hi"
    assert safe[1] == f"thanks @{PSEUDONYM('ann')}! (@{PSEUDONYM('bob')})"
    assert PSEUDONYM("ann@social.example") in safe[2]
    assert safe[3] == f".@{PSEUDONYM('bob')} RT@{PSEUDONYM('ann')} https://m.example/@{PSEUDONYM('ann')}"
    assert counts == {"handle": 7}
    assert remove_personal_data(safe, PSEUDONYM)[0].to_list() == safe.to_list()


def test_names_are_asked_for_only_where_something_else_was_found() -> None:
    asked: list[str] = []

    def find(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        asked.extend(texts)
        return [[(0, 3)] for _ in texts]

    texts = pl.Series(["Ann: ann@x.example", "Ann says hi", None])
    safe, counts = remove_personal_data(texts, PSEUDONYM, find)
    assert asked == ["Ann: [email]"]
    assert safe.to_list() == [f"{PSEUDONYM('Ann')}: [email]", "Ann says hi", None]
    assert counts == {"email": 1, "name": 1}


@given(st.lists(st.text(st.sampled_from("@ab1.+ \0\nRT[]"), max_size=20), max_size=8))
def test_personal_data_does_not_depend_on_the_batch(texts: list[str]) -> None:
    together, _ = remove_personal_data(pl.Series(texts, dtype=pl.String), PSEUDONYM)
    assert [one.replace("\0", "") for one in together] == [protected(text).replace("\0", "") for text in texts]


def test_the_key_is_the_user_s_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINGSPAN_PSEUDONYM_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first = pseudonym_key()
    assert pseudonym_key() == first
    (kept,) = (tmp_path / "wingspan").iterdir()
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
    monkeypatch.setenv("WINGSPAN_PSEUDONYM_KEY", "mine")
    assert pseudonymiser(pseudonym_key())("ann") != pseudonymiser(first)("ann")


def languages(*texts: str, hint: str | None = None) -> list[str]:
    frame = pl.DataFrame({"text": texts, "lang_hint": [hint] * len(texts)}, schema_overrides={"lang_hint": pl.String})
    return detect(frame).to_list()


def test_languages_by_script_words_and_hint() -> None:
    assert languages(
        "What a lovely day, I really love it",
        "Je ne sais pas quoi faire aujourd'hui",
        "No sé qué hacer hoy, estoy en casa",
        "Ich weiß nicht was ich heute machen soll",
        "今日はとても寒いです",
        "今天天气很好",
        "сегодня очень холодно",
        "123 http://the.example/and @the",
        "👍👍",
        "ok",
    ) == ["en", "fr", "es", "de", "ja", "zh", "ru", "und", "und", "und"]
    assert languages("ok", hint="sv-SE") == ["sv"]
    assert languages("ok", hint="und") == ["und"]
    assert languages("Привіт", hint="uk") == ["uk"]


def test_a_tag_the_model_does_not_know_is_believed_in_its_script() -> None:
    assert languages("Қайырлы таң", hint="kk") == ["kk"]
    assert languages("kaixo denoi, egun on", hint="eu") == ["eu"]
    assert languages("今日はとても寒いです", hint="eu") == ["ja"]


def test_language_does_not_depend_on_the_batch() -> None:
    texts = ["Je ne sais pas", "no sé qué hacer", "", "今天天气很好", "@ann https://x.example", "ich weiß nicht was"]
    assert languages(*texts) == [languages(text)[0] for text in texts]


@pytest.mark.shared_data
def test_languages_of_real_tweets(shared_data: Path) -> None:
    folder = shared_data / "data" / "xlmt-sentiment"
    codes = {"english": "en", "french": "fr", "spanish": "es", "german": "de", "arabic": "ar", "italian": "it"}
    for name, code in codes.items():
        found = languages(*(line for file in sorted((folder / name).glob("*_text.txt")) for line in file.open()))
        assert found.count(code) / len(found) > 0.9
