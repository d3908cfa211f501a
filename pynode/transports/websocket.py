"""WebSocket channels, dialled and accepted, for Tor cells (LINK) and facilitator records (FACILITATOR).

Does: connect, listen, hand whole binary messages to the driver (joined where several are buffered already), report
congestion, find dead peers by ping, refuse requests that are no WebSocket and pages of strangers, bound what a peer can
make it keep or do, shut down in bounded time.
Does not: know what a message means. There is no channel binding (None): the circuit handshake proves the node.

The library is picows, by measurement (loopback, uvloop, compression off; CPU seconds a 100 MB, sender + receiver):

    64 KiB messages   picows 2370 MB/s 0.08   websockets 1230 MB/s 0.14   aiohttp 800 MB/s 0.23
    514-byte ones     picows   86 MB/s 1.9    websockets   52 MB/s 3.7    aiohttp  63 MB/s 3.0
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Hashable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import picows
from aiofastnet import connect_accepted_socket  # the transports that the library makes, too
from picows import WSAutoPingStrategy, WSCloseCode, WSMsgType, WSUpgradeRequest, WSUpgradeResponse
from picows.picows import WSProtocol  # type: ignore[attr-defined] # what `ws_create_server` makes, for our own sockets

from convergence.effects import Protocol
from pynode.listening import MAX_FROM_ONE, Listener, counted_as
from pynode.origins import ANY, Origins
from pynode.transports import CLOSE_TIMEOUT, Channels, until_gone
from pynode.transports.connection import MAX_MESSAGE, Connection
from pynode.transports.dialling import Dialler, connect_reason
from pynode.transports.unsent import Unsent

SEND_CHUNK = 65536
"""Facilitator buffers longer than this travel as several messages (records may be cut anywhere)."""

READ_BUFFER = 16 * 1024
"""Bytes that a connection's read buffer starts with: what an idle connection costs. A busy one's grows as READ_SLICE
says, and stays so."""

MAX_INCOMING = 4096
"""Connections at a time above which no more are accepted: they are answered 503."""

CONNECT_TIMEOUT = 15.0
"""Seconds for look-up, TCP, TLS and upgrade together."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that an accepted connection has to ask for its upgrade: what half-open connections are bounded by."""

PING_IDLE, PING_REPLY = 30.0, 20.0
"""A peer that was silent for 30 s is pinged; without a sign of life in 20 s more it counts as dead."""

FACILITATOR_PATH = "/facilitator"
UPGRADE_TEXT = b"This is a Convergence node: it speaks WebSocket only.\n"
ORIGIN_TEXT = "Pages of other sites may not connect here.\n"

log = logging.getLogger("pynode.websocket")


