"""One TLS connection of a link: its records become cells for the core.

Does: the TLS handshake over memory, all records of a read as one batch, congestion, an orderly end.
Does not: dial, accept, or know the other connections; its owner (tls.py) does that. Certificates are not verified
here: the link handshake does it, with what `binding` gives it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from convergence.ports import TlsBinding
from convergence.wire.handshake import EXPORTER_LABEL, HASH_LEN
from pynode.exit import plain_address
from pynode.transports import LOW_WATER
from pynode.transports.records import PORTION
from pynode.transports.unsent import REASON

if TYPE_CHECKING:
    from pynode.transports.tls import TlsTransport

SILENCE, PROBES, PROBE_PAUSE = 30, 2, 10
"""Seconds of silence after which the kernel asks whether the peer is there, how often, and seconds between."""

MAX_ANSWERED = 1 << 12
"""Bytes that the library may answer on an open connection, to changes of keys (RFC 8446 4.6.3) or to wishes for a new
handshake: 150 of them. An honest peer makes one in many gigabytes. Each costs us as much as ten cells, and its answer
waits for a peer that does not read."""


class TlsConnection(asyncio.BufferedProtocol):
    """One connection. `channel` is None before it is open and once nothing more is to be reported.

    Args:
        certificate: ours, DER, where we are the responder.
    """

    def __init__(
        self, owner: TlsTransport, channel: int | None, tls: SSL.Connection, certificate: bytes | None = None
    ) -> None:
        self.owner = owner
        self.channel = channel
        self.congested = False
        self.remote: str | None = None
        self.open = False
        self.settled = asyncio.Event()  # it is open, or will never be
        self.failure = ""  # why it will not
        self.transport: asyncio.Transport | None = None
        self._tls = tls
        self._certificate = certificate
        self._late: asyncio.TimerHandle | None = None
        self._read: list[bytes] = []
        self._ended = False
        self._answered = 0  # bytes that the library said of its own since it is open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = tcp = cast(asyncio.Transport, transport)
        peer = tcp.get_extra_info("peername")  # None: it is gone already
        self.remote = str(peer[0]) if peer else None
        tune(tcp.get_extra_info("socket"))
        high = self.owner.unsent.high_water
        tcp.set_write_buffer_limits(high, min(LOW_WATER, high // 4))
        self._late = asyncio.get_running_loop().call_later(self.owner.handshake_timeout, self.fail, "timed out")
        self.owner.made(self)
        self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.owner.records.incoming

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for start in range(0, nbytes, PORTION):
                size = min(PORTION, nbytes - start)
                if not self.open:
                    self._tls.bio_write(self.owner.records.incoming[start : start + size])
                    self._shake()
                    size = 0
                if self.open:
                    self._decrypt(start, size)
            self._deliver()
        except (SSL.Error, ValueError):  # ValueError: a certificate that is none
            self.fail("TLS failed")

    def eof_received(self) -> None:
        self.report("closed by the peer")

    def connection_lost(self, error: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        self.report("connection lost")
        self.owner.gone(self)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if self.channel is not None and self.open:
            self.owner.channels.drained(self.channel)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def overfull(self) -> None:
        self.fail(REASON)

    def pause(self, paused: bool) -> None:
        """Stop or start to read, as the core wants it."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading() if paused else self.transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Encrypt and write."""
        assert self.transport is not None
        portions, records = memoryview(data), self.owner.records
        try:
            for start in range(0, len(data), PORTION):
                self.transport.write(records.seal(self._tls, portions[start : start + PORTION]))
        except SSL.Error:
            self.fail("TLS failed")

    def end(self) -> None:
        """Say that nothing more comes, and close once all is sent."""
        self.channel = None
        if self.transport is not None and not self.transport.is_closing():
            if self.open:
                with suppress(SSL.Error):
                    self._tls.shutdown()
                    self._flush()
            self.transport.close()

    def fail(self, reason: str) -> None:
        """End now: nothing is flushed."""
        self.report(reason)
        self.cut()

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def report(self, reason: str) -> None:
        """Tell the core, once; before the connection is open, tell who dialled."""
        if not self.open:
            self.failure = self.failure or reason
            self.settled.set()
            return
        channel, self.channel = self.channel, None
        if channel is not None:
            self.owner.closed(channel, reason)

    # -- inside

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return
        finally:
            self._flush()
        assert self._late is not None
        self._late.cancel()
        binding = self._binding()
        self.open = True
        self.owner.opened(self, binding)
        self.settled.set()

    def _binding(self) -> TlsBinding:
        certificate = self._certificate
        if certificate is None:
            theirs = self._tls.get_peer_certificate(as_cryptography=True)
            assert theirs is not None
            certificate = theirs.public_bytes(Encoding.DER)
        address = plain_address(self.remote or "")
        return TlsBinding(certificate, self._export, None if address is None else str(address))

    def _export(self, context: bytes) -> bytes:
        return self._tls.export_keying_material(EXPORTER_LABEL, HASH_LEN, context)

    def _decrypt(self, start: int, size: int) -> None:
        """Keep all that can be read. Raises SSL.Error."""
        data, more = self.owner.records.open(self._tls, start, size)
        if data:
            self._read.append(data)
        self._answered += self._flush()
        if self._answered > MAX_ANSWERED:
            raise SSL.Error("too many changes of keys")
        if not more:
            with suppress(SSL.ZeroReturnError):
                self._tls.recv(1)
            self._ended = True

    def _deliver(self) -> None:
        """Hand over what was read, as one batch."""
        parts, self._read = self._read, []
        if parts and self.channel is not None:
            self.owner.channels.received(self.channel, parts[0] if len(parts) == 1 else b"".join(parts))
        if self._ended:
            self.report("closed by the peer")
            self.end()

    def _flush(self) -> int:
        """Write what the library wants to send. Returns how many bytes that are."""
        assert self.transport is not None
        if said := self.owner.records.waiting(self._tls):
            self.transport.write(said)
        return len(said)


def tune(connection: socket.socket) -> None:
    """Send at once, acknowledge the handshake at once, notice a peer that is gone; as far as the system can."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    lasts = SILENCE + PROBES * PROBE_PAUSE
    for name, value in {
        "TCP_NODELAY": 1,
        "TCP_QUICKACK": 1,
        "TCP_KEEPIDLE": SILENCE,
        "TCP_KEEPCNT": PROBES,
        "TCP_KEEPINTVL": PROBE_PAUSE,
        "TCP_USER_TIMEOUT": lasts * 1000,
    }.items():
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
