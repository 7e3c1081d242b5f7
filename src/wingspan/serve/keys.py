"""API keys: who may ask for what and how much. Only their hashes are kept, beside what each used today."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from wingspan.errors import InputError, WorkError

Scope = Literal["chat", "search", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "wsk-"
_SELECT = "select name, scopes, expires_at, requests_per_minute, tokens_per_day from keys"
_SCHEMA = """
pragma journal_mode = wal;
create table if not exists keys (
    name text primary key, digest blob unique not null, scopes text not null, expires_at real,
    requests_per_minute integer, tokens_per_day integer
);
create table if not exists used (name text, day text, requests integer, tokens integer, primary key (name, day));
"""


@dataclass(frozen=True)
class Key:
    """A key without its secret. None means without end or limit; `expires_at` in seconds since 1970."""

    name: str
    scopes: frozenset[str]
    expires_at: float | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()


class Keys:
    """The keys of a run, in one SQLite file that several processes may open."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises WorkError when it is damaged: keys are not made up anew."""
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, check_same_thread=False)
            self._database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            remedy = "Restore it from a backup, or delete it and give out new keys"
            raise WorkError(f"the file of keys is damaged: {error}", where=path, remedy=remedy) from error
        path.chmod(0o600)

    def add(self, key: Key) -> str:
        """Keep a new key and return its secret, which is shown this once. Raises InputError for a name in use."""
        if unknown := key.scopes - set(SCOPES):
            raise InputError(
                f"there is no scope '{min(unknown)}'", where="--scope", remedy=f"Choose from {', '.join(SCOPES)}"
            )
        secret = _PREFIX + secrets.token_urlsafe(32)
        row = (key.name, _digest(secret), " ".join(sorted(key.scopes)), key.expires_at)
        try:
            with self._lock, self._database:
                limits = (key.requests_per_minute, key.tokens_per_day)
                self._database.execute("insert into keys values (?, ?, ?, ?, ?, ?)", (*row, *limits))
        except sqlite3.IntegrityError as error:
            raise InputError("a key has that name", where=key.name, remedy="Revoke it, or choose another") from error
        return secret

    def revoke(self, name: str) -> None:
        """Forget a key. Raises InputError when there is none of that name."""
        with self._lock, self._database:
            if not self._database.execute("delete from keys where name = ?", (name,)).rowcount:
                raise InputError("there is no such key", where=name, remedy="List them without --revoke")

    def all(self) -> list[Key]:
        """Every key, by name."""
        with self._lock:
            return [_key(row) for row in self._database.execute(_SELECT + " order by name")]

    def find(self, secret: str) -> Key | None:
        """The key of a secret. Its hash is looked up, so the time taken says nothing about other keys."""
        with self._lock:
            row = self._database.execute(_SELECT + " where digest = ?", (_digest(secret),)).fetchone()
        return _key(row) if row else None

    def charge(self, name: str, tokens: int) -> None:
        """Note one request and its tokens."""
        with self._lock, self._database:
            self._database.execute(
                "insert into used values (?, ?, 1, ?) on conflict (name, day) do update "
                "set requests = requests + 1, tokens = tokens + excluded.tokens",
                (name, _today(), tokens),
            )

    def used_today(self, name: str) -> tuple[int, int]:
        """Requests and tokens since midnight UTC."""
        query = "select requests, tokens from used where name = ? and day = ?"
        with self._lock:
            row = self._database.execute(query, (name, _today())).fetchone()
        return row or (0, 0)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _key(row: tuple[str, str, float | None, int | None, int | None]) -> Key:
    name, scopes, expires_at, requests_per_minute, tokens_per_day = row
    return Key(name, frozenset(scopes.split()), expires_at, requests_per_minute, tokens_per_day)


def _digest(secret: str) -> bytes:
    """A secret is 256 random bits, so a plain hash is as good as a slow one."""
    return hashlib.sha256(secret.encode()).digest()


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
