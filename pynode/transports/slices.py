"""What one read of a connection hands over, bounded.

Does: stand between an event loop's transport and a library's protocol; cut reads to READ_SLICE; give others a turn
after each full one. Does not: look into the bytes.

Without it the library's buffer doubles with every full read, up to all that the kernel holds (32 MB if TCP's buffers
grow so far), and keeps that size; and the core gets all of it as one batch.
"""

from __future__ import annotations

import asyncio

READ_SLICE = 128 * 1024
"""Bytes of one read: two messages of a link at their longest. The library's buffer, which also holds a begun message
(MAX_MESSAGE) and doubles when it is nine tenths full, then stays at 260 KiB."""


class Slices(asyncio.BufferedProtocol):
    """Takes the place of `inner` at its transport, from the constructor on."""

    def __init__(self, transport: asyncio.Transport) -> None:
        inner = transport.get_protocol()
        assert isinstance(inner, asyncio.BufferedProtocol)
        self.paused = False
        self._transport = transport
        self._inner = inner
        self._room = 0
        self._resting = False
        transport.set_protocol(self)

    def pause(self, paused: bool) -> None:
        """Stop or start to read, as the core wants it."""
        self.paused = paused
        if not self._resting and not self._transport.is_closing():
            self._transport.pause_reading() if paused else self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        buffer = memoryview(self._inner.get_buffer(sizehint))[:READ_SLICE]
        self._room = len(buffer)
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._inner.buffer_updated(nbytes)
        if nbytes == self._room >= READ_SLICE and not self.paused and not self._transport.is_closing():
            # There is more, and the loop would go on reading: libuv does so up to 32 times.
            self._resting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def _go_on(self) -> None:
        self._resting = False
        if not self.paused and not self._transport.is_closing():
            self._transport.resume_reading()
