"""WebSocket control frames of one peer, bounded.

Does: count them, say which pings are answered. Does not: send.
"""

from __future__ import annotations

import asyncio

MAX_CONTROL, CONTROL_WINDOW = 100, 10.0
"""Control frames, and empty ones, that a peer may send in so many seconds. An honest one needs a few a minute."""

PONG_ROOM = 16 * 1024
"""Unsent bytes above which a ping is not answered: what waits is as good a sign of life. So pongs cannot pile up."""


class ControlFrames:
    """Counts those of one connection."""

    __slots__ = ("_count", "_until")

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0

    def too_many(self) -> bool:
        """Count one more. True: the connection is to be closed."""
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            self._count, self._until = 0, now + CONTROL_WINDOW
        self._count += 1
        return self._count > MAX_CONTROL
