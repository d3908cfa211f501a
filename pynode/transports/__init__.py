"""Does: say what every transport of this shell reports to. Does not: open anything."""

from __future__ import annotations

from typing import Protocol as Shape

from convergence.effects import Protocol


class Channels(Shape):
    """The part of `convergence.driver.Driver` that transports call."""

    def accept(self) -> int: ...

    def opened(self, channel: int, protocol: Protocol, binding: bytes | None = None) -> None: ...

    def received(self, channel: int, data: bytes) -> None: ...

    def closed(self, channel: int, reason: str) -> None: ...

    def drained(self, channel: int) -> None: ...


HIGH_WATER = 1 << 20
"""Unsent bytes above which `send` answers False. A slow peer costs this much plus what the core had in hand."""

LOW_WATER = 1 << 18
"""Unsent bytes below which the core is told to go on: enough that the line never runs dry meanwhile."""

CLOSE_TIMEOUT = 5.0
"""Seconds that a closed channel may take to flush what was sent before it is cut off."""


def printable(text: str, limit: int = 120) -> str:
    """A peer's words made fit for a log line: printable characters only, at most `limit` of them."""
    return "".join(character if character.isprintable() else "?" for character in text[:limit])
