"""WebSocket channels, dialled and accepted, for Tor cells (LINK) and facilitator records (FACILITATOR).

Does: connect, listen, hand whole binary messages to the driver (joined where several are buffered already), report
congestion, find dead peers by ping, refuse whatever is no WebSocket and pages of strangers, bound what a peer can make
it keep or do, shut down in bounded time.
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
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import picows
from aiofastnet import connect_accepted_socket  # the transports that the library makes, too
from picows import WSAutoPingStrategy, WSCloseCode, WSFrame, WSMsgType, WSTransport, WSUpgradeRequest, WSUpgradeResponse
from picows.picows import WSProtocol  # type: ignore[attr-defined] # what `ws_create_server` makes, for our own sockets

from convergence.effects import Protocol
from pynode.listening import MAX_FROM_ONE, Listener
from pynode.origins import ANY, Origins
from pynode.transports import CLOSE_TIMEOUT, LOW_WATER, Channels, printable, until_gone
from pynode.transports.control import PONG_ROOM, ControlFrames
from pynode.transports.dialling import Dialler, connect_reason
from pynode.transports.slices import Slices
from pynode.transports.unsent import REASON, Unsent

MAX_MESSAGE = 65536 + 4096
"""Longest message taken: 127 cells are 65,278 bytes; the rest is for variable-length handshake cells."""

SEND_CHUNK = 65536
"""Facilitator buffers longer than this travel as several messages (records may be cut anywhere)."""

READ_BUFFER = 16 * 1024
"""Bytes that a connection's read buffer starts with: what an idle connection costs. A busy one's grows as READ_SLICE
says, and stays so."""

MAX_INCOMING = 4096
"""Connections at a time above which no more are accepted: they are answered 503."""

MAX_DIALS = 128
"""Connections that are being made at a time. For one more the oldest one of a link is given up: honest nodes answer
soon, and those that never answer are not to take all the places."""

CONNECT_TIMEOUT = 15.0
"""Seconds for look-up, TCP, TLS and upgrade together."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that an accepted connection has to ask for its upgrade: what half-open connections are bounded by."""

PING_IDLE, PING_REPLY = 30.0, 20.0
"""A peer that was silent for 30 s is pinged; without a sign of life in 20 s more it counts as dead."""

FACILITATOR_PATH = "/facilitator"
UPGRADE_TEXT = b"This is a Convergence node: it speaks WebSocket only.\n"
ORIGIN_TEXT = "Pages of other sites may not connect here.\n"

_CONTROL = (WSMsgType.CLOSE, WSMsgType.PING, WSMsgType.PONG)

log = logging.getLogger("pynode.websocket")


