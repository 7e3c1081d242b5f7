"""The posts index: full text search in one SQLite file (or in memory), exact deletion.

SQLite's FTS5 ranks by BM25 and answers in milliseconds over hundreds of thousands of posts. Other processes may add
and remove posts while a server reads (a write-ahead log). A removed post is found no more at once and leaves no trace
after `tidy`: its row is overwritten (`secure_delete`), full text segments are merged anew, the log is emptied.
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
    row integer primary key, post_id text unique not null, author_id text, created_at integer, text text not null,
    live integer not null default 0
);
create index if not exists authors on posts (author_id);
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

    FORMAT = 2  # of the file

    def __init__(self, path: Path | None = None) -> None:
        """Open or make the index; None keeps it in memory. Raises WorkError when the file is damaged."""
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma secure_delete = on")
            self._database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise WorkError(
                f"the posts index is damaged: {error}",
                where=path or "",
                remedy="Delete it; it is made anew from the posts",
            ) from error

    def add(self, posts: Iterable[SourcePost], *, live: bool = False) -> None:
        """Add posts; one that is there already is replaced. `live` ones came after prepare."""
        rows = [(post.post_id, post.author_id, post.created_at, post.text, live) for post in posts]
        with self._lock, self._database:
            self._database.executemany("delete from posts where post_id = ?", [(row[0],) for row in rows])
            self._database.executemany(
                "insert into posts (post_id, author_id, created_at, text, live) values (?, ?, ?, ?, ?)", rows
            )

    def live_posts(self) -> list[SourcePost]:
        """Posts that were added as `live`."""
        with self._lock:
            found = self._database.execute("select post_id, text, author_id, created_at from posts where live")
            return [SourcePost(*row) for row in found]

    def owners(self) -> list[tuple[str, str | None]]:
        """Ids of all posts and of their authors."""
        with self._lock:
            return self._database.execute("select post_id, author_id from posts").fetchall()

    def remove(self, post_ids: Iterable[str], authors: Iterable[str] = (), *, tidy: bool = True) -> int:
        """Remove posts, and all posts of authors; returns how many were there. Their traces go with `tidy`."""
        with self._lock, self._database:
            by_id = self._database.executemany("delete from posts where post_id = ?", [(one,) for one in post_ids])
            by_author = self._database.executemany("delete from posts where author_id = ?", [(one,) for one in authors])
            removed = max(0, by_id.rowcount) + max(0, by_author.rowcount)
        if removed and tidy:
            self.tidy()
        return removed

    def tidy(self) -> None:
        """Overwrite what removed posts left; takes time in proportion to the whole index."""
        with self._lock:
            with self._database:
                self._database.execute("insert into words (words) values ('optimize')")
            self._database.execute("pragma wal_checkpoint(truncate)")

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
