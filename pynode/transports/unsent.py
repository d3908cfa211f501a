"""The bytes that wait for sockets, over all connections of a process.

Does: count the bytes that each connection's own buffers hold; end a connection that holds too much, and those that hold
most when all together hold too much. Does not: send, or know a protocol.

The core bounds what it keeps for a link (`MAX_QUEUED` and `MAX_QUEUED_ALL` of `link/link.py`). The limits here
bound what the core has handed over: a peer that does not read costs its high-water mark, and one batch of the core.
"""

from __future__ import annotations

from typing import Protocol as Shape

from pynode.transports import HIGH_WATER

MAX_UNSENT = 16 << 20
"""Bytes that one connection may hold: the longest node list of a facilitator, and half as much again."""

MAX_UNSENT_ALL = 128 << 20
"""Bytes that all connections of a process may hold."""

LEAST_HIGH_WATER = 1 << 16
"""High-water mark of a connection where there are very many: one message of a link."""

REASON = "too much waits to be sent"


class Holder(Shape):
    """A connection, as it is counted."""

    @property
    def unsent(self) -> int:
        """Bytes that it holds now."""
        ...

    def overfull(self) -> None:
        """End now: nothing is flushed. The core is told REASON."""
        ...


class Unsent:
    """The count.

    Args:
        limit: bytes of all connections together.
        each: bytes of one connection.
    """

    def __init__(self, limit: int = MAX_UNSENT_ALL, each: int = MAX_UNSENT) -> None:
        self.total = 0  # as each connection's latest `note` left it: bytes sent since then still count
        self._limit = limit
        self._each = each
        self._held: dict[Holder, int] = {}

    @property
    def high_water(self) -> int:
        """The high-water mark for a new connection: all of them together stay near half of the limit."""
        return max(LEAST_HIGH_WATER, min(HIGH_WATER, self._limit // 2 // (len(self._held) + 1)))

    def note(self, holder: Holder) -> None:
        """Count a connection, anew after each write."""
        held = holder.unsent
        self.total += held - self._held.get(holder, 0)
        self._held[holder] = held
        if held > self._each:
            self._end(holder)
        elif self.total > self._limit:
            self._make_room()

    def forget(self, holder: Holder) -> None:
        """A connection is gone."""
        self.total -= self._held.pop(holder, 0)

    def _make_room(self) -> None:
        """Count all anew; if it is still too much, end those that hold most. This frees an eighth of the
        limit, so that it is not done for each write."""
        self._held = {holder: holder.unsent for holder in self._held}
        self.total = sum(self._held.values())
        if self.total > self._limit:
            for holder in sorted(self._held, key=self._held.__getitem__, reverse=True):
                if self.total <= self._limit - self._limit // 8:
                    break
                self._end(holder)

    def _end(self, holder: Holder) -> None:
        self.forget(holder)
        holder.overfull()
