"""Flow control: fixed windows and SENDME version 1 (tor-spec "Flow control", proposal 289).

Does: count cells, say when a SENDME is due or wrong. One file, named constants, nothing else.
Does not: send or parse anything.
"""

from __future__ import annotations

from collections import deque
from hmac import compare_digest

from convergence.errors import DestroyReason, RemoteError

CIRCUIT_WINDOW = 1000  # DATA cells in flight on a circuit, each way
CIRCUIT_INCREMENT = 100  # DATA cells that one circuit SENDME acknowledges
STREAM_WINDOW = 500
STREAM_INCREMENT = 50


class CircuitPackageWindow:
    """How many DATA cells we may still send on a circuit, and the digest each coming SENDME has to quote."""

    __slots__ = ("available", "_until_tag", "_tags")

    def __init__(self) -> None:
        self.available = CIRCUIT_WINDOW
        self._until_tag = CIRCUIT_INCREMENT
        self._tags: deque[bytes] = deque()  # at most CIRCUIT_WINDOW / CIRCUIT_INCREMENT

    @property
    def burst(self) -> int:
        """How many cells may go in one run: within the window, and up to a cell that a SENDME will quote."""
        return min(self.available, self._until_tag)

    def sent(self, cells: int, digest: bytes) -> None:
        """A run of at most `burst` cells went out; `digest` (20 bytes) is the running digest after its last."""
        self.available -= cells
        self._until_tag -= cells
        if self._until_tag == 0:
            self._until_tag = CIRCUIT_INCREMENT
            self._tags.append(digest)

    def acknowledge(self, digest: bytes) -> None:
        """A SENDME came. Raises RemoteError when it was not due or quotes the wrong cell."""
        if not self._tags:
            raise RemoteError("circuit SENDME that was not due", reason=DestroyReason.PROTOCOL)
        if not compare_digest(self._tags.popleft(), digest):
            raise RemoteError("circuit SENDME with a wrong digest", reason=DestroyReason.PROTOCOL)
        self.available += CIRCUIT_INCREMENT


class DeliverWindow:
    """What the other end may still send us; says when to acknowledge."""

    __slots__ = ("available", "_increment", "_unacknowledged")

    def __init__(self, window: int, increment: int) -> None:
        self.available = window
        self._increment = increment
        self._unacknowledged = 0

    def received(self) -> None:
        """One DATA cell came. Raises RemoteError when it was one too many."""
        if self.available == 0:
            raise RemoteError("DATA beyond the window", reason=DestroyReason.PROTOCOL)
        self.available -= 1

    def consumed(self, cells: int) -> int:
        """So many cells were used up; returns how many SENDMEs are due now (the caller sends them)."""
        self._unacknowledged += cells
        due, self._unacknowledged = divmod(self._unacknowledged, self._increment)
        self.available += due * self._increment
        return due
