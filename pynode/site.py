"""The web site: the page's files, two small JSON documents, and the facilitator's WebSocket.

Does: serve what a build wrote, from an index made at the start (so no request ever becomes a path); headers that
isolate the page and let it load nothing from elsewhere; answer only to its own names; carry facilitator channels
over aiohttp's WebSocket for its own pages and for programs.
Does not: know facilitator records, or encrypt: https is for a proxy before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from convergence.effects import DescriptionKind, Protocol
from convergence.facilitator.registry import MAX_CHANNELS
from pynode.headers import BOOKMARK_PAGE, BOOKMARK_POLICY, HEADERS, TYPES
from pynode.listening import MAX_FROM_ONE, Factory, Listener, counted_as
from pynode.origins import Origins, answers_to, same_site
from pynode.transports import CLOSE_TIMEOUT, HIGH_WATER, LOW_WATER, Channels, printable
from pynode.transports.connection import MAX_MESSAGE
from pynode.transports.control import PONG_ROOM, ControlFrames
from pynode.transports.unsent import Unsent
from pynode.transports.websocket import FACILITATOR_PATH, ORIGIN_TEXT, SEND_CHUNK

MAX_CHANNELS_EACH = 256
"""Of them from one address (IPv6: one /64), so that one machine cannot take all the places. A household shares one."""

REQUEST_WITHIN = 30.0
"""Seconds from a connection's beginning to the end of its first request's header."""

KEEP_ALIVE = 60.0
"""Seconds that a connection may rest between two requests."""

HEARTBEAT = 30.0
"""Seconds between pings; a peer that leaves one unanswered for half as long is dead."""

NAME_TEXT = (
    "This server does not answer to the name that it was asked by. If the name is right, its operator has to say so"
    " with --public NAME or site.hosts.\n"
)

log = logging.getLogger("pynode.site")
http_log = logging.getLogger("pynode.site.http")
http_log.addFilter(
    # A malformed request is a stranger's fault. With a log line for each, anybody could fill the disk.
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
)


class FacilitatorSockets:
    """Implements ports.Transport for the FACILITATOR channels that aiohttp accepts. Set `channels` before use."""

    channels: Channels

    def __init__(self, origins: Origins | None = None, max_channels: int = MAX_CHANNELS) -> None:
        """`origins`: whose pages may connect besides the site's own. More than `max_channels` are answered 503."""
        self._max_channels = max_channels
        self.unsent = Unsent()
        self._origins = origins or Origins(())
        self._open: dict[int, _Channel] = {}
        self._live: set[_Channel] = set()
        self._from: Counter[str] = Counter()  # channels by `counted_as`

    # -- ports.Transport

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        """A facilitator's site dials nobody."""
        self.channels.closed(channel, "this transport only accepts")

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        """Only RTC channels are described."""

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        connection = self._open.get(channel)
        return connection is None or connection.send(buffers)

    def close(self, channel: int, reason: str) -> None:
        """Flush, then close, within CLOSE_TIMEOUT seconds."""
        connection = self._open.pop(channel, None)
        if connection is not None:
            connection.end(WSCloseCode.OK, reason)

    def pause(self, channel: int, paused: bool) -> None:
        """Facilitator channels are never paused: their records are limited by rate."""

    # -- for the application

    def remote(self, channel: int) -> str | None:
        """The address that this channel comes from."""
        connection = self._open.get(channel)
        return None if connection is None else connection.remote

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The aiohttp handler of the facilitator's path."""
        limit = MAX_MESSAGE + 1  # aiohttp refuses a message that is as long as its limit
        ws = web.WebSocketResponse(
            heartbeat=HEARTBEAT, compress=False, max_msg_size=limit, timeout=CLOSE_TIMEOUT, autoping=False
        )
        if not ws.can_prepare(request).ok:
            headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            return web.Response(status=426, text="This address speaks WebSocket only.\n", headers=headers)
        origin = request.headers.get("Origin")
        if not self._origins.allow(origin) and not same_site(origin or "", request.headers.get("Host", "")):
            return web.Response(status=403, text=ORIGIN_TEXT)
        neighbour = counted_as(request.remote)
        if len(self._live) >= self._max_channels or self._from[neighbour] >= MAX_CHANNELS_EACH:
            return web.Response(status=503, text="No room for another connection.\n")
        try:
            await ws.prepare(request)
        except ConnectionError:  # gone already
            return ws
        connection = _Channel(self, ws, request.transport, self.channels.accept(), request.remote)
        self._live.add(connection)
        if neighbour:
            self._from[neighbour] += 1
        self._open[connection.number] = connection
        reason = "connection lost"
        try:
            self.channels.opened(connection.number, Protocol.FACILITATOR, None)
            reason = await connection.read()
        finally:
            self._live.discard(connection)
            self.unsent.forget(connection)
            if neighbour:
                self._from -= Counter([neighbour])
            connection.writer.cancel()
            del connection.writer  # it ends with an error that leads to what it did, and so back to the connection
            if self._open.pop(connection.number, None) is not None:
                log.debug("channel %d ended: %s", connection.number, reason)
                self.channels.closed(connection.number, reason)
        return ws

    async def shutdown(self) -> None:
        """Close every channel and wait, at most CLOSE_TIMEOUT seconds."""
        self._open.clear()
        ending = list(self._live)
        for connection in ending:
            connection.end(WSCloseCode.GOING_AWAY, "shutting down")
        if ending:
            await asyncio.wait([connection.writer for connection in ending], timeout=CLOSE_TIMEOUT)


