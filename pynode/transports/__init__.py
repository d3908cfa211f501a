"""Does: say what every transport of this shell reports to, and wait for connections to end. Does not: open any."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol as Shape
from typing import TypeVar

from convergence.effects import DescriptionKind, Protocol
from convergence.ports import Binding

T = TypeVar("T")


class Channels(Shape):
    """The part of `convergence.driver.Driver` that transports call."""

    def accept(self) -> int: ...

    def opened(self, channel: int, protocol: Protocol, binding: Binding | None = None) -> None: ...

    def described(self, channel: int, kind: DescriptionKind, sdp: str) -> None: ...

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


async def until_gone(live: set[T], all_gone: asyncio.Event, cut: Callable[[T], None], timeout: float) -> None:
    """Wait until `live` is empty, which sets `all_gone`; after `timeout` seconds cut what is left, and wait again."""
    if not live:
        return
    all_gone.clear()
    try:
        await asyncio.wait_for(all_gone.wait(), timeout)
    except TimeoutError:
        for connection in list(live):
            cut(connection)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_gone.wait(), timeout)
