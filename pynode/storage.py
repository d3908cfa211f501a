"""A node's data on disk: one SQLite file for small records, one plain file for each root's pieces.

Does: implement ports.Storage in one worker thread; serve shared files from where they lie (external.py); move finished
files out.
Does not: verify pieces (the core did before it stored them), or encrypt.

A piece is stored in this order, so that a crash loses at most the stores that were not yet answered: its bytes are
written at their place in `pieces/<root>` (where pieces shorter than PIECE_SIZE lie as far apart), the file is synced,
and then the row is committed that says "this piece is here". Many waiting stores share one sync and one commit.
Somebody may cut or remove the file later, so a piece counts as present only if the row is there and the file is long
enough.

The number of requests that the core leaves unanswered bounds the queue; beyond that MAX_QUEUED_BYTES does.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from convergence.effects import Failure
from convergence.ordb.collection import Collection
from convergence.ordb.index import SharedFile
from convergence.wire.ordb import PIECE_SIZE, FileInfo
from pynode import external
from pynode.files import StorageError, claim, move, save_tree, sync_folder, write_at, write_whole
from pynode.segments import Segment

__all__ = ["DISK_FULL", "PIECE_SIZE", "DiskStorage", "StorageError"]

ROOT_LEN = 32
MAX_QUEUED_BYTES = 64 << 20
"""Values waiting to be written above which a store is refused at once."""

MAX_BATCH = 32
"""Stores that share one sync and one commit."""

SCHEMA_VERSION = 3
MIN_SQLITE = (3, 24, 0)
_DAMAGED = "the stored pieces are damaged: fetch the file again"
DISK_FULL = "the disk is full: free some space and run the same command again"

_SCHEMA = """
CREATE TABLE items (bucket TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (bucket, key))
    WITHOUT ROWID;
CREATE TABLE pieces (root BLOB NOT NULL, piece INTEGER NOT NULL, length INTEGER NOT NULL, PRIMARY KEY (root, piece))
    WITHOUT ROWID;
