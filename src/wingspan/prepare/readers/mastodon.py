"""What Mastodon says in both its forms: who may read, who may be found, in which language."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wingspan.prepare.readers.columns import Tombstone

# A profile's answers that mean no: be found by search, be indexed by search engines, be recommended.
_NO = {"indexable": False, "noindex": True, "discoverable": False, "memorial": True}


def consent(author: str, profile: dict[str, Any]) -> Iterator[Tombstone]:
    """What a profile says about all posts of its author; what it does not say means nothing."""
    for signal, no in _NO.items():
        if profile.get(signal) is no:
            yield "author", author, signal, None, False
    if profile.get("suspended"):
        yield "author", author, "account gone", None, False


def language(code: str | None) -> str | None:
    """A language tag; older versions write `zhCn` for `zh-CN`."""
    return f"{code[:2]}-{code[2:].upper()}" if code and len(code) == 4 and code.isalpha() else code
