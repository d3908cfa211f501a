"""A pipe of the core as an asyncio transport, for programs and any asyncio protocol.

Does: tell a protocol what a Duplex hands up, and the Duplex what the protocol writes, with pauses both ways.
Does not: open circuits, or know addresses. All calls come from the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from convergence.driver import Driver
from convergence.errors import EndReason
from convergence.pipes.duplex import Duplex
from pynode.pipes import HIGH_WATER

LINGER = 60.0  # seconds that a closed pipe has for what was written, and for the far end's end


class DuplexTransport(asyncio.Transport):
    """A Duplex of the core as an asyncio transport, for any asyncio protocol.

    Args:
        protocol: told as by a socket; its `connection_made` is called once the far end accepted.

    Attributes:
        code: how it ended: an EndReason, or another number as received; None before, and where each side ended.
        opened_or_failed: done once the far end accepted, or it is known that none will (see `code`).
        gone: set once the protocol was told that the connection is lost.
    """

    _start_tls_compatible = True  # what asyncio's start_tls asks for

    def __init__(self, driver: Driver, duplex: Duplex, protocol: asyncio.BaseProtocol, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.code: int | None = None
        self._driver = driver
        self._duplex = duplex
        self._loop = asyncio.get_running_loop()
        self.opened_or_failed: asyncio.Future[None] = self._loop.create_future()
        self.gone = asyncio.Event()
        self._protocol = protocol
        self._made = self._closing = False
        self._heard_end = self._ended = False
        self._paused_writing = False
        self._reading = True
        self._came: deque[bytes] = deque()  # while the protocol does not read: as much as the far end has credit for
        duplex.handler = self

    # -- Handler. The protocol is called later: it may call the core, which is busy now.

    def opened(self, now: float) -> None:
        self._loop.call_soon(self._open)

    def data(self, data: bytes, now: float) -> None:
        self._came.append(data)
        self._loop.call_soon(self._hand_up)

    def drained(self, now: float) -> None:
        self._loop.call_soon(self._watch_congestion)

    def ended(self, now: float) -> None:
        self._heard_end = True
        self._loop.call_soon(self._hand_up)

    def aborted(self, code: int, now: float) -> None:
        self.code = code
        self._closing = True
        self._loop.call_soon(self._hand_up)

    # -- asyncio.Transport

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._hand_up)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._ended and not self._closing:
            kept = bytes(data)
            self._driver.run(lambda now: self._duplex.write(kept, now))
            self._watch_congestion()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._ended and not self._closing:
            self._ended = True
            self._driver.run(self._duplex.end)

    def close(self) -> None:
        """End our way, and hear no more. The connection is lost once what was written has arrived, as far as the pipe
        can tell, and the far end has ended as well; after LINGER at the latest."""
        if self._closing:
            return
        self._closing = True
        unused = sum(map(len, self._came))
        self._came.clear()
        self._loop.call_soon(self._watch_congestion)
        if not self._ended:
            self._ended = True
            self._driver.run(self._duplex.end)
        linger(self._driver, self._duplex, unused, self._lingered)

    def abort(self) -> None:
        self.abort_with(EndReason.MISC)

    def abort_with(self, code: int) -> None:
        """Give up both ways; the far end hears this code (EndReason)."""
        self._closing = True
        self._came.clear()
        self._driver.run(lambda now: self._duplex.abort(code, now))
        self._loop.call_soon(self._gone)

    def get_write_buffer_size(self) -> int:
        return HIGH_WATER + 1 if self._duplex.congested else 0

    # -- inside

    def _open(self) -> None:
        if not self.gone.is_set() and not self._made:
            self._made = True
            self._protocol.connection_made(self)
            self._settle()
            self._watch_congestion()

    def _settle(self) -> None:
        if not self.opened_or_failed.done():
            self.opened_or_failed.set_result(None)

    def _hand_up(self) -> None:
        while self._came and self._reading and self._made:
            data = self._came.popleft()
            self._feed(data)
            self._consumed(len(data))
        protocol = cast(asyncio.Protocol, self._protocol)
        if self.code is not None and not (self._came and self._made):
            self._gone()
        elif self._heard_end and not self._came and self._made and not self.gone.is_set() and not self._closing:
            self._heard_end = False
            if not protocol.eof_received() or self._ended:
                self.close()

    def _feed(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, protocol).data_received(data)
            return
        while data:  # asyncio's TLS is of this kind
            buffer = memoryview(protocol.get_buffer(len(data)))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]

    def _consumed(self, size: int) -> None:
        self._driver.run(lambda now: self._duplex.consumed(size, now))

    def _watch_congestion(self) -> None:
        congested = self._made and not self._closing and self._duplex.congested
        if congested is not self._paused_writing:
            self._paused_writing = congested
            self._protocol.pause_writing() if congested else self._protocol.resume_writing()

    def _lingered(self, code: int | None) -> None:
        self.code = code
        self._loop.call_soon(self._gone)

    def _gone(self) -> None:
        if not self.gone.is_set():
            self.gone.set()
            self._settle()
            if self._made:
                broken = self.code not in (None, EndReason.DONE)
                self._protocol.connection_lost(ConnectionResetError(f"ended: {self.code}") if broken else None)


def linger(driver: Driver, duplex: Duplex, unused: int, on_over: Callable[[int | None], None]) -> None:
    """For a user who ended and hears no more: wait for the end of both ways, and give up after LINGER.

    Args:
        unused: bytes that came and that nobody will consume.
        on_over: called once, with the code if it broke.
    """
    if duplex.closed:
        on_over(None)
        return
    deaf = duplex.handler = _Deaf(duplex, on_over)
    driver.run(lambda now: duplex.consumed(unused, now))
    if not deaf.over:
        timer = asyncio.get_running_loop().call_later(LINGER, driver.run, lambda now: deaf.give_up(EndReason.DONE, now))
        deaf.on_settled = timer.cancel


class _Deaf:
    """Drops what still comes for somebody who closed."""

    def __init__(self, duplex: Duplex, on_over: Callable[[int | None], None]) -> None:
        self.over = False
        self.on_settled: Callable[[], None] = lambda: None
        self._duplex = duplex
        self._on_over = on_over
        self._dropped = 0

    def give_up(self, code: int, now: float) -> None:
        self._duplex.abort(code, now)
        self._settle(code)

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None:
        self._dropped += len(data)
        if self._dropped > HIGH_WATER:
            self.give_up(EndReason.CONNRESET, now)
        else:
            self._duplex.consumed(len(data), now)

    def drained(self, now: float) -> None:
        self.ended(now)

    def ended(self, now: float) -> None:
        if self._duplex.closed:
            self._settle(None)

    def aborted(self, code: int, now: float) -> None:
        self._settle(code)

    def _settle(self, code: int | None) -> None:
        if not self.over:
            self.over = True
            self.on_settled()
            self._on_over(code)