class _Channel:
    """One accepted WebSocket. Messages to send wait in a queue for its writer task."""

    def __init__(
        self,
        owner: FacilitatorSockets,
        ws: web.WebSocketResponse,
        tcp: asyncio.Transport | None,
        number: int,
        remote: str | None,
    ) -> None:
        self.owner = owner
        self.remote = remote
        self.number = number
        self._ws = ws
        self._tcp = tcp
        self._queue: deque[bytes] = deque()
        self._waiting = 0  # bytes in the queue
        self._congested = False
        self._control = ControlFrames()
        self._closing: tuple[int, bytes] | None = None
        self._wake = asyncio.Event()
        self.writer = asyncio.get_running_loop().create_task(self._write())

    def send(self, buffers: Sequence[bytes]) -> bool:
        for buffer in buffers:
            for start in range(0, len(buffer), SEND_CHUNK):
                self._queue.append(buffer[start : start + SEND_CHUNK])
            self._waiting += len(buffer)
        self._congested = self._waiting > HIGH_WATER
        self._wake.set()
        self.owner.unsent.note(self)
        return not self._congested

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket, in the queue and in the socket's own buffer."""
        closed = self._tcp is None or self._tcp.is_closing()
        return self._waiting + (0 if closed or self._tcp is None else self._tcp.get_write_buffer_size())

    def overfull(self) -> None:
        self._cut()

    def end(self, code: int, reason: str) -> None:
        """From now on, deliver and report nothing."""
        self._closing = (code, reason.encode()[:100].decode("utf-8", "ignore").encode())
        self._wake.set()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut)

    async def read(self) -> str:
        """Deliver messages until the connection ends. Returns why it did."""
        try:
            return await self._read()
        except ConnectionError:  # the answer to a ping finds the peer gone
            return "connection lost"

    async def _read(self) -> str:
        async for message in self._ws:
            if self._closing is not None:
                continue
            if message.type is WSMsgType.BINARY:
                if message.data:
                    self.owner.channels.received(self.number, message.data)
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                if self._control.too_many():
                    self._cut()  # a clean close would have to read on
                    return "too many control frames"
                if message.type is WSMsgType.PING and self.unsent <= PONG_ROOM:
                    await self._ws.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._ws.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"a text message")
                return "a text message"
            elif message.type is WSMsgType.ERROR:
                return printable(str(message.data)) or "connection lost"
        return "closed by the peer" if self._ws.close_code not in (None, 1006) else "connection lost"

    async def _write(self) -> None:
        try:
            while self._closing is None or self._queue:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    data = self._queue.popleft()
                    await self._ws.send_bytes(data)
                    self._waiting -= len(data)
                    if self._congested and self._waiting < LOW_WATER:
                        self._congested = False
                        if self._closing is None:
                            self.owner.channels.drained(self.number)
            code, reason = self._closing
            await self._ws.close(code=code, message=reason)
        except ConnectionError:
            pass  # the reader learns of it, and reports

    def _cut(self) -> None:
        if self in self.owner._live:
            self.writer.cancel()
            if self._tcp is not None:
                self._tcp.abort()


def file_response(path: Path) -> web.FileResponse:
    """A file with its type, an ETag and ranges; or the .br or .gz beside it if the browser accepts that."""
    kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
    return web.FileResponse(path, headers={"Content-Type": kind, "Cache-Control": "no-cache"})