"""

_PIECES_OF_ANY_SIZE = "ALTER TABLE shared ADD COLUMN piece_size INTEGER NOT NULL DEFAULT 262144"  # since version 2

Item: TypeAlias = tuple[str, bytes, bytes | None]
T = TypeVar("T")
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
log = logging.getLogger("pynode.storage")


@dataclass(slots=True)
class _Job:
    """`work` runs in the thread; `reply` gets its result or Failure on the loop. Stores carry their items instead."""

    work: Callable[[], Any] | None
    reply: Callable[[Any], None]
    items: Sequence[Item] = ()
    size: int = 0


class DiskStorage:
    """Implements ports.Storage in the folder `directory`, which is made if it is missing (mode 0700). Several processes
    may use one folder.

    Raises:
        StorageError: the folder cannot be made or opened, or a newer version of this program wrote it.
    """

    def __init__(self, directory: Path) -> None:
        self._pieces = directory / "pieces"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._queued = 0  # bytes; counted on the loop
        if sqlite3.sqlite_version_info < MIN_SQLITE:
            raise StorageError(f"SQLite {sqlite3.sqlite_version} is too old: 3.24 or newer is needed")
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._pieces.mkdir(exist_ok=True, mode=0o700)
            self._db = _open(directory / "node.sqlite")
            self._external = external.External(self._db)
            self._last = (b"", b"")  # key and bytes of the piece that was exported from last
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot use the data folder {directory}: {_failure(error).message}") from error
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
        self._thread.start()

    # -- ports.Storage

    def store(self, items: Sequence[Item], reply: Callable[[None | Failure], None]) -> None:
        """All or nothing. Deleting a root's last piece removes its file; shared files are never touched."""
        size = sum(len(value) for _, _, value in items if value is not None)
        if self._queued + size > MAX_QUEUED_BYTES:
            self._running_loop().call_soon(reply, Failure("io", "the disk is too slow: too much waits to be written"))
            return
        self._queued += size
        self._put(_Job(None, reply, items, size))

    def load(self, bucket: str, key: bytes, reply: Callable[[bytes | None | Failure], None]) -> None:
        self._put(_Job(lambda: self._load(bucket, key), reply))

    def scan(self, bucket: str, prefix: bytes, reply: Callable[[list[bytes] | Failure], None]) -> None:
        self._put(_Job(lambda: self._scan(bucket, prefix), reply))

    # -- for the application

    async def add_external(
        self, root: bytes, hash_name: bytes, segments: Sequence[Segment], piece_size: int = PIECE_SIZE
    ) -> None:
        """Serve the pieces of a share from where they lie, without a copy."""
        await self._ask(lambda: self._external.add(root, hash_name, segments, piece_size))

    async def remove_external(self, root: bytes, hash_name: bytes) -> None:
        """Forget where a share lies; the files stay, and so do other shares of the same content."""
        await self._ask(lambda: self._external.forget(root, hash_name))

    async def export(self, file: SharedFile, destination: Path) -> Path:
        """Move the finished file to `destination` and serve it from there from now on.

        It appears whole or not at all and never replaces a file: " (1)" and so on is added to the name.

        Returns:
            Where the file is now.

        Raises:
            StorageError: pieces are missing, or the destination cannot be written.
        """
        return await self._ask(lambda: self._export(file, destination))

    async def export_tree(
        self, file: SharedFile, collection: Collection, chosen: Sequence[int], destination: Path
    ) -> Path:
        """The same for the chosen entries of a collection, in a new folder. Only the whole is served from there."""
        return await self._ask(lambda: self._export_tree(file, collection, chosen, destination))

    async def close(self) -> None:
        """Finish the waiting requests, then stop."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- between loop and thread

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _put(self, job: _Job) -> None:
        self._running_loop()
        self._jobs.put(job)

    async def _ask(self, work: Callable[[], T]) -> T:
        answer: asyncio.Future[T | Failure] = asyncio.get_running_loop().create_future()

        def reply(result: T | Failure) -> None:
            if not answer.done():
                answer.set_result(result)

        self._put(_Job(work, reply))
        result = await answer
        if isinstance(result, Failure):
            raise StorageError(result.message)
        return result

    def _answer(self, answers: list[tuple[_Job, Any]]) -> None:
        loop = self._loop
        assert loop is not None

        def tell() -> None:
            for job, result in answers:
                self._queued -= job.size
                loop.call_soon(job.reply, result)

        try:
            loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("answers came after the end")

    # -- in the thread

    def _work(self) -> None:
        ending = False
        while not ending:
            batch = [self._jobs.get()]
            while batch[-1] is not None and batch[-1].work is None and len(batch) < MAX_BATCH:
                try:
                    batch.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            ending = batch[-1] is None
            stores = [job for job in batch if job is not None and job.work is None]
            if stores:
                self._answer(list(zip(stores, self._store_batch(stores), strict=True)))
            last = batch[-1]
            if last is not None and last.work is not None:
                self._answer([(last, _attempt(last.work))])
        self._db.close()

    def _store_batch(self, jobs: list[_Job]) -> list[None | Failure]:
        """One commit for all; only a job that fails is undone."""
        results: list[None | Failure] = []
        touched: dict[bytes, int] = {}
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._db.execute("SAVEPOINT job")
                try:
                    for item in job.items:
                        self._put_item(*item, touched)
                    results.append(None)
                except Exception as error:
                    if not self._db.in_transaction:  # SQLite rolled back everything, as it does when the disk is full
                        raise
                    self._db.execute("ROLLBACK TO job")
                    results.append(_failure(error))
                self._db.execute("RELEASE job")
            for handle in touched.values():
                _sync(handle)
            self._db.execute("COMMIT")
            self._drop_empty(jobs)
        except Exception as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            failure = _failure(error)
            results = [failure for _ in jobs]
        finally:
            for handle in touched.values():
                os.close(handle)
        return results

    def _put_item(self, bucket: str, key: bytes, value: bytes | None, touched: dict[bytes, int]) -> None:
        if bucket != "piece":
            if value is None:
                self._db.execute("DELETE FROM items WHERE bucket = ? AND key = ?", (bucket, key))
            else:
                self._db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", (bucket, key, value))
            return
        root, piece = _split(key)
        if value is None:
            self._db.execute("DELETE FROM pieces WHERE root = ? AND piece = ?", (root, piece))
            return
        if len(value) > PIECE_SIZE:
            raise ValueError(f"a piece is at most {PIECE_SIZE} bytes long")
        handle = touched.get(root)
        if handle is None:
            handle = touched[root] = os.open(self._file(root), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        write_at(handle, value, piece * PIECE_SIZE)
        self._db.execute("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)", (root, piece, len(value)))

    def _drop_empty(self, jobs: list[_Job]) -> None:
        deleted = {
            key[:ROOT_LEN] for job in jobs for bucket, key, value in job.items if bucket == "piece" and value is None
        }
        for root in deleted:
            if self._db.execute("SELECT 1 FROM pieces WHERE root = ? LIMIT 1", (root,)).fetchone() is None:
                self._file(root).unlink(missing_ok=True)

    def _load(self, bucket: str, key: bytes) -> bytes | None:
        if bucket != "piece":
            row = self._db.execute("SELECT value FROM items WHERE bucket = ? AND key = ?", (bucket, key)).fetchone()
            return None if row is None else bytes(row[0])
        root, piece = _split(key)
        row = self._db.execute("SELECT length FROM pieces WHERE root = ? AND piece = ?", (root, piece)).fetchone()
        if row is not None:
            data = self._read_own(root, piece, row[0])
            if data is not None:
                return data
            self._db.execute("DELETE FROM pieces WHERE root = ? AND piece = ?", (root, piece))
        return self._external.read(root, piece)

    def _read_own(self, root: bytes, piece: int, length: int) -> bytes | None:
        try:
            with open(self._file(root), "rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, piece * PIECE_SIZE)
        except FileNotFoundError:
            return None
        return data if len(data) == length else None

    def _scan(self, bucket: str, prefix: bytes) -> list[bytes]:
        if bucket != "piece":
            rows = self._db.execute(
                "SELECT key FROM items WHERE bucket = ? AND key >= ? AND substr(key, 1, ?) = ? ORDER BY key",
                (bucket, prefix, len(prefix), prefix),
            )
            return [bytes(key) for (key,) in rows]
        keys = {key for root in self._roots(prefix) for key in self._keys(root) if key.startswith(prefix)}
        return sorted(keys)

    def _roots(self, prefix: bytes) -> list[bytes]:
        head = prefix[:ROOT_LEN]
        own = {bytes(root) for (root,) in self._db.execute("SELECT DISTINCT root FROM pieces")}
        return [root for root in own.union(self._external.roots()) if root.startswith(head)]

    def _keys(self, root: bytes) -> Iterator[bytes]:
        own = self._file(root)
        end = own.stat().st_size if own.exists() else 0
        for piece, length in self._db.execute("SELECT piece, length FROM pieces WHERE root = ?", (root,)):
            if piece * PIECE_SIZE + length <= end:
                yield root + piece.to_bytes(4, "big")
        for piece in range(self._external.pieces(root)):
            yield root + piece.to_bytes(4, "big")

    def _export(self, file: SharedFile, destination: Path) -> Path:
        info = file.info
        present = len(set(self._keys(info.root)))
        if present < info.pieces:
            raise StorageError(f"{info.pieces - present} of {info.pieces} pieces are missing")
        own = self._file(info.root)
        lies_whole = info.piece_size == PIECE_SIZE and own.exists() and own.stat().st_size == info.size
        destination.parent.mkdir(parents=True, exist_ok=True)
        with claim(destination) as target:
            if info.size and lies_whole:
                move(own, target)
            elif info.size:
                write_whole(target, self._bytes(info, 0, info.size))
            if target.stat().st_size != info.size:
                raise StorageError(_DAMAGED)
            sync_folder(target.parent)
        self._serve_from(file, [target])
        return target

    def _export_tree(self, file: SharedFile, collection: Collection, chosen: Sequence[int], destination: Path) -> Path:
        info, entries = file.info, collection.entries
        items = [
            (entries[number].path, None if entries[number].size is None else self._bytes_of(info, collection, number))
            for number in chosen
        ]
        manifest = b"".join(self._bytes(info, 0, info.manifest_size))
        destination.parent.mkdir(parents=True, exist_ok=True)
        target, paths = save_tree(destination, items)
        if len(chosen) == len(entries):
            files = [path for path, (_, data) in zip(paths, items, strict=True) if data is not None]
            self._serve_from(file, files, manifest)
        return target

    def _serve_from(self, file: SharedFile, paths: Sequence[Path], manifest: bytes = b"") -> None:
        """The pieces need not be kept any more."""
        info = file.info
        segments = [Segment.own(manifest), *(Segment.of(path.resolve()) for path in paths)]
        self._external.add(info.root, file.hash_name, segments, info.piece_size)
        self._db.execute("DELETE FROM pieces WHERE root = ?", (info.root,))
        self._file(info.root).unlink(missing_ok=True)

    def _bytes_of(self, info: FileInfo, collection: Collection, number: int) -> Iterator[bytes]:
        return self._bytes(info, collection.starts[number], collection.entries[number].size or 0)

    def _bytes(self, info: FileInfo, start: int, size: int) -> Iterator[bytes]:
        """A part of a file whose pieces are here."""
        end = start + size
        while start < end:
            index, skip = divmod(start, info.piece_size)
            data = self._piece(info.root + index.to_bytes(4, "big"))[skip : skip + end - start]
            yield data
            start += len(data)

    def _piece(self, key: bytes) -> bytes:
        """The piece before, too, is at hand: small files lie in one."""
        if self._last[0] != key:
            data = self._load("piece", key)
            if not data:
                raise StorageError(_DAMAGED)
            self._last = (key, data)
        return self._last[1]

    def _file(self, root: bytes) -> Path:
        return self._pieces / root.hex()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level=None)
    os.chmod(path, 0o600)
    db.execute("PRAGMA journal_mode = WAL")
    # In WAL mode NORMAL loses at most the latest commits to a power cut; it cannot tear one.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("BEGIN IMMEDIATE")  # several processes may come first
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        _run(db, _SCHEMA)
    if version == 1:
        db.execute(_PIECES_OF_ANY_SIZE)
    if version < SCHEMA_VERSION:
        _run(db, external.SCHEMA)
        if version:
            _run(db, external.FROM_SHARED)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")
    if version > SCHEMA_VERSION:
        db.close()
        raise StorageError(f"{path} was written by a newer version of this program: update it")
    return db


def _run(db: sqlite3.Connection, statements: str) -> None:
    """In the transaction that is open, which `executescript` would end."""
    for statement in filter(str.strip, statements.split(";")):
        db.execute(statement)


def _attempt(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Failure:
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return Failure("quota", DISK_FULL)
    if isinstance(error, OSError) and error.errno is not None:
        return Failure("io", f"the disk reports: {os.strerror(error.errno)}")
    if isinstance(error, sqlite3.Error):
        return Failure("io", f"the data folder's database reports: {error}")
    if not isinstance(error, (StorageError, ValueError)):
        log.error("the storage thread failed", exc_info=error)
    return Failure("io", str(error))


def _split(key: bytes) -> tuple[bytes, int]:
    if len(key) != ROOT_LEN + 4:
        raise ValueError("a piece's key is a 32-byte root and a 4-byte index")
    return bytes(key[:ROOT_LEN]), int.from_bytes(key[ROOT_LEN:], "big")
