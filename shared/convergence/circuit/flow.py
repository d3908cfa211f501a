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

    def received(self, cells: int, size: int) -> Sequence[Message]:
        """So many DATA cells came, with `size` bytes of data. Raises RemoteError or StreamError for too many."""
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

    def received(self, cells: int) -> range:
        """So many DATA cells came; returns those of them (0, 1, ...) that a SENDME is due for, which quotes them."""
        ...

    def stream(self, originates: bool) -> StreamFlow:
        """For a new stream, at the origin of the circuit or at its other end."""
        ...


class Every:
    """Counts cells, and picks one in every `increment`."""

    __slots__ = ("_increment", "_until")

    def __init__(self, increment: int) -> None:
        self._increment = increment
        self._until = increment

    def of(self, cells: int) -> range:
        """Which of the next cells (0, 1, ...) are picked."""
        picked = range(self._until - 1, cells, self._increment)
        self._until += len(picked) * self._increment - cells
        return picked


class Tags:
    """What coming SENDMEs have to quote: one DATA cell in every `increment` that were sent."""

    __slots__ = ("_quoted", "_tags")

    def __init__(self, increment: int) -> None:
        self._quoted = Every(increment)
        # Digest, and when it went out; at most a window / increment. A deque would be quicker, but takes ten times as
        # much memory while it is empty, as it is on most circuits.
        self._tags: list[tuple[bytes, float]] = []

    def sent(self, digests: Sequence[bytes], now: float) -> None:
        self._tags += [(digests[index], now) for index in self._quoted.of(len(digests))]

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

    __slots__ = ("burst", "_tags", "_due")

    def __init__(self) -> None:
        self.burst = CIRCUIT_WINDOW
        self._tags = Tags(CIRCUIT_INCREMENT)
        self._due = Every(CIRCUIT_INCREMENT)

    def sent(self, digests: Sequence[bytes], now: float) -> None:
        self.burst -= len(digests)
        self._tags.sent(digests, now)

    def acknowledge(self, digest: bytes, blocked: bool, now: float) -> None:
        self._tags.take(digest)
        self.burst += CIRCUIT_INCREMENT

    def received(self, cells: int) -> range:
        return self._due.of(cells)

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

    def received(self, cells: int, size: int) -> Sequence[Message]:
        if self.late < cells:
            raise RemoteError("DATA beyond the window", reason=DestroyReason.PROTOCOL)
        self.late -= cells
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
