"""How much waits all over a node, against one limit.

Does: count, and say when it is too much. Does not: choose what goes; its owner does.
"""

from __future__ import annotations

from collections.abc import Callable


class Meter:
    """Counts what many buffers hold together.

    Args:
        limit: in whatever unit its users count.
        relieve: called when `add` passed the limit; it has to make room.
    """

    __slots__ = ("limit", "used", "_relieve")

    def __init__(self, limit: int, relieve: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._relieve = relieve

    @property
    def full(self) -> bool:
        return self.used >= self.limit

    def add(self, amount: int) -> None:
        self.used += amount
        if self.used > self.limit and self._relieve is not None:
            self._relieve()

    def remove(self, amount: int) -> None:
        self.used -= amount
