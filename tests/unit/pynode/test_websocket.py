"""WebSocket channels over real sockets on the loopback."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from convergence.effects import Connect, Protocol
from pynode.origins import Origins
from pynode.transports import HIGH_WATER, dialling
from pynode.transports import websocket as module
from pynode.transports.connection import MAX_MESSAGE
from pynode.transports.dialling import connect_reason
from pynode.transports.websocket import WebSocketTransport
from tests.unit.pynode.resolver import Resolver
from tests.unit.pynode.resolver import resolver as resolver
from tests.unit.pynode.toy import attach

LIBRARY = ("exceeding", "opcode", "un-masked")
CELL = bytes(range(256)) * 2 + b"\x01\x02"
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: %b\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def listening(origins: Origins | None = None) -> SimpleNamespace:
    transport = WebSocketTransport(origins=origins)
    toy = attach(transport)
    port = await transport.listen("127.0.0.1", 0)
    return SimpleNamespace(transport=transport, toy=toy, port=port, url=f"ws://127.0.0.1:{port}/")


async def pair(protocol: Protocol = Protocol.LINK) -> SimpleNamespace:
    server = await listening()
    transport = WebSocketTransport()
    client = attach(transport)
    client.connect(1, server.url, protocol)
    await client.first("opened")
    await server.toy.first("opened")
    return SimpleNamespace(client=client, server=server.toy, transport=transport, listener=server.transport)


async def end(*transports: WebSocketTransport) -> None:
    for transport in transports:
        await transport.shutdown(0.2)
        assert transport.connections == 0


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    def runner(test: Callable[[], Awaitable[None]]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(test())  # type: ignore[arg-type]

    return runner


def frame(opcode: int, payload: bytes, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, bit | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(payload))
    return head + (bytes(4) if masked else b"") + payload


class Raw:
    """A hand-made client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, path: bytes = b"/", connection: bytes = b"Upgrade") -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        raw.writer.write(UPGRADE % (path, connection))
        assert (await raw.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        return raw

    async def rest(self) -> bytes:
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


def test_messages_arrive_in_order_both_ways(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        sent = [CELL, os.urandom(65278), CELL * 3]
        both.client.send(1, *sent)
        await both.server.until(lambda: len(both.server.received.get(2, b"")) >= sum(map(len, sent)))
        assert both.server.received[2] == b"".join(sent)
        both.server.send(2, *sent)
        await both.client.until(lambda: len(both.client.received.get(1, b"")) >= sum(map(len, sent)))
        assert both.client.received[1] == b"".join(sent)
        assert both.client.of("opened") == [("opened", 1, Protocol.LINK)]
        assert both.server.of("opened") == [("opened", 2, Protocol.LINK)]
        await end(both.transport, both.listener)

    run(test)


def test_long_buffers_of_facilitator_channels_are_cut(run: Any) -> None:
    async def test() -> None:
        both = await pair(Protocol.FACILITATOR)
        data = os.urandom(300_000)
        both.client.send(1, data)
        await both.server.until(lambda: len(both.server.received.get(2, b"")) >= len(data))
        assert both.server.received[2] == data
        await end(both.transport, both.listener)

    run(test)


def test_close_flushes_and_tells_only_the_other_side(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.client.send(1, *[os.urandom(65278) for _ in range(40)])
        both.client.close(1, "done here")
        assert await both.server.first("closed") == ("closed", 2, "closed by the peer: done here")
        assert len(both.server.received[2]) == 40 * 65278
        assert not both.client.of("closed")
        both.client.send(1, CELL)  # too late: ignored
        await end(both.transport, both.listener)

    run(test)


def test_close_while_dialling_opens_nothing(run: Any) -> None:
    async def test() -> None:
        server = await listening()
        transport = WebSocketTransport()
        client = attach(transport)
        client.connect(1, server.url)
        client.close(1)
        client.connect(3, server.url)
        await client.until(lambda: client.of("opened"))
        assert client.of("opened") == [("opened", 3, Protocol.LINK)] and not client.of("closed")
        await end(transport, server.transport)

    run(test)


def test_congestion_is_reported_and_ends(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.listener.pause(2, True)
        while not both.client.of("congested"):
            both.client.send(1, bytes(65278))
        assert both.client.of("congested")[0] == ("congested", 1, True)
        size = len(both.client.log)
        both.listener.pause(2, False)
        await both.client.until(lambda: ("congested", 1, False) in both.client.log[size:])
        await end(both.transport, both.listener)

    run(test)


def test_unsent_bytes_are_what_high_water_counts(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.listener.pause(2, True)
        sent = 0
        while both.transport.send(1, [bytes(65278)]):
            sent += 65278
            assert sent < HIGH_WATER + (64 << 20)  # the kernel's own buffers are bounded
        waiting = both.transport._sockets[1].ws.underlying_transport.get_write_buffer_size()
        assert HIGH_WATER < waiting <= HIGH_WATER + 65278 + 14
        await end(both.transport, both.listener)

    run(test)


def test_stream_cut_anywhere(run: Any) -> None:
    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)
        stream = frame(2, CELL) + frame(9, b"are you there") + frame(2, CELL[:100]) + frame(2, b"") + frame(2, CELL)
        for index in range(len(stream)):
            raw.writer.write(stream[index : index + 1])
            await raw.writer.drain()
        expected = CELL + CELL[:100] + CELL
        await server.toy.until(lambda: server.toy.received.get(2) == expected)
        assert await raw.reader.readexactly(15) == b"\x8a\x0d" + b"are you there"
        raw.writer.close()
        assert await server.toy.first("closed") == ("closed", 2, "connection lost")
        await end(server.transport)

    run(test)


def test_messages_that_are_buffered_come_joined_even_before_a_ping(run: Any) -> None:
    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)
        raw.writer.write(frame(2, b"one") + frame(2, b"two") + frame(9, b"") + frame(10, b""))
        await server.toy.until(lambda: server.toy.received.get(2) == b"onetwo")
        assert server.toy.messages == [b"onetwo"]
        await end(server.transport)

    run(test)


def test_fragments_make_one_message(run: Any) -> None:
    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)
        raw.writer.write(frame(2, b"ab", fin=False) + frame(0, b"", fin=False) + frame(9, b"") + frame(0, b"cd"))
        await server.toy.until(lambda: server.toy.received.get(2) == b"abcd")
        await end(server.transport)

    run(test)


@pytest.mark.parametrize("connection", [b"Upgrade", b"keep-alive, Upgrade", b"upgrade"])
def test_upgrades_as_browsers_ask_for_them(run: Any, connection: bytes) -> None:
    async def test() -> None:
        server = await listening()
        await Raw.open(server.port, b"/anything", connection)
        await server.toy.first("opened")
        await end(server.transport)

    run(test)


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        (None, b"HTTP/1.1 101"),
        (b"http://localhost:8000", b"HTTP/1.1 101"),
        (b"http://127.0.0.1:8000", b"HTTP/1.1 101"),
        (b"https://mirror.example", b"HTTP/1.1 101"),
        (b"http://192.0.2.1:8000", b"HTTP/1.1 403"),
        (b"http://evil.example:8000", b"HTTP/1.1 403"),
        (b"null", b"HTTP/1.1 403"),
    ],
)
def test_pages_of_strangers_are_refused(run: Any, origin: bytes | None, answer: bytes) -> None:
    async def test() -> None:
        server = await listening(Origins(["http://127.0.0.1:8000/", "https://mirror.example"]))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        line = b"" if origin is None else b"Origin: %b\r\n" % origin
        writer.write((UPGRADE % (b"/", b"Upgrade")).replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n"))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(answer)
        if b"403" in answer:
            assert await Raw(reader, writer).rest() == module.ORIGIN_TEXT.encode()
        assert bool(server.toy.of("opened")) == (b"101" in answer)
        await end(server.transport)

    run(test)


@pytest.mark.parametrize(
    ("stream", "code", "reason"),
    [
        (frame(1, b"hello"), 1003, "a text message"),
        (frame(2, bytes(MAX_MESSAGE + 1)), 1009, "exceeding"),
        (frame(2, bytes(60000), fin=False) + frame(0, bytes(60000)), 1009, "longer than"),
        (frame(0, b"x"), 1002, "out of order"),
        (frame(2, b"x", fin=False) + frame(2, b"y"), 1002, "out of order"),
        (frame(2, b"x", rsv=4), 1002, "reserved"),
        (frame(3, b"x"), 1002, "opcode"),
        (frame(2, b"x", masked=False), 1002, "un-masked"),
    ],
)
def test_what_breaks_the_rules_is_closed_with_a_reason(run: Any, stream: bytes, code: int, reason: str) -> None:
    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)
        raw.writer.write(frame(2, b"before") + stream)
        closed = await server.toy.first("closed")
        assert closed[:2] == ("closed", 2) and reason in closed[2]
        rest = await raw.rest()
        assert not rest or rest[2:4] == struct.pack("!H", code)
        # What the library finds to be no frame takes with it what came in the same read.
        assert server.toy.received.get(2, b"") == (b"" if reason in LIBRARY else b"before")
        await end(server.transport)

    run(test)


