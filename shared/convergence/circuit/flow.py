"""Flow control of one end of a circuit and of its streams: what a circuit handshake agrees on, and Tor's first kind.

Does: say how much may be sent and what acknowledgement is due, refuse one that is not due. `FixedWindows` is SENDME
version 1 (tor-spec "Flow control", proposal 289).
Does not: send or parse anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest
from typing import Protocol as Shape
from typing import TypeAlias

from convergence.errors import DestroyReason, RemoteError, StreamError
from convergence.wire.relay import RelayCommand

CIRCUIT_WINDOW = 1000  # DATA cells in flight on a circuit, each way
CIRCUIT_INCREMENT = 100  # DATA cells that one circuit SENDME acknowledges
STREAM_WINDOW = 500
STREAM_INCREMENT = 50

Message: TypeAlias = tuple[int, bytes]
"""Relay command and payload of a message to send on the stream."""


class StreamFlow(Shape):
    """Of one stream.

    Attributes:
        room: DATA cells that may be sent now.
        late: DATA cells that may still come once we have ended the stream.
    """

    room: int

    @property
    def late(self) -> int: ...

    def sent(self, cells: int, size: int) -> None:
        """So many DATA cells went out, with `size` bytes of data."""
        ...

    def received(self, size: int) -> Sequence[Message]:
        """One DATA cell came, with `size` bytes of data. Raises RemoteError or StreamError when it was one too many."""
        ...

    def consumed(self, cells: int) -> Sequence[Message]:
        """So many of the cells that came were used up."""
        ...

    def control(self, command: int, payload: bytes) -> None:
        """Another message came on the stream: the far end's side of this. Raises StreamError or RemoteError when it is
        not due, RemoteError for a command that is none of flow control."""
        ...

    def ended(self) -> None:
        """The stream is over; what was not consumed is dropped, or somebody else's."""
        ...


class CircuitFlow(Shape):
    """Of one end of a circuit. DATA counts as used up on arrival: streams have flow control of their own."""

    @property
    def burst(self) -> int:
        """DATA cells that may be sent now."""
        ...

    def sent(self, digests: Sequence[bytes], now: float) -> None:
        """A run of at most `burst` cells went out; the running digest (20 bytes) after each."""
        ...

    def acknowledge(self, digest: bytes, blocked: bool, now: float) -> None:
        """A SENDME came. Raises RemoteError when it was not due or quotes the wrong cell.

        Args:
            blocked: whether our link takes no more cells.
        """
        ...

    def received(self) -> bool:
        """One DATA cell came; returns whether a SENDME is due that quotes it."""
        ...

    def stream(self, originates: bool) -> StreamFlow:
        """For a new stream, at the origin of the circuit or at its other end."""
        ...


class Tags:
    """What coming SENDMEs have to quote: one DATA cell in every `increment` that were sent."""

    __slots__ = ("_increment", "_until", "_tags")

    def __init__(self, increment: int) -> None:
        self._increment = increment
        self._until = increment
        # Digest, and when it went out; at most a window / increment. A deque would be quicker, but takes ten times as
        # much memory while it is empty, as it is on most circuits.
        self._tags: list[tuple[bytes, float]] = []

    def sent(self, digests: Sequence[bytes], now: float) -> None:
        quoted = digests[self._until - 1 :: self._increment]
        self._tags += [(digest, now) for digest in quoted]
        self._until += len(quoted) * self._increment - len(digests)

    def take(self, digest: bytes) -> float:
        """When the cell went out. Raises RemoteError unless it is the one that is to be quoted next."""
        if not self._tags:
            raise RemoteError("circuit SENDME that was not due", reason=DestroyReason.PROTOCOL)
        tag, sent = self._tags.pop(0)
        if not compare_digest(tag, digest):
            raise RemoteError("circuit SENDME with a wrong digest", reason=DestroyReason.PROTOCOL)
        return sent


class FixedWindows:
    """CIRCUIT_WINDOW cells in flight, however far the other end is."""

    __slots__ = ("burst", "_tags", "_until_sendme")

    def __init__(self) -> None:
        self.burst = CIRCUIT_WINDOW
        self._tags = Tags(CIRCUIT_INCREMENT)
        self._until_sendme = CIRCUIT_INCREMENT

    def sent(self, digests: Sequence[bytes], now: float) -> None:
        self.burst -= len(digests)
        self._tags.sent(digests, now)

    def acknowledge(self, digest: bytes, blocked: bool, now: float) -> None:
        self._tags.take(digest)
        self.burst += CIRCUIT_INCREMENT

    def received(self) -> bool:
        self._until_sendme -= 1
        if self._until_sendme:
            return False
        self._until_sendme = CIRCUIT_INCREMENT
        return True

    def stream(self, originates: bool) -> StreamFlow:
        return StreamWindows()


class StreamWindows:
    """STREAM_WINDOW cells in flight, until the far end consumes some."""

    __slots__ = ("room", "late", "_unacknowledged")

    def __init__(self) -> None:
        self.room = STREAM_WINDOW
        self.late = STREAM_WINDOW  # what the far end may send
        self._unacknowledged = 0

    def sent(self, cells: int, size: int) -> None:
        self.room -= cells

    def received(self, size: int) -> Sequence[Message]:
        if self.late == 0:
            raise RemoteError("DATA beyond the window", reason=DestroyReason.PROTOCOL)
        self.late -= 1
        return ()

    def consumed(self, cells: int) -> Sequence[Message]:
        due, self._unacknowledged = divmod(self._unacknowledged + cells, STREAM_INCREMENT)
        self.late += due * STREAM_INCREMENT
        return ((RelayCommand.SENDME, b""),) * due

    def control(self, command: int, payload: bytes) -> None:
        if command != RelayCommand.SENDME:
            raise RemoteError(f"relay command {command} was not expected on a stream")
        if self.room + STREAM_INCREMENT > STREAM_WINDOW:
            raise StreamError("stream SENDME that was not due")
        self.room += STREAM_INCREMENT

    def ended(self) -> None:
        return
