"""Files between the browser and the node's store.

Does: read a picked File into pieces (once to learn its root, once more to store them under it), put a received file
together, and a received folder into an archive.
Does not: hold more than a few pieces in memory, or speak to the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any
from zlib import crc32

from archive import Archive
from pyodide.ffi import JsException, to_js
from reasons import FileWhy
from storage import IndexedDbStorage

from convergence.crypto.merkle import leaf_hash
from convergence.effects import Failure
from convergence.errors import Problem, Why
from convergence.events import as_json
from convergence.ordb.collection import Collection
from convergence.ordb.index import PIECE_SIZE, FileBuilder, piece_key
from convergence.wire.manifest import saved_paths
from convergence.wire.ordb import MAX_TYPE, FileInfo, fit_name

STORED_TOGETHER = 4  # pieces in one transaction
ROOM_LEFT = 1 << 24  # bytes that stay free when a file is stored


class FileStore:
    """Files of this browser.

    Args:
        database: database.js.
        in_use: whether the node shares or fetches the file with this root.
        changed: called when `reading` would give something new.
    """

    def __init__(
        self,
        storage: IndexedDbStorage,
        database: Any,
        in_use: Callable[[bytes], bool],
        changed: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._database = database
        self._in_use = in_use
        self._changed = changed
        self._numbers = count(1)
        self._reading: dict[str, dict[str, Any]] = {}

    def reading(self) -> list[dict[str, Any]]:
        """Files that are being read, or could not be, as the Share card draws them."""
        return list(self._reading.values())

    def cancel(self, identifier: str) -> bool:
        """Stop reading (or forget the failure of) this file. False when it is none of ours."""
        return self._reading.pop(identifier, None) is not None

    async def read(self, file: Any) -> tuple[FileInfo, bytes] | None:
        """Store a JavaScript File's pieces and return its description and leaf hashes; None when it was cancelled or
        failed (`reading` then says why)."""
        view: dict[str, Any] = {"id": f"reading-{next(self._numbers)}", "name": file.name, "size": file.size, "have": 0}
        view.update(stage="reading", points=0, link="", why=None)
        self._reading[view["id"]] = view
        try:
            read = await self._read(file, view)
        except (Problem, JsException) as error:
            why = error.why if isinstance(error, Problem) else Why(FileWhy.UNREADABLE)
            view.update(stage="failed", why=as_json(why))
            read = None
        else:
            self._reading.pop(view["id"], None)
        self._changed()
        return read

    async def assemble(self, root: bytes, size: int) -> Any:
        """The whole file as a Blob. Raises Problem when pieces are missing."""
        try:
            return await self._database.assemble(to_js(root), size)
        except JsException as error:
            raise Problem(FileWhy.INCOMPLETE, detail=error.message) from None

    async def archive(self, info: FileInfo, collection: Collection) -> Any:
        """A whole collection as a Blob, a ZIP archive. Raises Problem when pieces are missing."""
        whole = await self.assemble(info.root, info.size)
        made, parts, read = Archive(), [], _Reader(self._storage, info)
        paths = saved_paths([entry.path for entry in collection.entries], fold=True)
        for entry, start, path in zip(collection.entries, collection.starts, paths, strict=True):
            if entry.size is None:
                parts.append(made.folder(path))
            else:
                end = start + entry.size
                parts += [made.file(path, entry.size, await read.crc(start, end)), [start, end]]
        return self._database.join(whole, to_js([*parts, made.end()]))

    async def _read(self, file: Any, view: dict[str, Any]) -> tuple[FileInfo, bytes] | None:
        await self._check_room(file.size)
        builder = FileBuilder()
        async for piece in self._pieces(file, view):
            builder.add(piece)
        info, leaves = builder.finish(fit_name(file.name), _media_type(file.type))
        if not await self._store_all(file, info, leaves, view):
            return None
        return info, leaves

    async def _store_all(self, file: Any, info: FileInfo, leaves: bytes, view: dict[str, Any]) -> bool:
        """The second pass. If it does not reach the end, it deletes the pieces that it stored, and returns False or
        raises."""
        batch: list[tuple[str, bytes, bytes | None]] = []
        index, complete = 0, False
        try:
            async for piece in self._pieces(file, view):
                if leaf_hash(piece) != leaves[index * 32 : index * 32 + 32]:
                    raise Problem(FileWhy.CHANGED)
                batch.append(("piece", piece_key(info.root, index), piece))
                index += 1
                if len(batch) == STORED_TOGETHER:
                    await self._write(batch)
                    batch = []
            await self._write(batch)
            complete = view["id"] in self._reading
        finally:
            if not complete and not self._in_use(info.root):
                self._storage.store([("piece", piece_key(info.root, done), None) for done in range(index)], _ignore)
        return complete

    async def _pieces(self, file: Any, view: dict[str, Any]) -> AsyncIterator[bytes]:
        """The file's pieces in order, until the reading is cancelled. Each of the two passes counts half."""
        for start in range(0, file.size, PIECE_SIZE):
            if view["id"] not in self._reading:
                return
            buffer = await file.slice(start, start + PIECE_SIZE).arrayBuffer()
            piece = buffer.to_bytes()
            view["have"] += len(piece) / 2
            self._changed()
            yield piece

    async def _write(self, batch: list[tuple[str, bytes, bytes | None]]) -> None:
        if not batch:
            return
        stored: asyncio.Future[None | Failure] = asyncio.get_running_loop().create_future()
        self._storage.store(batch, stored.set_result)
        failure = await stored
        if failure is not None:
            raise Problem(FileWhy.NOT_STORED, detail=failure.message)

    async def _check_room(self, size: int) -> None:
        estimate = await self._database.estimate()
        free = estimate.quota - estimate.usage
        if size + ROOM_LEFT > free:
            raise Problem(FileWhy.NO_ROOM, size=size, left=max(0, free - ROOM_LEFT))


class _Reader:
    """Reads a stored file from its beginning; the last piece is at hand, for small files lie in one."""

    def __init__(self, storage: IndexedDbStorage, info: FileInfo) -> None:
        self._storage = storage
        self._info = info
        self._index = -1
        self._piece = b""

    async def crc(self, start: int, end: int) -> int:
        """The CRC-32 of a part."""
        crc = 0
        while start < end:
            index, skip = divmod(start, self._info.piece_size)
            if index != self._index:
                self._index, self._piece = index, await self._load(index)
            part = memoryview(self._piece)[skip : skip + end - start]
            crc = crc32(part, crc)
            start += len(part)
        return crc

    async def _load(self, index: int) -> bytes:
        loaded: asyncio.Future[bytes | None | Failure] = asyncio.get_running_loop().create_future()
        self._storage.load("piece", piece_key(self._info.root, index), loaded.set_result)
        piece = await loaded
        if not isinstance(piece, bytes) or not piece:
            raise Problem(FileWhy.INCOMPLETE, detail="")
        return piece


def _ignore(result: None | Failure) -> None:
    """The result of a clean-up: there is nobody to tell."""


def _media_type(claimed: str) -> str:
    """The type that the browser guessed, if a FileInfo can hold it."""
    return claimed if len(claimed) <= MAX_TYPE and claimed.isascii() and claimed.isprintable() else ""
