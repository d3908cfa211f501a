"""TLS channels between relays, dialled and accepted: the links of the Tor network (tor-spec "Connections").

Does: connect, listen, change the key and certificate of TLS every few hours, hand whatever was read to the driver as
one batch, report congestion, bound what a peer can make it keep, shut down in bounded time.
Does not: verify certificates: they are random on this network. The link handshake proves the node, bound to the
connection's certificate and secrets.

The library is pyOpenSSL because Python's ssl gives no keying material (RFC 5705). It comes with an OpenSSL of its own,
whose groups are the default ones: X25519MLKEM768 first, as C Tor has it. Measured beside WebSockets (64 KiB messages on
loopback, uvloop; CPU seconds a 100 MB, sender + receiver): 0.15 with TLS, 0.09 without.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import aiofastnet
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from convergence.effects import DescriptionKind, Protocol
from convergence.errors import ParseError
from convergence.ports import TlsBinding
from convergence.wire.relay import parse_target
from pynode.listening import MAX_FROM_ONE, Listener, counted_as
from pynode.torkeys import link_key, random_host
from pynode.transports import CLOSE_TIMEOUT, Channels, until_gone
from pynode.transports.dialling import Dialler, network_reason
from pynode.transports.slices import READ_SLICE
from pynode.transports.tls_connection import TlsConnection
from pynode.transports.unsent import Unsent

MAX_INCOMING = 4096
"""Connections at a time above which no more are accepted."""

CONNECT_TIMEOUT = 15.0
"""Seconds for look-up, TCP and TLS together."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that either side has for the handshake of TLS."""

KEY_LIFETIME = 2 * 3600.0
"""Seconds after which connections get another key and certificate (C Tor: MAX_SSL_KEY_LIFETIME_INTERNAL)."""

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"
    "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
)
"""Of TLS 1.2, in the order in which C Tor and Firefox offer them; their older ones are left out."""
OFFERED = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
TAKEN = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
"""Of TLS 1.3: what an initiator offers, and what a responder prefers, as C Tor does."""
_ENABLE_PARTIAL_WRITE = 0x1
"""The library's mode in which a write ends after one record."""

log = logging.getLogger("pynode.tls")


@dataclass(frozen=True, slots=True)
class _Key:
    """What a responder shows."""

    context: SSL.Context
    certificate: bytes