def make_app(
    *,
    files: Path | None,
    name: str,
    identity: bytes,
    sockets: FacilitatorSockets | None = None,
    health: Callable[[], Mapping[str, Any]] = dict,
    stun: Sequence[str] | None = None,
    names: Collection[str] = (),
    origins: Origins | None = None,
) -> web.Application:
    """The site as an aiohttp application.

    Args:
        files: the folder that a build wrote; None for a facilitator without a page. It is read once, now.
        name: what the site calls itself.
        identity: the facilitator's Ed25519 identity, 32 bytes.
        sockets: the transport of the facilitator's driver; None leaves /facilitator out.
        health: JSON-able facts for /status.json, without secrets.
        stun: servers that pages use for WebRTC links; None when they make no such links.
        names: hosts that it answers to besides its address and this machine's own names.
        origins: those of other sites whose pages may use this network. They may also read the files here, as a
            bookmarklet does that was clicked at a mirror.

    Raises:
        FileNotFoundError: `files` holds no index.html.
    """
    index = _index(files) if files is not None else {}
    network: dict[str, Any] = {"site": name, "facilitator": {"identity": identity.hex(), "path": FACILITATOR_PATH}}
    if stun is not None:
        network["rtc"] = {"stun": list(stun)}

    async def file(request: web.Request) -> web.StreamResponse:
        folder, sharp, _ = unquote(request.path).partition("/#")
        # Some programs write "%23", or "%2523", for "#" in a share link: the page mends its address.
        path = index.get(f"{folder}/" if sharp else request.path)
        if path is None or not path.is_file():
            raise web.HTTPNotFound(text="There is nothing here.\n")
        return file_response(path)

    async def network_json(request: web.Request) -> web.StreamResponse:
        return web.json_response(network, headers={"Cache-Control": "no-store"})

    async def status_json(request: web.Request) -> web.StreamResponse:
        return web.json_response(dict(health()), headers={"Cache-Control": "no-store"})

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)
        response.headers["Vary"] = ", ".join([*response.headers.getall("Vary", []), "Origin"])
        asking = request.headers.get("Origin")
        if origins is not None and asking is not None and origins.allow(asking):
            response.headers["Access-Control-Allow-Origin"] = asking
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.path == BOOKMARK_PAGE:
            response.headers["Content-Security-Policy"] = BOOKMARK_POLICY

    @web.middleware
    async def own_names_only(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        local = request.get_extra_info("sockname")
        if not answers_to(request.headers.get("Host", ""), local, names):
            return web.Response(status=421, text=NAME_TEXT)
        return await handler(request)

    app = web.Application(client_max_size=1024, middlewares=[own_names_only])
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/network.json", network_json)
    app.router.add_get("/status.json", status_json)
    if sockets is not None:
        app.router.add_get(FACILITATOR_PATH, sockets.handle, allow_head=False)
    app.router.add_get("/{path:.*}", file)
    return app


class Site:
    """A running site. It takes `from_one` connections from one address at a time."""

    def __init__(
        self, app: web.Application, sockets: FacilitatorSockets | None = None, from_one: int = MAX_FROM_ONE
    ) -> None:
        app.middlewares.insert(0, self._requested)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=http_log,
            handle_signals=False,
            shutdown_timeout=CLOSE_TIMEOUT,
            keepalive_timeout=KEEP_ALIVE,
        )
        self._awaited: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}  # connections without a request so far
        self._from_one = from_one
        self._listener: Listener | None = None
        self._sockets = sockets

    async def start(self, host: str, port: int) -> int:
        """Listen. Returns the port that was bound. Raises OSError when the address is taken or not ours."""
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(self._runner.server, self._from_one, self._connect)
        return await self._listener.start(host, port)

    async def _connect(self, loop: asyncio.AbstractEventLoop, factory: Factory, connection: socket.socket) -> None:
        transport, _ = await loop.connect_accepted_socket(factory, connection)
        self._awaited[transport] = loop.call_later(REQUEST_WITHIN, self._cut, transport)

    def _cut(self, transport: asyncio.WriteTransport) -> None:
        """No request came, or not all of it: such a connection would take a descriptor for good."""
        del self._awaited[transport]
        transport.abort()

    @web.middleware
    async def _requested(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        timer = None if request.transport is None else self._awaited.pop(request.transport, None)
        if timer is not None:
            timer.cancel()
        return await handler(request)

    def end_listening(self) -> None:
        """Take no more connections."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Stop listening, close every connection, in bounded time."""
        self.end_listening()
        for timer in self._awaited.values():
            timer.cancel()
        self._awaited.clear()
        if self._sockets is not None:
            await self._sockets.shutdown()
        await self._runner.cleanup()


def _index(folder: Path) -> dict[str, Path]:
    """URL path -> file, for every plain file below `folder`; links are left out, because they might lead elsewhere."""
    index: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(parent, name).is_symlink()]
        for name in names:
            path = Path(parent, name)
            packed_twin = path.suffix in (".br", ".gz") and path.with_suffix("").name in names
            if path.is_file() and not path.is_symlink() and not packed_twin:
                url = "/" + path.relative_to(folder).as_posix()
                index[url] = path
                if name == "index.html":
                    index[url.removesuffix("index.html")] = path
    if "/" not in index:
        raise FileNotFoundError(f"{folder} holds no index.html: build the site first")
    return index
