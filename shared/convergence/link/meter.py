"""How much waits in all buffers of a node, against one limit.

Does: count, and ask for room when the limit is passed. Does not: choose what is dropped; its owner does.
"""

from __future__ import annotations

from collections.abc import Callable


class Meter:
    """Counts what many buffers hold together.

    Args:
        limit: in whatever unit its users count.
        relieve: when `add` passes the limit, this is called until the count is within it again. Each call has to make
            some room. If `relieve` itself calls `add`, it is not called again for that.
    """

    __slots__ = ("limit", "used", "_relieve", "_relieving")

    def __init__(self, limit: int, relieve: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._relieve = relieve
        self._relieving = False

    def add(self, amount: int) -> None:
        self.used += amount
        if self.used > self.limit and self._relieve is not None and not self._relieving:
            self._relieving = True
            try:
                while self.used > self.limit:
                    self._relieve()
            finally:
                self._relieving = False

    def remove(self, amount: int) -> None:
        self.used -= amount