class TlsTransport:
    """Implements ports.Transport for TLS channels. Set `channels` (a Driver) before use.

    Args:
        max_connections: above this many no more are accepted.
        unsent: the count of bytes that wait, where other transports share it.
        from_one: the most connections from one address.
        public_only: whether links to private and reserved addresses are refused.
        handshake_timeout: seconds that either side has for the handshake of TLS.
    """

    channels: Channels

    def __init__(
        self,
        max_connections: int = MAX_INCOMING,
        unsent: Unsent | None = None,
        from_one: int = MAX_FROM_ONE,
        public_only: bool = False,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        self.unsent = unsent or Unsent()
        # All connections read into this one: what was read is decrypted before anything else is.
        self.read_buffer = memoryview(bytearray(READ_SLICE))
        self.handshake_timeout = handshake_timeout
        self._max_connections = max_connections
        self._from_one = from_one
        self._dialler = Dialler(public_only)
        self._open: dict[int, TlsConnection] = {}
        self._live: set[TlsConnection] = set()
        self._dials: dict[int, asyncio.Task[None]] = {}
        self._listeners: list[Listener] = []
        self._key: _Key | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._all_gone = asyncio.Event()

    def __contains__(self, channel: int) -> bool:
        return channel in self._open or channel in self._dials

    # -- ports.Transport

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        """Dial host:port."""
        task = self._dials[channel] = asyncio.get_running_loop().create_task(self._dial(channel, address, source))
        task.add_done_callback(lambda _: self._dials.pop(channel, None))

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        """Nothing of TLS is described."""

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        connection = self._open.get(channel)
        if connection is None:
            return True
        connection.send(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        self.unsent.note(connection)
        return not connection.congested

    def close(self, channel: int, reason: str) -> None:
        """Flush, then close. The peer has CLOSE_TIMEOUT seconds to take what was sent."""
        dial = self._dials.pop(channel, None)
        if dial is not None:
            dial.cancel()
        connection = self._open.pop(channel, None)
        if connection is not None:
            self._end(connection)

    def pause(self, channel: int, paused: bool) -> None:
        connection = self._open.get(channel)
        if connection is not None:
            connection.pause(paused)

    # -- for the application

    async def listen(self, host: str, port: int) -> int:
        """`bind` and `accept`."""
        bound = await self.bind(host, port)
        self.accept()
        return bound

    async def bind(self, host: str, port: int) -> int:
        """Listen for links, which wait until `accept`.

        Returns:
            The port that was bound, for callers that asked for port 0.

        Raises:
            OSError: the address is taken or not ours.
        """
        if self._renewal is None:
            self._key = await asyncio.to_thread(_new_key)
            self._renewal = asyncio.get_running_loop().create_task(self._renew())
        listener = Listener(self._accepted, self._from_one, aiofastnet.connect_accepted_socket)
        bound = await listener.bind(host, port)
        self._listeners.append(listener)
        return bound

    def accept(self) -> None:
        """Accept links from now on."""
        for listener in self._listeners:
            listener.accept()

    async def shutdown(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Take no more connections, close all there are, wait for them at most `timeout` seconds."""
        self._dialler.close()
        for listener in self._listeners:
            listener.close()
        if self._renewal is not None:
            self._renewal.cancel()
        for dial in list(self._dials.values()):
            dial.cancel()
        self._open.clear()
        for connection in list(self._live):
            self._end(connection)
        await until_gone(self._live, self._all_gone, TlsConnection.cut, timeout)

    def source(self, channel: int) -> Hashable:
        """Whom limits count this channel under, as in websocket.py."""
        connection = self._open.get(channel)
        return (connection is not None and counted_as(connection.remote)) or channel

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._live)

    # -- inside

    @cached_property
    def _client(self) -> SSL.Context:
        context = _context(OFFERED)
        context.set_options(SSL.OP_NO_TICKET)
        return context

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(KEY_LIFETIME)
            self._key = await asyncio.to_thread(_new_key)

    def _accepted(self) -> TlsConnection:
        assert self._key is not None
        tls = SSL.Connection(self._key.context)
        tls.set_accept_state()
        return TlsConnection(self, None, tls, self._key.certificate)

    async def _dial(self, channel: int, address: str, source: Hashable) -> None:
        connection: TlsConnection | None = None
        tcp: socket.socket | None = None
        try:
            host, port = parse_target(address)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                tcp = await self._dialler.connect(Protocol.TLS, host, port, source)
                connection = made = TlsConnection(self, channel, self._client_tls())
                await aiofastnet.create_connection(asyncio.get_running_loop(), lambda: made, sock=tcp)
                await connection.settled.wait()
            if not connection.open:
                self.closed(channel, connection.failure)
        except (OSError, ParseError) as error:
            self.closed(channel, network_reason(error) if isinstance(error, OSError) else str(error))
        finally:
            if connection is not None and not connection.open:
                connection.cut()
            if tcp is not None and (connection is None or connection.transport is None):
                tcp.close()

    def _client_tls(self) -> SSL.Connection:
        tls = SSL.Connection(self._client)
        tls.set_connect_state()
        tls.set_tlsext_host_name(random_host(".com").encode())
        return tls

    def made(self, connection: TlsConnection) -> None:
        """There is a connection, without TLS yet."""
        self._live.add(connection)
        if connection.channel is None and len(self._live) > self._max_connections:
            log.debug("refused a connection: full")
            connection.cut()

    def opened(self, connection: TlsConnection, binding: TlsBinding) -> None:
        if connection.channel is None:
            connection.channel = self.channels.accept()
        self._open[connection.channel] = connection
        self.unsent.note(connection)
        self.channels.opened(connection.channel, Protocol.TLS, binding)

    def closed(self, channel: int, reason: str) -> None:
        self._open.pop(channel, None)
        log.debug("channel %d ended: %s", channel, reason)
        self.channels.closed(channel, reason)

    def gone(self, connection: TlsConnection) -> None:
        self._live.discard(connection)
        self.unsent.forget(connection)
        if not self._live:
            self._all_gone.set()

    def _end(self, connection: TlsConnection) -> None:
        """Close from our side, and report nothing."""
        connection.end()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, connection.cut)


def _new_key() -> _Key:
    key, certificate = link_key()
    context = _context(TAKEN)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    return _Key(context, certificate.public_bytes(Encoding.DER))


def _context(suites: str) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS.encode())
    context.set_tls13_ciphersuites(suites.encode())
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.clear_mode(_ENABLE_PARTIAL_WRITE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context
