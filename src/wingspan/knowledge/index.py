"""The posts index: full text search in one SQLite file (or in memory), exact deletion.

SQLite's FTS5 ranks by BM25 and answers in milliseconds over hundreds of thousands of posts. A removed
post leaves no trace: its row is overwritten (`secure_delete`) and the full text segments are merged anew.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from wingspan.errors import WorkError
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.words import content_words

_SCHEMA = """
create table if not exists posts (
    row integer primary key, post_id text unique not null, author_id text, created_at integer, text text not null
);
create virtual table if not exists words using fts5 (
    text, content = 'posts', content_rowid = 'row', tokenize = 'porter unicode61 remove_diacritics 2'
);
create trigger if not exists added after insert on posts begin
    insert into words (rowid, text) values (new.row, new.text);
end;
create trigger if not exists removed after delete on posts begin
    insert into words (words, rowid, text) values ('delete', old.row, old.text);
end;
"""


class PostIndex:
    """Posts by id and by words. One connection, used by one thread at a time."""

    def __init__(self, path: Path | None = None) -> None:
        """Open or make the index; None keeps it in memory. Raises WorkError when the file is damaged."""
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
            self._database.execute("pragma secure_delete = on")
            self._database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise WorkError(
                f"the posts index is damaged: {error}",
                where=path or "",
                remedy="Delete it; it is made anew from the posts",
            ) from error

    def add(self, posts: Iterable[SourcePost]) -> None:
        """Add posts; one that is there already is replaced."""
        rows = [(post.post_id, post.author_id, post.created_at, post.text) for post in posts]
        with self._lock, self._database:
            self._database.executemany("delete from posts where post_id = ?", [(row[0],) for row in rows])
            self._database.executemany(
                "insert into posts (post_id, author_id, created_at, text) values (?, ?, ?, ?)", rows
            )

    def remove(self, post_ids: Iterable[str]) -> int:
        """Remove posts for good; returns how many were there."""
        with self._lock, self._database:
            cursor = self._database.executemany("delete from posts where post_id = ?", [(one,) for one in post_ids])
            if removed := cursor.rowcount:
                self._database.execute("insert into words (words) values ('optimize')")
        return removed

    def get(self, post_id: str) -> SourcePost | None:
        """The post of that id."""
        with self._lock:
            row = self._database.execute(
                "select post_id, text, author_id, created_at from posts where post_id = ?", (post_id,)
            ).fetchone()
        return SourcePost(*row) if row else None

    def search(self, question: str, limit: int) -> list[SourcePost]:
        """The posts that share the question's content words, best first (BM25)."""
        terms = list(dict.fromkeys(content_words(question)))
        if not terms:
            return []
        query = " OR ".join(f'"{term}"' for term in terms)
        with self._lock:
            rows: Sequence[tuple[str, str, str | None, int | None]] = self._database.execute(
                "select post_id, posts.text, author_id, created_at from words join posts on posts.row = words.rowid "
                "where words match ? order by bm25(words), post_id limit ?",
                (query, limit),
            ).fetchall()
        return [SourcePost(*row) for row in rows]

    def texts(self, limit: int) -> list[str]:
        """The texts of the first posts, at most `limit`."""
        with self._lock:
            rows = self._database.execute("select text from posts order by row limit ?", (limit,)).fetchall()
        return [text for (text,) in rows]

    def __len__(self) -> int:
        with self._lock:
            return int(self._database.execute("select count(*) from posts").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()
