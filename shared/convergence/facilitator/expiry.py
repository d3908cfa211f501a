"""Which nodes' descriptors end when.

Does: give those that may have ended, at a cost that does not grow with the others: a hashed timing wheel (Varghese and
Lauck 1987).
Does not: look at clocks, or drop nodes (registry.py).
"""

from __future__ import annotations

from collections.abc import Iterator

WIDTH = 10
"""Seconds that one slot stands for. With descriptors of 6 hours there are 2,200 slots at most."""


class Expiry:
    """All ends."""

    def __init__(self) -> None:
        self._slots: dict[int, set[bytes]] = {}

    def put(self, identity: bytes, expires: int) -> None:
        self._slots.setdefault(expires // WIDTH, set()).add(identity)

    def drop(self, identity: bytes, expires: int) -> None:
        """As it was put."""
        slot = self._slots[expires // WIDTH]
        slot.discard(identity)
        if not slot:
            del self._slots[expires // WIDTH]

    def due(self, now: float) -> Iterator[bytes]:
        """All that have ended, and some that end within WIDTH."""
        for slot in [slot for slot in self._slots if slot * WIDTH <= now]:
            yield from list(self._slots.get(slot, ()))
