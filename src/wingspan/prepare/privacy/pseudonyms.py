"""Keyed pseudonyms: the same person has the same name throughout, and nobody without the key can undo it.

The key is the user's: `WINGSPAN_PSEUDONYM_KEY`, or else a random one made once and kept in
`$XDG_CONFIG_HOME/wingspan/pseudonym.key`, readable by the user alone. No artefact holds it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

KEY_VARIABLE = "WINGSPAN_PSEUDONYM_KEY"
_BYTES = 8  # 64 bits: among 10 million people two share a name with probability 3 in a million

# What published data sets already write in the place of a handle.
PLACEHOLDERS = frozenset({"anonymous", "user", "username", "mention"})


def pseudonym_key() -> bytes:
    """The user's key, 32 bytes; made and kept on first use."""
    if given := os.environ.get(KEY_VARIABLE):
        return hashlib.sha256(given.encode()).digest()
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "wingspan" / "pseudonym.key"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_hex(32))
        try:
            os.link(temporary, path)  # the first of two processes wins, whole
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return hashlib.sha256(path.read_text().strip().encode()).digest()


def pseudonymiser(key: bytes) -> Callable[[str], str]:
    """A function from a name (a handle, an author id; case does not matter) to its pseudonym `user_...`."""
    return partial(_pseudonym, key)


def _pseudonym(key: bytes, name: str) -> str:
    digest = _keyed(key).copy()  # twice as fast as beginning with the key again
    digest.update(name.lower().encode())
    return f"user_{digest.hexdigest()}"


@cache
def _keyed(key: bytes) -> Any:
    return hashlib.blake2b(digest_size=_BYTES, key=key)


def pseudonymise(names: pl.Series, pseudonym: Callable[[str], str]) -> pl.Series:
    """Pseudonyms of a column of names; each distinct name is computed once."""
    distinct = names.drop_nulls().unique(maintain_order=True)
    return names.replace_strict(
        distinct, pl.Series([pseudonym(name) for name in distinct], dtype=pl.String), default=None
    )