class _LibraryLog(logging.LoggerAdapter[logging.Logger]):
    """What peers do wrong is no news: the library's lines are kept for debugging, tracebacks excepted."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        # Below DEBUG the library would log headers and data.
        return level >= logging.DEBUG and self.logger.isEnabledFor(logging.DEBUG if level < logging.ERROR else level)

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        self.logger.log(level if kwargs.get("exc_info") else logging.DEBUG, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


class _Socket(picows.WSListener):
    """One connection. `channel` is None before it is open and once nothing more is to be reported."""

    def __init__(self, owner: WebSocketTransport, protocol: Protocol, channel: int | None) -> None:
        self.owner = owner
        self.protocol = protocol
        self.channel = channel
        self.incoming = channel is None
        self.congested = False
        self.ws: WSTransport | None = None
        self._slices: Slices | None = None
        self._ping: bytes | None = None  # the latest one of this read
        self._control = ControlFrames()
        self._messages: list[bytes] = []
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.ws = transport
        if self.incoming:
            self.channel = self.owner.channels.accept()
        elif self.channel is None:  # closed by the core while it was being dialled
            transport.disconnect(False)
            return
        tcp = transport.underlying_transport
        high = self.owner.unsent.high_water
        tcp.set_write_buffer_limits(high, min(LOW_WATER, high // 4))
        self._slices = Slices(tcp)
        self.owner._opened(self)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket."""
        return self.ws.underlying_transport.get_write_buffer_size() if self.ws is not None else 0

    def overfull(self) -> None:
        self.report(REASON)
        self.owner._cut(self)

    def pause(self, paused: bool) -> None:
        if self._slices is not None:
            self._slices.pause(paused)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        # After a protocol error the library reads on for 10 ms, and may then find frames again: not ours.
        if self.channel is None or transport.is_close_frame_sent:
            if kind == WSMsgType.CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.fail(WSCloseCode.PROTOCOL_ERROR, "reserved bits set")
        elif kind == WSMsgType.BINARY and frame.fin and not self._fragments:
            self._messages.append(frame.get_payload_as_bytes())
        elif kind == WSMsgType.BINARY or kind == WSMsgType.CONTINUATION:
            self._fragment(frame, first=kind == WSMsgType.BINARY)
        elif kind == WSMsgType.PING:
            self._ping = frame.get_payload_as_bytes()
        elif kind == WSMsgType.CLOSE:
            self._deliver()
            reason = printable(frame.get_close_reason() or "")
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
            self.owner._cut_later(self)
            self.report(f"closed by the peer: {reason}" if reason else "closed by the peer")
        elif kind == WSMsgType.TEXT:
            self.fail(WSCloseCode.UNSUPPORTED_DATA, "a text message")
        if (kind in _CONTROL or not frame.payload_size) and self._control.too_many():
            self.fail(WSCloseCode.POLICY_VIOLATION, "too many control frames")
        if frame.last_in_buffer:
            self._answer(transport)
            # Any sign of life answers a ping: behind a long queue the pong itself may come late.
            transport.notify_user_specific_pong_received()
            self._deliver()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        sent = transport.close_handshake.sent if transport.close_handshake else None
        self.report(sent.reason if sent and sent.reason else "connection lost")
        self.owner._gone(self)

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        return False  # pongs come to on_ws_frame, so that `last_in_buffer` is never missed

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if self.channel is not None:
            self.owner.channels.drained(self.channel)

    def fail(self, code: WSCloseCode, reason: str) -> None:
        """The peer broke a rule: what it sent before is delivered, then the connection ends. (Where the library finds
        the fault, it drops what came with it in the same read.)"""
        self._deliver()
        if self.ws is not None:
            self.ws.send_close(code, reason.encode())
            self.ws.disconnect()
            self.owner._cut_later(self)
        self.report(reason)

    def report(self, reason: str) -> None:
        """Tell the core, once."""
        channel, self.channel = self.channel, None
        if channel is not None:
            self.owner._closed(channel, reason)

    def _answer(self, transport: WSTransport) -> None:
        """The latest ping is enough (RFC 6455, 5.5.3)."""
        ping, self._ping = self._ping, None
        if ping is not None and self.channel is not None and self.unsent <= PONG_ROOM:
            transport.send_pong(ping)

    def _fragment(self, frame: WSFrame, *, first: bool) -> None:
        """Browsers may cut one message into several frames."""
        if first == bool(self._fragments):
            self.fail(WSCloseCode.PROTOCOL_ERROR, "fragments out of order")
            return
        self._fragment_bytes += frame.payload_size
        if self._fragment_bytes > MAX_MESSAGE:
            self.fail(WSCloseCode.MESSAGE_TOO_BIG, f"a message longer than {MAX_MESSAGE} bytes")
            return
        # Empty fragments are kept off the list's tail, so that a flood of them takes no memory.
        if first or frame.payload_size:
            self._fragments.append(frame.get_payload_as_bytes())
        if frame.fin:
            self._messages.append(b"".join(self._fragments))
            self._fragments.clear()
            self._fragment_bytes = 0

    def _deliver(self) -> None:
        if not self._messages:
            return
        data = self._messages[0] if len(self._messages) == 1 else b"".join(self._messages)
        self._messages.clear()
        if data and self.channel is not None:
            self.owner.channels.received(self.channel, data)