class _LibraryLog(logging.LoggerAdapter[logging.Logger]):
    """Faults of peers are no news: the library's lines are logged for debugging only, without tracebacks."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        # Below DEBUG the library would log headers and data.
        return level >= logging.DEBUG and self.logger.isEnabledFor(logging.DEBUG if level < logging.ERROR else level)

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        self.logger.log(level if kwargs.get("exc_info") else logging.DEBUG, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


class WebSocketTransport:
    """Implements ports.Transport for LINK and FACILITATOR channels. Set `channels` (a Driver) before use.

    Args:
        tls: context for wss:// addresses; by default the system's certificates, verified.
        max_connections: above this many no more are accepted.
        from_one: the most connections from one address.
        origins: whose pages may connect; by default all.
        unsent: the count of bytes that wait, where other transports share it.
        public_only: whether links to private and reserved addresses are refused.
    """

    channels: Channels

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        max_connections: int = MAX_INCOMING,
        origins: Origins | None = None,
        unsent: Unsent | None = None,
        from_one: int = MAX_FROM_ONE,
        public_only: bool = False,
    ) -> None:
        self.unsent = unsent or Unsent()
        self._max_connections = max_connections
        self._origins = origins or Origins([ANY])
        self._tls = tls
        self._sockets: dict[int, Connection] = {}
        self._live: set[Connection] = set()
        self._dials: dict[int, asyncio.Task[None]] = {}  # the core shares them out
        self._dialler = Dialler(public_only)
        self._listeners: list[Listener] = []
        self._from_one = from_one
        self._log = _LibraryLog(log, {})
        self._all_gone = asyncio.Event()
        self._ending = False

    # -- ports.Transport

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        """Dial a ws:// or wss:// address."""
        connection = Connection(self, protocol, channel)
        task = self._dials[channel] = asyncio.get_running_loop().create_task(self._dial(connection, address, source))
        task.add_done_callback(lambda _: self._dials.pop(channel, None))

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        connection = self._sockets.get(channel)
        if connection is None or connection.ws is None:
            return True
        ws, chunked = connection.ws, connection.protocol is Protocol.FACILITATOR
        for buffer in buffers:
            if chunked and len(buffer) > SEND_CHUNK:
                for start in range(0, len(buffer), SEND_CHUNK):
                    ws.send(WSMsgType.BINARY, buffer[start : start + SEND_CHUNK])
            else:
                ws.send(WSMsgType.BINARY, buffer)
        self.unsent.note(connection)
        return not connection.congested

    def close(self, channel: int, reason: str) -> None:
        """Flush, then close. The peer has CLOSE_TIMEOUT seconds to take what was sent and answer."""
        dial = self._dials.pop(channel, None)
        if dial is not None:
            dial.cancel()
        connection = self._sockets.pop(channel, None)
        if connection is not None:
            self._end(connection, WSCloseCode.OK, reason)

    def pause(self, channel: int, paused: bool) -> None:
        connection = self._sockets.get(channel)
        if connection is not None:
            connection.pause(paused)

    # -- for the application

    async def listen(self, host: str, port: int) -> int:
        """Accept links on any path.

        Returns:
            The port that was bound, for callers that asked for port 0.

        Raises:
            OSError: the address is taken or not ours.
        """
        listener = Listener(self._accepted, self._from_one, connect_accepted_socket)
        bound = await listener.start(host, port)
        self._listeners.append(listener)
        return bound

    async def shutdown(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Take no more connections, close all there are, wait for them at most `timeout` seconds."""
        self._ending = True
        self._dialler.close()
        for listener in self._listeners:
            listener.close()
        for dial in list(self._dials.values()):
            dial.cancel()
        self._sockets.clear()
        for connection in list(self._live):
            self._end(connection, WSCloseCode.GOING_AWAY, "shutting down")
        await until_gone(self._live, self._all_gone, self.cut, timeout)

    def source(self, channel: int) -> Hashable:
        """Whom limits count this channel under: the address that it leads to, or the channel itself where none is
        known or where many share it (loopback, where proxies stand)."""
        connection = self._sockets.get(channel)
        return (connection is not None and counted_as(connection.remote)) or channel

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._live)

    # -- inside

    def _accepted(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = WSProtocol(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=self._upgrade,
            logger=self._log,
            disconnect_on_exception=True,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            extra_headers=None,
            **self._options(),
        )
        return protocol

    def _options(self) -> dict[str, Any]:
        return {
            "max_frame_size": MAX_MESSAGE,
            "read_buffer_init_size": READ_BUFFER,
            "enable_auto_ping": True,
            "auto_ping_idle_timeout": PING_IDLE,
            "auto_ping_reply_timeout": PING_REPLY,
            "enable_auto_pong": False,
            "websocket_handshake_timeout": HANDSHAKE_TIMEOUT,
        }

    def _upgrade(self, request: WSUpgradeRequest) -> Any:
        headers = request.headers
        # Firefox sends "keep-alive, Upgrade". The library does not see an upgrade in that, so rewrite it.
        tokens = {token.strip().lower() for token in headers.get("Connection", "").split(",")}
        version = headers.get("Sec-WebSocket-Version", "")
        if headers.get("Upgrade", "").lower() != "websocket" or "upgrade" not in tokens or version != "13":
            log.debug("refused a plain HTTP request")
            answer = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            return self._refuse(426, UPGRADE_TEXT, answer)
        if not self._origins.allow(headers.get("Origin")):
            log.debug("refused a page of another site")
            return self._refuse(403, ORIGIN_TEXT.encode(), {})
        if self._ending or len(self._live) >= self._max_connections:
            log.debug("refused a connection: full")
            return self._refuse(503, b"This node has no room for another connection.\n", {})
        headers["Connection"] = "upgrade"
        return Connection(self, Protocol.LINK, None)

    @staticmethod
    def _refuse(status: int, text: bytes, headers: dict[str, str]) -> picows.WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_error_response(status, text, headers)
        return picows.WSUpgradeResponseWithListener(response, None)

    async def _dial(self, connection: Connection, url: str, source: Hashable) -> None:
        tcp: socket.socket | None = None

        async def connect(parsed: picows.WSParsedURL) -> socket.socket:
            nonlocal tcp
            tcp = await self._dialler.connect(connection.protocol, parsed.host, parsed.port, source)
            return tcp

        try:
            if not (url.isascii() and url.isprintable()) or " " in url:
                raise picows.WSInvalidURL("the address", "unusual characters")
            tls = self._tls
            if url.startswith("wss:") and tls is None:
                tls = self._tls = ssl.create_default_context()
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, listener = await picows.ws_connect(
                    lambda *_: connection,
                    url,
                    ssl_context=tls,
                    logger_name=self._log,
                    max_redirects=0,
                    socket_factory=connect,
                    **self._options(),
                )
            if listener is None:
                connection.report("not a WebSocket server: it closed the connection")
        except asyncio.CancelledError:
            connection.channel = None
            raise
        except Exception as error:
            connection.report(connect_reason(error))
        finally:
            if connection.ws is None and tcp is not None:
                # The library would keep an abandoned connection for another HANDSHAKE_TIMEOUT.
                with suppress(OSError):
                    tcp.shutdown(socket.SHUT_RDWR)

    def opened(self, connection: Connection) -> None:
        assert connection.channel is not None
        self._live.add(connection)
        self._sockets[connection.channel] = connection
        self.unsent.note(connection)
        self.channels.opened(connection.channel, connection.protocol, None)

    def closed(self, channel: int, reason: str) -> None:
        self._sockets.pop(channel, None)
        log.debug("channel %d ended: %s", channel, reason)
        self.channels.closed(channel, reason)

    def gone(self, connection: Connection) -> None:
        self._live.discard(connection)
        self.unsent.forget(connection)
        if not self._live:
            self._all_gone.set()

    def _end(self, connection: Connection, code: WSCloseCode, reason: str) -> None:
        """Close from our side, and report nothing. The peer's CLOSE ends the connection, or else the timer does."""
        connection.channel = None
        if connection.ws is not None:
            connection.ws.send_close(code, reason.encode()[:100].decode("utf-8", "ignore").encode())
            self.cut_later(connection)

    def cut_later(self, connection: Connection) -> None:
        """End it after CLOSE_TIMEOUT: a peer that reads nothing keeps unflushed data no longer."""
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.cut, connection)

    def cut(self, connection: Connection) -> None:
        if connection in self._live and connection.ws is not None:
            connection.ws.disconnect(False)
