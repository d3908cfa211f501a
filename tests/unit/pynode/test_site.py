"""The site over real sockets: files, headers, JSON, and facilitator channels."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import logging
import os
import socket
import struct
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import brotli
import pytest
from aiohttp import web

from convergence.effects import DescriptionKind, Protocol
from pynode import site as module
from pynode.origins import Origins
from pynode.site import BOOKMARK_POLICY, HEADERS, FacilitatorSockets, Site, make_app
from pynode.transports.connection import MAX_MESSAGE
from pynode.transports.control import MAX_CONTROL
from pynode.transports.unsent import Unsent
from pynode.transports.websocket import ORIGIN_TEXT, WebSocketTransport
from tests.unit.pynode.toy import attach, run

ROOT = Path(__file__).parents[3]
IDENTITY = bytes(range(32))
PING = b"\x89\x80" + bytes(4)
UPGRADE = (
    *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "py").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    for name in ("index.html", "app.mjs", "worker.js", "core.wasm", "a.css", "py/app.whl", "noending", "x.JSON"):
        (folder / name).write_text(f"this is {name}")
    (folder / "app.mjs.gz").write_bytes(gzip.compress(b"packed", mtime=0))
    (folder / "a.css.br").write_bytes(brotli.compress(b"packed"))
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up").symlink_to(tmp_path)
    return folder


async def serving(files: Path | None = None, *, origins: Origins | None = None, **options: Any) -> SimpleNamespace:
    sockets = FacilitatorSockets(origins)
    toy = attach(sockets)
    app = make_app(files=files, name="Test", identity=IDENTITY, sockets=sockets, origins=origins, **options)
    site = Site(app, sockets)
    port = await site.start("127.0.0.1", 0)
    return SimpleNamespace(site=site, toy=toy, port=port, sockets=sockets, url=f"ws://127.0.0.1:{port}/facilitator")


async def get(port: int, target: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """A request whose path is sent as it is, dots and all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    host = [] if any(line.startswith("Host:") for line in headers) else [f"Host: localhost:{port}"]
    lines = [f"{method} {target} HTTP/1.1", *host, *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
        first, *rest = head.split("\r\n")
        answered = {k.lower(): v for k, v in (line.split(": ", 1) for line in rest)}
        body = b"" if method == "HEAD" else await reader.readexactly(int(answered.get("content-length", 0)))
    writer.close()
    return int(first.split(" ")[1]), answered, body


@pytest.mark.parametrize("part", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_a_connection_without_a_request_ends(dist: Path, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        server = await serving(dist)
        asked, asking = await asyncio.open_connection("127.0.0.1", server.port)
        asking.write(f"GET /app.mjs HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        await asked.readuntil(b"\r\n\r\n")
        await asked.readexactly(len(b"this is app.mjs"))
        monkeypatch.setattr(module, "REQUEST_WITHIN", 0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(part)
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        asking.write(f"HEAD / HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        assert await asked.readuntil(b"\r\n\r\n"), "one that has asked goes on"
        for each in (writer, asking):
            each.close()
        await server.site.close()

    run(test)


def test_files_have_their_types_and_headers(dist: Path) -> None:
    async def test() -> None:
        server = await serving(dist)
        for target, name, kind in [
            ("/", "index.html", "text/html; charset=utf-8"),
            ("/?x=1", "index.html", "text/html; charset=utf-8"),
            ("/index.html", "index.html", "text/html; charset=utf-8"),
            ("/app.mjs", "app.mjs", "text/javascript; charset=utf-8"),
            ("/worker.js", "worker.js", "text/javascript; charset=utf-8"),
            ("/core.wasm", "core.wasm", "application/wasm"),
            ("/a.css", "a.css", "text/css; charset=utf-8"),
            ("/py/app.whl", "py/app.whl", "application/octet-stream"),
            ("/noending", "noending", "application/octet-stream"),
            ("/x.JSON", "x.JSON", "application/json"),
        ]:
            status, headers, body = await get(server.port, target)
            assert (status, headers["content-type"], body) == (200, kind, f"this is {name}".encode())
            assert headers["cache-control"] == "no-cache" and headers["etag"]
            for header, value in HEADERS.items():
                assert headers[header.lower()] == value
        await server.site.close()

    run(test)


def test_the_page_is_isolated_and_loads_nothing_from_elsewhere() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert policy["connect-src"] == "'self' ws: wss:" and policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'" and policy["trusted-types"] == "convergence"
    assert not any("unsafe-inline" in part or "http" in part or "*" in part for part in policy.values())
    assert HEADERS["Cross-Origin-Opener-Policy"] == "same-origin"
    assert HEADERS["Cross-Origin-Embedder-Policy"] == "require-corp"
    switched_off = HEADERS["Permissions-Policy"].split(", ")
    assert {"camera=()", "microphone=()", "geolocation=()", "usb=()"} <= set(switched_off)
    assert not any("clipboard" in feature for feature in switched_off)
    assert HEADERS["Server"] == "Convergence"


def test_the_page_for_bookmarks_lets_nothing_in_but_what_is_put_in_its_place(tmp_path: Path) -> None:
    page = (ROOT / "web" / "open.html").read_text(encoding="utf-8")
    assert "<script" not in page and " src=" not in page
    assert page.count(" href=") == page.count(' href="data:,"') == 1
    for name in ("index.html", "open.html"):
        (tmp_path / name).write_text(page)

    async def test() -> None:
        server = await serving(tmp_path)
        for target, policy in (("/open.html", BOOKMARK_POLICY), ("/", HEADERS["Content-Security-Policy"])):
            _, headers, _ = await get(server.port, target)
            expected = HEADERS | {"Content-Security-Policy": policy}
            assert {name: headers[name.lower()] for name in HEADERS} == expected
        await server.site.close()

    run(test)


def test_unchanged_files_packed_twins_and_ranges(dist: Path) -> None:
    async def test() -> None:
        server = await serving(dist)
        _, headers, _ = await get(server.port, "/app.mjs")
        status, _, body = await get(server.port, "/app.mjs", f"If-None-Match: {headers['etag']}")
        assert (status, body) == (304, b"")
        status, headers, body = await get(server.port, "/app.mjs", "Accept-Encoding: gzip, br")
        assert headers["content-encoding"] == "gzip" and gzip.decompress(body) == b"packed"
        assert headers["content-type"] == "text/javascript; charset=utf-8"
        assert "accept-encoding" in headers["vary"].lower()
        status, headers, body = await get(server.port, "/a.css", "Accept-Encoding: gzip, deflate, br")
        assert headers["content-encoding"] == "br" and brotli.decompress(body) == b"packed"
        assert headers["content-type"] == "text/css; charset=utf-8"
        status, _, body = await get(server.port, "/app.mjs", "Range: bytes=0-3")
        assert (status, body) == (206, b"this")
        status, headers, body = await get(server.port, "/app.mjs", method="HEAD")
        assert (status, headers["content-length"], body) == (200, "15", b"")
        await server.site.close()

    run(test)


MIRROR = "https://mirror.example"


@pytest.mark.parametrize(
    ("origins", "asking", "readable"),
    [
        (None, MIRROR, False),
        (Origins([]), MIRROR, False),
        (Origins([]), "http://127.0.0.1:8080", True),
        (Origins([MIRROR]), MIRROR, True),
        (Origins(["*"]), MIRROR, True),
        (Origins([MIRROR]), "https://other.example", False),
        (Origins([MIRROR]), "null", False),
        (Origins(["*"]), None, False),
    ],
)
def test_pages_that_may_use_the_network_may_read_the_site(
    dist: Path, origins: Origins | None, asking: str | None, readable: bool
) -> None:
    async def test() -> None:
        server = await serving(dist, origins=origins)
        for target in ("/network.json", "/worker.js", "/core.wasm"):
            _, headers, _ = await get(server.port, target, *([f"Origin: {asking}"] if asking else []))
            assert headers.get("access-control-allow-origin") == (asking if readable else None)
            assert headers["cross-origin-resource-policy"] == ("cross-origin" if readable else "same-origin")
            assert "origin" in headers["vary"].lower().split(", ")
        await server.site.close()

    run(test)


NOWHERE = [
    *("/nothing", "/py", "/py/", "/link.txt", "/up/secret.txt", "/app.mjs.gz", "//secret.txt", "/%00"),
    *("/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/py/../../secret.txt", "/\\secret.txt"),
    *("/py/%2e%2e/%2e%2e/secret.txt", "/..\\secret.txt", "/index.html/../../secret.txt", "/%252e%252e/secret.txt"),
    *("/./../secret.txt", "/\u202e"),
]


@pytest.mark.parametrize("target", NOWHERE)
def test_no_request_leads_out_of_the_folder(dist: Path, target: str) -> None:
    async def test() -> None:
        server = await serving(dist)
        status, headers, body = await get(server.port, target)
        assert status in (400, 404) and b"secret" not in body.replace(target.encode(), b"")
        await server.site.close()

    run(test)


@pytest.mark.parametrize("sharp", ["%23", "%2523"])
def test_a_share_link_whose_sharp_was_escaped_brings_the_page(dist: Path, sharp: str) -> None:
    async def test() -> None:
        server = await serving(dist)
        page = await get(server.port, "/")
        given = await get(server.port, f"/{sharp}{'a' * 43}.{'b' * 43}")
        assert given[0] == 200 and given[2] == page[2]
        assert (await get(server.port, f"/app.mjs{sharp}x"))[0] == 404
        await server.site.close()

    run(test)


def test_a_folder_without_a_page_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="build the site first"):
        make_app(files=tmp_path, name="x", identity=IDENTITY)


def test_json_documents_and_other_methods() -> None:
    async def test() -> None:
        server = await serving(health=lambda: {"nodes": 5})
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
            async with client.get("/network.json") as answer:
                facilitator = {"identity": IDENTITY.hex(), "path": "/facilitator"}
                assert await answer.json() == {"site": "Test", "facilitator": facilitator}
                assert answer.headers["Cache-Control"] == "no-store" and "Cross-Origin-Opener-Policy" in answer.headers
            async with client.get("/status.json") as answer:
                assert await answer.json() == {"nodes": 5}
            async with client.get("/") as answer:
                assert answer.status == 404 and "Content-Security-Policy" in answer.headers
            async with client.post("/network.json") as answer:
                assert answer.status == 405
            async with client.get("/facilitator") as answer:
                assert answer.status == 426
        await server.site.close()

    run(test)


@pytest.mark.parametrize("stun", [(), ("stun:a", "stun:b:1")])
def test_pages_are_told_to_make_webrtc_links(stun: tuple[str, ...]) -> None:
    async def test() -> None:
        server = await serving(stun=stun)
        _, _, body = await get(server.port, "/network.json")
        assert json.loads(body)["rtc"] == {"stun": list(stun)}
        server.sockets.describe(1, DescriptionKind.OFFER, "")  # not for this transport
        await server.site.close()

    run(test)


async def dialled(server: SimpleNamespace) -> SimpleNamespace:
    transport = WebSocketTransport()
    client = attach(transport)
    client.connect(1, server.url, Protocol.FACILITATOR)
    await client.first("opened")
    assert await server.toy.first("opened") == ("opened", 2, Protocol.FACILITATOR)
    return SimpleNamespace(toy=client, transport=transport)


def test_facilitator_channels_both_ways() -> None:
    async def test() -> None:
        server = await serving()
        client = await dialled(server)
        data = os.urandom(500_000)
        client.toy.send(1, data)
        await server.toy.until(lambda: len(server.toy.received.get(2, b"")) == len(data))
        assert server.toy.received[2] == data
        server.toy.send(2, data, b"", b"end")
        await client.toy.until(lambda: len(client.toy.received.get(1, b"")) == len(data) + 3)
        assert client.toy.received[1] == data + b"end"
        client.toy.close(1, "bye")
        assert await server.toy.first("closed") == ("closed", 2, "closed by the peer")
        server.toy.send(2, b"late")
        await client.transport.shutdown()
        await server.site.close()

    run(test)


def test_facilitator_closes_after_flushing() -> None:
    async def test() -> None:
        server = await serving()
        client = await dialled(server)
        server.toy.send(2, bytes(300_000))
        server.toy.close(2, "that is all")
        assert await client.toy.first("closed") == ("closed", 1, "closed by the peer: that is all")
        assert len(client.toy.received[1]) == 300_000 and not server.toy.of("closed")
        await client.transport.shutdown()
        await server.site.close()

    run(test)


def test_facilitator_congestion_and_a_peer_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.1)

    async def test() -> None:
        server = await serving()
        client = await dialled(server)
        client.transport.pause(1, True)
        while not server.toy.of("congested"):
            server.toy.send(2, bytes(65536))
        client.transport.pause(1, False)
        await server.toy.until(lambda: ("congested", 2, False) in server.toy.log)
        client.transport.pause(1, True)
        while server.sockets.send(2, [bytes(1 << 20)]):
            await asyncio.sleep(0)
        server.toy.close(2)
        await server.site.close()  # in bounded time
        assert not server.sockets._live
        await client.transport.shutdown(0)

    run(test)


def test_facilitator_garbage() -> None:
    async def test() -> None:
        server = await serving()
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(server.url) as ws:
                await ws.send_str("hello")
                closing = await ws.receive()
                assert (closing.data, closing.extra) == (1003, "a text message")
            assert await server.toy.first("closed") == ("closed", 2, "a text message")
            async with client.ws_connect(server.url) as ws:
                await ws.send_bytes(bytes(MAX_MESSAGE + 1))
                assert (await ws.receive()).data == 1009
            await server.toy.until(lambda: len(server.toy.of("closed")) == 2)
            async with client.ws_connect(server.url) as ws:
                await ws.send_bytes(bytes(MAX_MESSAGE))
                await server.toy.until(lambda: len(server.toy.received.get(6, b"")) == MAX_MESSAGE)
                ws._response.connection.transport.abort()  # type: ignore[union-attr]
            await server.toy.until(lambda: len(server.toy.of("closed")) == 3)
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 20000 + b"\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(garbage)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 20)
            writer.close()
        await dialled(server)
        await server.site.close()

    run(test)


def test_a_connection_that_has_ended_goes_at_once() -> None:
    """However many come and go, it does not wait for a collection of garbage."""

    async def test() -> None:
        server = await serving()
        gc.disable()
        async with aiohttp.ClientSession() as client:
            ws = await client.ws_connect(server.url)
            await server.toy.first("opened")
            [seen] = [weakref.ref(connection) for connection in server.sockets._live]
            await ws.close()
            await server.toy.first("closed")
            async with asyncio.timeout(20):
                while seen() is not None:
                    await asyncio.sleep(0)
        await server.site.close()

    try:
        run(test)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:PORT", 200),
        ("127.0.0.1:PORT", 200),
        ("[::1]:PORT", 200),
        ("site.example", 200),
        ("localhost:1", 421),
        ("evil.example:PORT", 421),
        ("127.0.0.1.evil.example:PORT", 421),
        ("", 421),
    ],
)
def test_only_own_names_are_answered_to(dist: Path, host: str, status: int) -> None:
    async def test() -> None:
        server = await serving(dist, names=["site.example"])
        for target in ("/", "/network.json", "/status.json"):
            got, headers, body = await get(server.port, target, f"Host: {host.replace('PORT', str(server.port))}")
            assert got == status and "content-security-policy" in headers
            assert (body == module.NAME_TEXT.encode()) == (status == 421)
        got, _, _ = await get(server.port, "/facilitator", f"Host: {host.replace('PORT', str(server.port))}", *UPGRADE)
        assert got == (101 if status == 200 else 421)
        await server.site.close()

    run(test)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:PORT", None, 101),
        ("localhost:PORT", "http://localhost:PORT", 101),
        ("127.0.0.1:PORT", "http://localhost:PORT", 101),
        ("localhost:PORT", "http://127.0.0.1:PORT", 101),
        ("site.example", "https://site.example", 101),
        ("site.example", "https://mirror.example", 101),
        ("site.example", "http://localhost:1", 101),
        ("localhost:PORT", "https://evil.example", 403),
        ("site.example", "https://evil.site.example", 403),
        ("site.example", "null", 403),
    ],
)
def test_pages_of_strangers_get_no_facilitator_channel(host: str, origin: str | None, status: int) -> None:
    async def test() -> None:
        server = await serving(names=["site.example"], origins=Origins(["https://mirror.example"]))
        lines = [f"Host: {host}", *([f"Origin: {origin}"] if origin else [])]
        lines = [line.replace("PORT", str(server.port)) for line in lines]
        got, _, body = await get(server.port, "/facilitator", *lines, *UPGRADE)
        assert got == status and (status == 101 or body == ORIGIN_TEXT.encode())
        await server.site.close()

    run(test)


