"""A stage between messages and bytes: each message goes out behind its length.

Does: cut what comes into the messages that were written at the far end, and refuse longer ones than agreed.
Does not: carry empty messages: a pipe hands up one byte or more.

Format: length u32, big-endian, 1 to `limit` | message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from convergence.errors import LocalError
from convergence.pipes.stage import Flaw, Stage, StageError

MAX_MESSAGE = 1 << 20  # bytes

_LENGTH = struct.Struct(">I")


def framing(limit: int = MAX_MESSAGE) -> Stage[bytes, bytes]:
    """On the near side each `write` is a message, and each `data` one.

    Args:
        limit: bytes of a message, 1 to 2^32 - 1. One incomplete message is held. A longer one fails the stage with
            Flaw.TOO_LONG if it comes, with Flaw.MISUSE if it is written.
    """
    if not 1 <= limit < 1 << 32:
        raise LocalError("no such limit of a message")
    return Stage(_Framer(limit), _Cutter(limit))


class _Framer:
    def __init__(self, limit: int) -> None:
        self._limit = limit

    def feed(self, data: bytes, now: float) -> Iterable[bytes]:
        if len(data) > self._limit:
            raise StageError(Flaw.MISUSE, "a message that is too long was written")
        return (_LENGTH.pack(len(data)) + data,)

    def finish(self, now: float) -> Iterable[bytes]:
        return ()


class _Cutter:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes, now: float) -> Iterator[bytes]:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length == 0:
                raise StageError(Flaw.GARBAGE, "an empty message")
            if length > self._limit:
                raise StageError(Flaw.TOO_LONG)
            start = at + _LENGTH.size
            if len(buffer) - start < length:
                break
            at = start + length
            yield bytes(memoryview(buffer)[start:at])
        del buffer[:at]

    def finish(self, now: float) -> Iterable[bytes]:
        if self._buffer:
            raise StageError(Flaw.TRUNCATED)
        return ()