def test_the_longest_message_is_taken(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.client.send(1, bytes(MAX_MESSAGE))
        await both.server.until(lambda: len(both.server.received.get(2, b"")) == MAX_MESSAGE)
        await end(both.transport, both.listener)

    run(test)


@pytest.mark.parametrize(
    ("garbage", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426"),
        (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x00" * 40000, b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n", b"HTTP/1.1 400"),
        ((UPGRADE % (b"/", b"Upgrade")).replace(b"13", b"\xff9"), b"HTTP/1.1 426"),
        ((UPGRADE % (b"/", b"close")), b"HTTP/1.1 426"),
        ((UPGRADE % (b"/", b"Upgrade")).replace(b"AAAA==", b"\xff"), b"HTTP/1.1 400"),
    ],
)
def test_garbage_is_refused_and_nothing_else_notices(
    run: Any, garbage: bytes, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        server = await listening()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(garbage)
        rest = await Raw(reader, writer).rest()
        assert rest.startswith(answer)
        both = attach(WebSocketTransport())
        both.connect(1, server.url)  # still alive
        await both.first("opened")
        assert len(server.toy.of("opened")) == 1 or await server.toy.first("opened")
        await end(server.transport)

    with caplog.at_level(logging.DEBUG):
        run(test)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_half_open_connections_are_ended(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT", 0.05)

    async def test() -> None:
        server = await listening()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"\x16\x03\x01")
        assert await Raw(reader, writer).rest() == b""
        await end(server.transport)

    run(test)


def test_a_full_node_says_so(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.listener._max_connections = 1
        port = both.listener._listeners[0].sockets[0].getsockname()[1]
        late = attach(WebSocketTransport())
        late.connect(1, f"ws://127.0.0.1:{port}/")
        assert await late.first("closed") == ("closed", 1, "not a WebSocket server (HTTP 503)")
        await end(both.transport, both.listener)

    run(test)


def test_a_dead_peer_is_found_by_ping(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_IDLE", 0.05)
    monkeypatch.setattr(module, "PING_REPLY", 0.05)

    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)  # never answers
        closed = await server.toy.first("closed")
        assert "ping" in closed[2]
        assert (await raw.rest()).startswith(b"\x89\x00")
        await end(server.transport)

    run(test)


def test_a_peer_that_answers_pings_stays(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_IDLE", 0.05)
    monkeypatch.setattr(module, "PING_REPLY", 0.05)

    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)
        for answer in (frame(10, b""), frame(10, b"unasked"), frame(2, b"any sign of life"), frame(10, b"")):
            assert await asyncio.wait_for(raw.reader.readexactly(2), 20) == b"\x89\x00"
            raw.writer.write(answer)
        assert await asyncio.wait_for(raw.reader.readexactly(2), 20) == b"\x89\x00"
        assert not server.toy.of("closed")
        await end(server.transport)

    run(test)


def test_connect_errors_are_clear(run: Any) -> None:
    async def test() -> None:
        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            writer.close()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\x00" * 20000)

        free = socket.create_server(("127.0.0.1", 0))
        closed_port = free.getsockname()[1]
        free.close()
        servers = [await asyncio.start_server(call, "127.0.0.1", 0) for call in (web, hang_up, babble)]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        cases = {
            f"ws://127.0.0.1:{closed_port}/": "connection refused",
            f"ws://127.0.0.1:{ports[0]}/": "not a WebSocket server (HTTP 200)",
            f"ws://127.0.0.1:{ports[1]}/": "not a WebSocket server: it closed the connection",
            f"ws://127.0.0.1:{ports[2]}/": "not a WebSocket server",
            f"wss://127.0.0.1:{ports[2]}/": "TLS failed",
            "http://127.0.0.1/": "not a WebSocket address",
            "ws://": "not a WebSocket address",
            "ws://127.0.0.1:99999999/": "not a WebSocket address",
            "ws://a b/\r\nX: y": "not a WebSocket address",
        }
        client = attach(WebSocketTransport())
        for channel, (url, _) in enumerate(cases.items()):
            client.connect(channel, url)
        await client.until(lambda: len(client.of("closed")) == len(cases))
        reasons = {channel: reason for _, channel, reason in client.of("closed")}
        assert [reasons[channel] for channel in range(len(cases))] == list(cases.values())
        assert not client.of("opened")
        for server in servers:
            server.close()

    run(test)


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2100, 1, 1))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.PKCS8
    pem += key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def test_wss_wants_a_certificate_that_is_trusted(run: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self_signed(tmp_path))
        client = attach(WebSocketTransport())
        client.connect(1, f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        assert (await client.first("closed"))[2].startswith("certificate not trusted: self")
        server.close()

    run(test)


def test_a_server_that_never_answers_times_out(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.1)

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            client = attach(WebSocketTransport())
            client.connect(1, f"ws://127.0.0.1:{mute.getsockname()[1]}/")
            assert await client.first("closed") == ("closed", 1, "timed out")

    run(test)


def test_a_dial_that_is_given_up_leaves_no_socket(run: Any) -> None:
    async def test() -> None:
        silent: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            silent.put_nowait(reader)

        mute = await asyncio.start_server(accept, "127.0.0.1", 0)
        transport = WebSocketTransport()
        client = attach(transport)
        client.connect(1, f"ws://127.0.0.1:{mute.sockets[0].getsockname()[1]}/")
        async with asyncio.timeout(20):
            reader = await silent.get()
            client.close(1)
            assert await reader.readuntil(b"\r\n\r\n") and not await reader.read()
        assert not client.of("closed")
        await end(transport)
        mute.close()

    run(test)


def test_silent_name_servers_hold_up_only_whoever_named_them(
    run: Any, monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    """What circuits of one link name stops neither dials for other links, nor our own, nor those of a facilitator."""
    resolver.silent = (".silent",)
    monkeypatch.setattr(dialling, "MAX_LOOKUPS", 4)
    monkeypatch.setattr(dialling, "MAX_OWN_LOOKUPS", 1)

    async def test() -> None:
        server = await listening()
        url = server.url.replace("127.0.0.1", "node.example")
        transport = WebSocketTransport()
        client = attach(transport)
        client.ask(*[Connect(channel, Protocol.LINK, "ws://node.silent/", "greedy") for channel in range(1, 11, 2)])
        assert await client.first("closed") == ("closed", 9, "too many look-ups")
        resolver.answers = [["127.0.0.1"]] * 3
        client.ask(Connect(11, Protocol.LINK, server.url, "greedy"))
        client.ask(Connect(13, Protocol.LINK, url, "modest"))
        client.ask(Connect(15, Protocol.LINK, url))
        client.ask(Connect(17, Protocol.FACILITATOR, url))
        await client.until(lambda: len(client.of("opened")) == 4)
        client.ask(Connect(19, Protocol.LINK, "ws://node.silent/"))
        client.ask(Connect(21, Protocol.LINK, "ws://node.silent/"))
        await client.until(lambda: len(client.of("closed")) == 2)
        resolver.answers = [["127.0.0.1"]]
        client.ask(Connect(23, Protocol.FACILITATOR, url))
        await client.until(lambda: len(client.of("opened")) == 5)
        await end(transport, server.transport)

    run(test)


def test_limits_count_a_channel_under_the_address_that_it_comes_from(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        server = await listening()
        transport = WebSocketTransport()
        client = attach(transport)
        client.connect(1, server.url)
        await client.first("opened")
        assert transport.source(1) == 1 and transport.source(99) == 99, "proxies connect from loopback"
        monkeypatch.setattr(module, "counted_as", lambda remote: f"network of {remote}")
        assert transport.source(1) == "network of 127.0.0.1"
        await server.toy.first("opened")
        assert server.transport.source(2) == "network of 127.0.0.1"
        await end(transport, server.transport)

    run(test)


def test_reasons_for_other_failures() -> None:
    assert connect_reason(socket.gaierror(-2, "Name or service not known")) == "name not found"
    assert connect_reason(OSError("Multiple exceptions: [Errno 111] a, [Errno 111] b")) == "connection refused"
    assert connect_reason(OSError(113, "x")) == "no route to host"
    assert connect_reason(RuntimeError("?")) == "cannot connect"


def test_shutdown_tells_peers_and_cuts_those_that_do_not_answer(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        port = both.listener._listeners[0].sockets[0].getsockname()[1]
        mute = await Raw.open(port)
        await both.server.until(lambda: len(both.server.of("opened")) == 2)
        await both.listener.shutdown(0.1)
        assert await both.client.first("closed") == ("closed", 1, "closed by the peer: shutting down")
        assert b"shutting down" in await mute.rest()
        assert not both.server.of("closed")
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        await both.transport.shutdown(0.1)

    run(test)


def test_an_error_in_the_machine_ends_that_link_only(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        both = await pair()

        def fail(channel: int, data: bytes) -> None:
            raise ZeroDivisionError("a bug")

        both.server.on_data = fail
        both.client.send(1, CELL)
        await both.client.first("closed")
        both.server.on_data = None
        both.client.connect(3, f"ws://127.0.0.1:{both.listener._listeners[0].sockets[0].getsockname()[1]}/")
        await both.client.until(lambda: len(both.client.of("opened")) == 2)
        await end(both.transport, both.listener)

    run(test)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("facilitator", ["127.0.0.1", "127.0.0.2"])
def test_whom_a_node_dials_does_not_depend_on_where_the_facilitator_is(
    run: Any, monkeypatch: pytest.MonkeyPatch, public: bool, facilitator: str
) -> None:
    """A descriptor may name any address: nodes of a public network do not dial into the networks they stand in."""

    async def test() -> None:
        site, relay = await listening(), await listening()
        monkeypatch.setattr(dialling, "is_public", lambda address: str(address) == "127.0.0.2")
        transport = WebSocketTransport(public_only=public)
        client = attach(transport)
        client.connect(1, f"ws://{facilitator}:{site.port}/facilitator", Protocol.FACILITATOR)
        await client.until(lambda: client.log)
        client.connect(3, relay.url, Protocol.LINK)
        await client.until(lambda: len(client.log) > 1)
        expected = ("closed", 3, "not an address on the internet") if public else ("opened", 3, Protocol.LINK)
        assert client.log == [("opened", 1, Protocol.FACILITATOR), expected]
        assert relay.transport.connections == (0 if public else 1)
        await end(transport, site.transport, relay.transport)

    original = WebSocketTransport.listen
    monkeypatch.setattr(WebSocketTransport, "listen", lambda self, host, port: original(self, "0.0.0.0", port))
    run(test)


@pytest.mark.parametrize(
    ("hosts", "private"),
    [
        ([], True),
        (["", "localhost", "127.0.0.1"], True),
        (["192.168.1.5", "fd00::1", "relay.lan", "relay", "nas.home.arpa"], True),
        (["8.8.8.8"], False),
        (["127.0.0.1", "example.org"], False),
        (["localhost.example.org"], False),
        (["notlocal.net", "127.0.0.1"], False),
    ],
)
def test_a_network_is_private_where_all_names_of_it_are(hosts: list[str], private: bool) -> None:
    assert dialling.is_private(hosts) == private
