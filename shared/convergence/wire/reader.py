"""Cursor over one record, and cutter of a byte pipe into records.

Does: bounds-check every read and raise `ParseError`, so that a parser built on it can raise nothing else.
Does not: know any record.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Generic, TypeVar

from convergence.errors import ParseError
from convergence.ports import Buffer

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)


class Reader:
    """Reads big-endian fields in order.

    Args:
        data: one whole record.
        what: its name, for error messages.
    """

    __slots__ = ("_end", "_position", "_view", "_what")

    def __init__(self, data: Buffer, what: str) -> None:
        self._view = memoryview(data)
        self._position = 0
        self._end = len(self._view)
        self._what = what

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        start = self._position
        if size > self._end - start:
            raise ParseError(f"{self._what} is cut short")
        self._position = start + size
        return bytes(self._view[start : self._position])

    def unsigned(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def member(self, kind: type[E]) -> E:
        """One byte that is a value of this enumeration."""
        value = self.unsigned(1)
        try:
            return kind(value)
        except ValueError:
            raise ParseError(f"{self._what} with an unknown {kind.__name__}: {value}") from None

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self._end - self._position)

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return self._end - self._position

    def finish(self) -> None:
        """Refuse trailing bytes."""
        if self._position != self._end:
            raise ParseError(f"{self._what} has trailing bytes")


class Cutter(Generic[T]):
    """Cuts a byte pipe, which arrives in pieces of any size, into frames.

    Holds at most one incomplete frame: `_measure` refuses one above its limit as soon as its header is here. After a
    ParseError the pipe has lost its frame boundaries: what was held is dropped and every further `feed` raises.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = 0
        self._broken = False
        self._ended = False  # set by a subclass: what follows has another framing, and waits for `release`

    def feed(self, data: Buffer) -> list[T]:
        """The frames that `data` completed, in order. Raises ParseError."""
        if self._broken:
            raise ParseError("the pipe was broken by an earlier error")
        self._buffer += data
        if len(self._buffer) < self._wanted:
            return []
        try:
            return self._cut()
        except ParseError:
            self._broken = True
            self._buffer.clear()
            raise

    @property
    def held(self) -> int:
        """How many bytes are not cut yet."""
        return len(self._buffer)

    def release(self) -> bytes:
        """Give back and forget what was not cut, for a pipe that goes on in another framing."""
        held = bytes(self._buffer)
        self._buffer.clear()
        self._wanted = 0
        return held

    def _cut(self) -> list[T]:
        buffer = self._buffer
        items: list[T] = []
        position = 0
        while position < len(buffer) and not self._ended:
            size, complete = self._measure(buffer, position)
            self._wanted = size
            if not complete or position + size > len(buffer):
                break
            with memoryview(buffer) as view:
                frame = bytes(view[position : position + size])
            items.append(self._parse(frame))
            position += size
        else:
            self._wanted = 0
        del buffer[:position]
        return items

    def _measure(self, buffer: bytearray, position: int) -> tuple[int, bool]:
        """Size of the frame at `position` and True, or the size of its header and False while that is not all here.
        Raises ParseError for a frame over the limit."""
        raise NotImplementedError

    def _parse(self, frame: bytes) -> T:
        """One whole frame."""
        raise NotImplementedError


def utf8(data: bytes, what: str) -> str:
    """Text in UTF-8. Raises ParseError, which names `what`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ParseError(f"{what} is not UTF-8") from None