def test_peers_that_vanish_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        server = await serving()
        for data in (b"", PING, PING * 100):
            for _ in range(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                lines = ["GET /facilitator HTTP/1.1", f"Host: localhost:{server.port}", *UPGRADE]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                await asyncio.sleep(0)  # the data leaves before the reset
                writer.transport.abort()
        client = attach(WebSocketTransport())
        client.connect(1, server.url, Protocol.FACILITATOR)  # what came before it has been seen by now
        await client.first("opened")
        await server.toy.until(lambda: len(server.toy.of("closed")) == len(server.toy.of("opened")) - 1)
        await server.site.close()

    with caplog.at_level(logging.DEBUG):
        run(test)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("moment", ["prepare", "pong"])
def test_a_peer_that_vanishes_at_the_worst_moment_is_no_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    async def gone(*_: Any) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    async def test() -> None:
        server = await serving()
        with monkeypatch.context() as patched:
            patched.setattr(web.WebSocketResponse, moment, gone)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            lines = ["GET /facilitator HTTP/1.1", f"Host: localhost:{server.port}", *UPGRADE]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + PING)
            await asyncio.wait_for(reader.read(), 20)
            writer.close()
        assert len(server.toy.of("opened")) == len(server.toy.of("closed")) == (moment == "pong")
        await server.site.close()

    with caplog.at_level(logging.DEBUG):
        run(test)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_flood_of_pings_ends_the_channel() -> None:
    async def test() -> None:
        server = await serving()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        lines = ["GET /facilitator HTTP/1.1", f"Host: localhost:{server.port}", *UPGRADE]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + PING * MAX_CONTROL)
        answers = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert answers.startswith(b"HTTP/1.1 101") and not server.toy.of("closed")
        writer.write(PING)
        assert await server.toy.first("closed") == ("closed", 2, "too many control frames")
        await server.site.close()

    run(test)