class WebSocketTransport:
    """Implements ports.Transport for LINK and FACILITATOR channels. Set `channels` (a Driver) before use.

    Args:
        tls: context for wss:// addresses; by default the system's certificates, verified.
        max_connections: above this many no more are accepted.
        from_one: of them, how many from one address.
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
        self._sockets: dict[int, _Socket] = {}
        self._live: set[_Socket] = set()
        self._dials: dict[int, tuple[_Socket, asyncio.Task[None]]] = {}  # the oldest first
        self._dialler = Dialler(public_only)
        self._listeners: list[Listener] = []
        self._from_one = from_one
        self._log = _LibraryLog(log, {})
        self._all_gone = asyncio.Event()
        self._ending = False

    # -- ports.Transport

    def connect(self, channel: int, protocol: Protocol, address: str) -> None:
        """Dial a ws:// or wss:// address."""
        connection = _Socket(self, protocol, channel)
        task = asyncio.get_running_loop().create_task(self._dial(connection, address))
        if len(self._dials) >= MAX_DIALS:
            oldest = next(channel for channel, (dial, _) in self._dials.items() if dial.protocol is Protocol.LINK)
            dial, dialling = self._dials.pop(oldest)
            dial.report("too many links were being made")
            dialling.cancel()
        self._dials[channel] = connection, task
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
            dial[1].cancel()
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
            The port that was bound (of use where 0 was asked for).

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
        for _, dialling in list(self._dials.values()):
            dialling.cancel()
        self._sockets.clear()
        for connection in list(self._live):
            self._end(connection, WSCloseCode.GOING_AWAY, "shutting down")
        await until_gone(self._live, self._all_gone, self._cut, timeout)

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
        # Firefox says "keep-alive, Upgrade", which the library takes for no upgrade: say it in its words.
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
        return _Socket(self, Protocol.LINK, None)

    @staticmethod
    def _refuse(status: int, text: bytes, headers: dict[str, str]) -> picows.WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_error_response(status, text, headers)
        return picows.WSUpgradeResponseWithListener(response, None)

    async def _dial(self, connection: _Socket, url: str) -> None:
        tcp: socket.socket | None = None

        async def connect(parsed: picows.WSParsedURL) -> socket.socket:
            nonlocal tcp
            tcp = await self._dialler.connect(connection.protocol, parsed.host, parsed.port)
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
                # The library would keep a connection that is given up for HANDSHAKE_TIMEOUT more.
                with suppress(OSError):
                    tcp.shutdown(socket.SHUT_RDWR)

    def _opened(self, connection: _Socket) -> None:
        assert connection.channel is not None
        self._live.add(connection)
        self._sockets[connection.channel] = connection
        self.unsent.note(connection)
        self.channels.opened(connection.channel, connection.protocol, None)

    def _closed(self, channel: int, reason: str) -> None:
        self._sockets.pop(channel, None)
        log.debug("channel %d ended: %s", channel, reason)
        self.channels.closed(channel, reason)

    def _gone(self, connection: _Socket) -> None:
        self._live.discard(connection)
        self.unsent.forget(connection)
        if not self._live:
            self._all_gone.set()

    def _end(self, connection: _Socket, code: WSCloseCode, reason: str) -> None:
        """Our own close: nothing is reported. The peer's CLOSE in answer ends the connection, else the timer does."""
        connection.channel = None
        if connection.ws is not None:
            connection.ws.send_close(code, reason.encode()[:100].decode("utf-8", "ignore").encode())
            self._cut_later(connection)

    def _cut_later(self, connection: _Socket) -> None:
        """A peer that reads nothing keeps what was to be flushed no longer than this."""
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut, connection)

    def _cut(self, connection: _Socket) -> None:
        if connection in self._live and connection.ws is not None:
            connection.ws.disconnect(False)
