"""Where the bytes of a share lie: in files of the user's, one after another, and in what is kept of our own.

Does: read any part of them, and notice a file that changed or is gone.
Does not: know pieces, roots or the database.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pynode.files import StorageError


@dataclass(frozen=True, slots=True)
class Segment:
    """A whole file as it was when it was shared, or bytes of our own (`path` is None)."""

    size: int
    path: Path | None = None
    mtime_ns: int = 0
    data: bytes = b""

    @classmethod
    def of(cls, path: Path) -> Segment:
        """Raises OSError."""
        status = path.stat()
        return cls(status.st_size, path, status.st_mtime_ns)

    @classmethod
    def own(cls, data: bytes) -> Segment:
        return cls(len(data), data=data)

    def read(self, start: int, length: int) -> bytes:
        """Raises OSError, and StorageError if the file is not what it was."""
        if self.path is None:
            return self.data[start : start + length]
        try:
            with open(self.path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, start)
                status = os.fstat(file.fileno())
        except FileNotFoundError:
            raise StorageError(f"{self.path.name} is gone from where it was shared") from None
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns) or len(data) != length:
            raise StorageError(f"{self.path.name} changed since it was shared")
        return data


def read_across(segments: Iterable[tuple[int, Segment]], start: int, length: int) -> bytes:
    """Bytes that begin at `start`, of segments that come with the places where they begin. Raises as `Segment.read`."""
    parts = []
    for begins, segment in segments:
        first, end = max(start, begins), min(start + length, begins + segment.size)
        if first < end:
            parts.append(segment.read(first - begins, end - first))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def cut(segments: Iterable[Segment], size: int) -> Iterator[bytes]:
    """All bytes in pieces of `size` (the last one may be shorter). Each file is opened once.

    Raises OSError, and StorageError if a file is not what it was.
    """
    piece = bytearray()
    for segment in segments:
        for data in _stream(segment, size):
            if not piece and len(data) == size:
                yield data
                continue
            while data:
                room = size - len(piece)
                piece += data[:room]
                data = data[room:]
                if len(piece) == size:
                    yield bytes(piece)
                    piece.clear()
    if piece:
        yield bytes(piece)


def _stream(segment: Segment, size: int) -> Iterator[bytes]:
    if segment.path is None:
        yield segment.data
        return
    with open(segment.path, "rb", buffering=0) as file:
        left = segment.size
        while left and (data := file.read(min(size, left))):
            left -= len(data)
            yield data
        status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns) != (segment.size, segment.mtime_ns):
        raise StorageError(f"{segment.path.name} changed while it was being read")