def test_a_channel_that_is_not_read_holds_no_more_than_the_limit() -> None:
    async def test() -> None:
        server = await serving()
        server.sockets.unsent = Unsent(limit=2 << 20)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
        lines = ["GET /facilitator HTTP/1.1", f"Host: localhost:{server.port}", *UPGRADE]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await server.toy.first("opened")
        while not server.toy.of("closed"):
            server.toy.send(2, bytes(65536))
            assert sum(channel.unsent for channel in server.sockets._open.values()) <= 3 << 20
            await asyncio.sleep(0)
        assert server.toy.of("congested")
        await server.site.close()
        writer.close()

    run(test)


def test_a_full_facilitator_says_so() -> None:
    async def test() -> None:
        server = await serving()
        server.sockets._max_channels = 0
        client = attach(WebSocketTransport())
        client.connect(1, server.url, Protocol.FACILITATOR)
        assert await client.first("closed") == ("closed", 1, "not a WebSocket server (HTTP 503)")
        server.toy.connect(1, "ws://127.0.0.1/", Protocol.FACILITATOR)
        assert await server.toy.first("closed") == ("closed", 1, "this transport only accepts")
        await server.site.close()

    run(test)


def test_one_address_does_not_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHANNELS_EACH", 2)
    monkeypatch.setattr(module, "counted_as", lambda remote: "192.0.2.1/32")

    async def test() -> None:
        server = await serving()
        transport = WebSocketTransport()
        client = attach(transport)
        for channel in (1, 3):
            client.connect(channel, server.url, Protocol.FACILITATOR)
            await client.until(lambda channel=channel: ("opened", channel, Protocol.FACILITATOR) in client.log)
        client.connect(5, server.url, Protocol.FACILITATOR)
        assert await client.first("closed") == ("closed", 5, "not a WebSocket server (HTTP 503)")
        transport.close(1, "done")
        await server.toy.first("closed")
        client.connect(7, server.url, Protocol.FACILITATOR)
        await client.until(lambda: ("opened", 7, Protocol.FACILITATOR) in client.log)
        await transport.shutdown(0.2)
        await server.site.close()

    run(test)


@pytest.mark.parametrize(
    ("remote", "counted"),
    [
        ("192.0.2.9", "192.0.2.9/32"),
        ("::ffff:192.0.2.9", "192.0.2.9/32"),
        ("2001:db8:0:1::5", "2001:db8:0:1::/64"),
        ("127.0.0.1", ""),
        ("::1", ""),
        (None, ""),
    ],
)
def test_what_an_address_is_counted_as(remote: str | None, counted: str) -> None:
    assert module.counted_as(remote) == counted


def test_closing_the_site_tells_the_peers() -> None:
    async def test() -> None:
        server = await serving()
        client = await dialled(server)
        await server.site.close()
        assert await client.toy.first("closed") == ("closed", 1, "closed by the peer: shutting down")
        assert not server.toy.of("closed")
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", server.port)

    run(test)
