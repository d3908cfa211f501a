"""A web server on loopback for the tests of the proxy: http and https, files, an echo over WebSocket.

Does: run aiohttp in a thread of its own; count what it was asked.
Does not: refuse a client anything: which host it was called by does not matter.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from aiohttp import WSMsgType, web

from tests.interop.programs import Authority

LARGE = b"0123456789abcdef" * 65_536 * 10
"""10 MiB, at /large."""


class Website:
    """Serves at the ports `http` and `https` of 127.0.0.1, and `http6` of ::1.

    The certificate is for `host`, which may be a wildcard, and 127.0.0.1.

    Attributes:
        authority: file of the authority's certificate.
        connections: how many clients have connected.
    """

    def __init__(self, folder: Path, host: str) -> None:
        authority = Authority(folder)
        self.authority = authority.file
        self.http = self.https = self.http6 = self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.certificate(host, "127.0.0.1"))
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def port(self, scheme: str) -> int:
        return self.https if scheme == "https" else self.http

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.add_routes(
            [
                web.get("/", _page),
                web.get("/large", _large),
                web.get("/word/{word}", _word),
                web.get("/echo", _echo),
                web.get("/chunks/{count}", _chunks),
                web.get("/to", _redirect),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        assert runner.server is not None
        serve = self._counting(runner.server)
        servers = [
            await self._loop.create_server(serve, host, 0, ssl=context, backlog=1024)
            for host, context in (("127.0.0.1", None), ("127.0.0.1", self._context), ("::1", None))
        ]
        self.http, self.https, self.http6 = (server.sockets[0].getsockname()[1] for server in servers)
        return runner

    def _counting(self, serve: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        def connected() -> asyncio.Protocol:
            self.connections += 1
            return serve()

        return connected


async def _page(request: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>a page</title>", content_type="text/html")


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=LARGE)


async def _chunks(request: web.Request) -> web.StreamResponse:
    """So many MiB, in chunks of one."""
    answer = web.StreamResponse()
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    for _ in range(int(request.match_info["count"])):
        await answer.write(LARGE[: 1 << 20])
    return answer


async def _redirect(request: web.Request) -> web.Response:
    raise web.HTTPFound(request.query["address"])


async def _word(request: web.Request) -> web.Response:
    return web.Response(text=request.match_info["word"])


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    return socket
