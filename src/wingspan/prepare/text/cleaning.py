"""What a person wrote, out of what a platform stored: HTML, entities, mojibake, white space."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import polars as pl

from wingspan.prepare.privacy.hits import on_hits

_TAG = r"(?i)</?(?:p|br|a|span|div|b|i|em|strong|ul|ol|li|blockquote)(?:\s[^<>]*)?/?>"
_ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,31}[0-9]{0,2});"
_MOJIBAKE = r"[ÂÃâð][\u{80}-\u{BF}€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_INVISIBLE = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F\u{FEFF}\u{FFFD}]"


# What a text that is plain already has none of. Marks (accents typed apart, but also emoji variants) may not be NFC;
# after them come Jamo and the blocks of characters that NFC replaces.
_SUSPECT = "|".join(
    [
        *("</?[a-zA-Z]", "&[#a-zA-Z]", _MOJIBAKE, _INVISIBLE, r"\p{M}"),
        r"[\u{1100}-\u{11FF}\u{374}\u{37E}\u{387}\u{958}-\u{95F}\u{9DC}-\u{9DF}\u{A33}-\u{A5E}\u{B5C}\u{B5D}\u{F43}-\u{F69}]",
        r"[\u{1F71}-\u{1FFD}\u{2126}\u{212A}\u{212B}\u{2329}\u{232A}\u{2ADC}\u{F900}-\u{FB4E}\u{1D15E}-\u{1D1C0}]",
        r"[\u{2F800}-\u{2FA1D}]",
        r"[\u{A0}\u{1680}\u{2000}-\u{200A}\u{202F}\u{205F}\u{3000}\t\r]|  | \n|\n |\n\n\n|^\s|\s$",
    ]
)


def clean(texts: pl.Series) -> pl.Series:
    """Plain text in Unicode NFC: no markup, no control characters, single spaces, trimmed lines."""
    rows = texts.str.contains(_SUSPECT).fill_null(False).arg_true()
    return texts.clone().scatter(rows, _clean(texts.gather(rows))) if len(rows) else texts


def _clean(texts: pl.Series) -> pl.Series:
    texts = on_hits(texts, _TAG, _html_to_text)
    texts = on_hits(texts, _ENTITY, html.unescape)
    texts = on_hits(texts, _MOJIBAKE, mend_mojibake)
    return (
        texts.str.normalize("NFC")
        .str.replace_all(_INVISIBLE, "")
        .str.replace_all(r"[\p{Zs}\t]+", " ")
        .str.replace_all(r" ?(?:\r\n|\r|\n) ?", "\n")
        .str.replace_all(r"\n{3,}", "\n\n")
        .str.strip_chars()
    )


def mend_mojibake(text: str) -> str:
    """UTF-8 that was read as Windows-1252 (`Ã©`), read rightly (`é`); unchanged when it does not round-trip."""
    try:
        return b"".join(_byte(character) for character in text).decode("utf-8")
    except UnicodeError:
        return text


def _byte(character: str) -> bytes:
    """The byte that Windows-1252 shows as `character`; its five undefined bytes are taken as Latin-1."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def _html_to_text(markup: str) -> str:
    parser = _TextOfHtml()
    parser.feed(markup)
    parser.close()
    return html.escape(parser.text(), quote=False)  # entities are undone once, by the next step


class _TextOfHtml(HTMLParser):
    """Paragraphs and line breaks stay; a link that is no mention or hashtag becomes its address."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = 0  # depth inside elements whose text is not shown
        self._address = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "style"):
            self._hidden += 1
        elif tag == "a" and not re.search(r"\b(mention|hashtag)\b", given.get("class") or ""):
            self._address = given.get("href") or ""
            self._parts.append(self._address)
        elif tag == "br" or (tag in ("p", "li", "div", "blockquote") and self._parts):
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._hidden = max(0, self._hidden - 1)
        elif tag == "a":
            self._address = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden and not self._address:
            self._parts.append(data)

    def text(self) -> str:
        return "".join(self._parts)
