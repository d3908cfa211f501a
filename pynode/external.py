"""Shares whose bytes lie in the user's own files: what the database knows of them.

Does: keep the segments of each share, and read a piece from whichever share of the same content still has it.
Does not: copy anything, or know the pieces that the node itself keeps.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pynode.files import StorageError
from pynode.segments import Segment, read_across

SCHEMA = """
CREATE TABLE external (root BLOB NOT NULL, hash_name BLOB NOT NULL, size INTEGER NOT NULL, piece_size INTEGER NOT NULL,
    PRIMARY KEY (root, hash_name)) WITHOUT ROWID;
CREATE TABLE segments (root BLOB NOT NULL, hash_name BLOB NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL,
    path BLOB, mtime_ns INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (root, hash_name, start)) WITHOUT ROWID;
"""

FROM_SHARED = """
INSERT INTO external SELECT root, x'', size, piece_size FROM shared;
INSERT INTO segments SELECT root, x'', 0, size, CAST(path AS BLOB), mtime_ns, x'' FROM shared WHERE size > 0;
DROP TABLE shared;
"""
"""From version 2, which knew one file for each root. Its shares have an empty hash_name until they are shared again."""


class External:
    """The tables, in an open database."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, root: bytes, hash_name: bytes, segments: Sequence[Segment], piece_size: int) -> None:
        """A share. It takes the place of what it had before."""
        with self._transaction():
            for name in (b"", hash_name):
                self._delete(root, name)
            start = 0
            for segment in segments:
                if segment.size:
                    path = None if segment.path is None else os.fsencode(segment.path)  # a name may be no UTF-8
                    row = (root, hash_name, start, segment.size, path, segment.mtime_ns, segment.data)
                    self._db.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                start += segment.size
            self._db.execute("INSERT INTO external VALUES (?, ?, ?, ?)", (root, hash_name, start, piece_size))

    def forget(self, root: bytes, hash_name: bytes) -> None:
        """The files stay, and so do other shares of the same content."""
        with self._transaction():
            self._delete(root, hash_name)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _delete(self, root: bytes, hash_name: bytes) -> None:
        for table in ("segments", "external"):
            self._db.execute(f"DELETE FROM {table} WHERE root = ? AND hash_name = ?", (root, hash_name))

    def roots(self) -> Iterator[bytes]:
        return (bytes(root) for (root,) in self._db.execute("SELECT DISTINCT root FROM external"))

    def pieces(self, root: bytes) -> int:
        """How many pieces there are, 0 if the content is not shared."""
        row = self._db.execute("SELECT size, piece_size FROM external WHERE root = ? LIMIT 1", (root,)).fetchone()
        return -(-row[0] // row[1]) if row else 0

    def read(self, root: bytes, piece: int) -> bytes | None:
        """None if there is no such piece. Raises OSError or StorageError if no share has it as it was."""
        flaw: OSError | StorageError | None = None
        rows = self._db.execute("SELECT hash_name, size, piece_size FROM external WHERE root = ?", (root,)).fetchall()
        for hash_name, size, piece_size in rows:
            start = piece * piece_size
            length = min(piece_size, size - start)
            if length > 0:
                try:
                    return read_across(self._between(root, hash_name, start, start + length), start, length)
                except (OSError, StorageError) as error:
                    flaw = error
        if flaw is not None:
            raise flaw
        return None

    def _between(self, root: bytes, hash_name: bytes, start: int, end: int) -> Iterator[tuple[int, Segment]]:
        """The segments with bytes from `start` to before `end`."""
        rows = self._db.execute(
            "SELECT start, size, path, mtime_ns, data FROM segments WHERE root = ?1 AND hash_name = ?2 AND start < ?4"
            " AND start >= (SELECT max(start) FROM segments WHERE root = ?1 AND hash_name = ?2 AND start <= ?3)",
            (root, hash_name, start, end),
        )
        for begins, size, path, mtime_ns, data in rows.fetchall():
            yield begins, Segment(size, None if path is None else Path(os.fsdecode(path)), mtime_ns, data)
