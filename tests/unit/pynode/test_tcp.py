"""Exit streams and look-ups over real sockets on the loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from convergence.circuit.exit import MAX_EXIT_STREAMS
from convergence.effects import Connect, Failure, Protocol, Resolve
from pynode.exit import CloseReason, ExitPolicy
from pynode.transports import tcp as module
from pynode.transports.mux import NetTransport
from pynode.transports.tcp import TcpTransport
from pynode.transports.websocket import WebSocketTransport
from tests.unit.pynode.resolver import Resolver
from tests.unit.pynode.resolver import resolver as resolver
from tests.unit.pynode.toy import PATIENCE, Toy, attach


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    def runner(test: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * PATIENCE):
                await test()

        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(bounded())

    return runner


MAX_UNREAD = 64 << 20
"""The kernel's own buffers take some megabytes, the transport HIGH_WATER."""


def policy(*ports: int) -> ExitPolicy:
    return ExitPolicy(ports=ports, hosts=["127.0.0.0/8", "::1"])


class Server:
    """A peer under the test's hand."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def start(self, host: str = "127.0.0.1") -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted.put_nowait((reader, writer))

        self.server = await asyncio.start_server(accept, host, 0)
        port: int = self.server.sockets[0].getsockname()[1]
        return port


async def open_channel(host: str = "127.0.0.1") -> SimpleNamespace:
    server = Server()
    port = await server.start(host)
    transport = TcpTransport(policy(port))
    toy = attach(transport)
    toy.connect(1, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", Protocol.TCP)
    assert await toy.first("opened") == ("opened", 1, Protocol.TCP)
    reader, writer = await server.accepted.get()
    return SimpleNamespace(toy=toy, transport=transport, reader=reader, writer=writer, port=port, server=server)


def fill(transport: TcpTransport) -> None:
    """Send, in several buffers at a time as the core does, until the transport says that it is enough."""
    for _ in range(MAX_UNREAD // 65536):
        if not transport.send(1, [bytes(1), bytes(65535)]):
            return
    raise AssertionError("no congestion was reported")


async def failure(transport: TcpTransport, address: str) -> str:
    toy = attach(transport)
    toy.connect(1, address, Protocol.TCP)
    reason: str = (await toy.first("closed"))[2]
    await asyncio.sleep(0)
    assert not toy.of("opened") and transport.connections == 0 and 1 not in transport
    return reason


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_bytes_both_ways_then_done(run: Any, host: str) -> None:
    async def test() -> None:
        if host == "::1":
            try:
                socket.create_server((host, 0), family=socket.AF_INET6).close()
            except OSError:
                pytest.skip("no IPv6 here")
        it = await open_channel(host)
        data = os.urandom(1_000_000)
        it.toy.send(1, b"GET", b" /")
        assert await it.reader.readexactly(5) == b"GET /"
        it.writer.write(data)
        it.writer.close()
        assert await it.toy.first("closed") == ("closed", 1, "done")
        assert it.toy.received[1] == data
        assert max(map(len, it.toy.messages)) <= 65536
        assert it.transport.connections == 0
        it.toy.send(1, b"too late")
        it.toy.close(1)

    run(test)


def test_close_flushes_and_reports_nothing(run: Any) -> None:
    async def test() -> None:
        it = await open_channel()
        it.toy.send(1, *[bytes(65536)] * 100)
        it.toy.close(1)
        assert len(await it.reader.read(-1)) == 6553600
        await it.transport.shutdown(1)
        assert it.transport.connections == 0 and not it.toy.of("closed")

    run(test)


def test_close_cuts_a_peer_that_takes_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.05)

    async def test() -> None:
        it = await open_channel()
        fill(it.transport)
        it.toy.close(1)
        await asyncio.wait_for(it.transport._all_gone.wait(), 20)
        assert it.transport.connections == 0

    run(test)


def test_congestion_and_drain(run: Any) -> None:
    async def test() -> None:
        it = await open_channel()
        fill(it.transport)
        it.toy.send(1, b"x", b"y")
        assert it.toy.of("congested") == [("congested", 1, True)]
        while ("congested", 1, False) not in it.toy.log:
            await asyncio.wait_for(it.reader.read(65536), PATIENCE)
        await it.transport.shutdown(0)

    run(test)


def test_flow_control_does_not_rest_on_writelines(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own, in Python 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1, never says that it is full."""

    async def test() -> None:
        it = await open_channel()
        monkeypatch.setattr(type(it.transport._streams[1].transport), "writelines", lambda *_: None)
        fill(it.transport)
        await it.transport.shutdown(0)

    asyncio.run(test())


def test_pause_stops_reading(run: Any) -> None:
    async def test() -> None:
        it = await open_channel()
        it.toy.pause(1, True)
        it.toy.pause(1, True)
        size = 8 << 20
        it.writer.write(bytes(size))
        for _ in range(20):
            await asyncio.sleep(0)
        assert 1 not in it.toy.received
        it.toy.pause(1, False)
        await it.toy.until(lambda: len(it.toy.received.get(1, b"")) == size)
        await it.transport.shutdown(0)

    run(test)


def test_pause_before_it_is_open(run: Any) -> None:
    async def test() -> None:
        server = Server()
        port = await server.start()
        transport = TcpTransport(policy(port))
        toy = attach(transport)
        toy.connect(1, f"127.0.0.1:{port}", Protocol.TCP)
        toy.pause(1, True)
        await toy.first("opened")
        _, writer = await server.accepted.get()
        writer.write(b"x")
        await writer.drain()
        for _ in range(20):
            await asyncio.sleep(0)
        assert 1 not in toy.received
        toy.pause(1, False)
        await toy.first("data")
        await transport.shutdown(0)

    run(test)


def test_reset(run: Any) -> None:
    async def test() -> None:
        it = await open_channel()
        linger = struct.pack("ii", 1, 0)
        it.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        it.writer.transport.abort()
        assert await it.toy.first("closed") == ("closed", 1, CloseReason.RESET.value)

    run(test)


def test_channels_that_flush_for_nobody_are_cut_off(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSING_PART", MAX_EXIT_STREAMS * 2)
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 10 * PATIENCE)

    async def test() -> None:
        it = await open_channel()
        while it.transport.send(1, [bytes(1 << 16)]):
            pass
        it.transport.close(1, "done")
        while it.transport.connections:
            await asyncio.sleep(0)

    run(test)


def test_reasons(run: Any) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        assert await failure(TcpTransport(policy(port)), f"127.0.0.1:{port}") == "refused"
        assert await failure(TcpTransport(policy(80)), f"127.0.0.1:{port}") == "policy"
        assert await failure(TcpTransport(ExitPolicy()), "127.0.0.1:80") == "policy"
        assert await failure(TcpTransport(ExitPolicy()), "localhost:80") == "policy"
        assert await failure(TcpTransport(ExitPolicy()), "2130706433:80") == "policy"
        assert await failure(TcpTransport(ExitPolicy()), "does-not-exist.invalid:80") == "resolve"
        assert await failure(TcpTransport(ExitPolicy(), max_channels=0), "127.0.0.1:80") == "limit"
        for address in ("", "host", ":80", "host:", "host:0", "host:65536", "host:80x", "host:" + "9" * 5000):
            assert await failure(TcpTransport(ExitPolicy()), address) == "policy"

    run(test)


def test_the_address_that_was_judged_is_dialled(run: Any, resolver: Resolver) -> None:
    resolver.answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def test() -> None:
        server = Server()
        port = await server.start()
        transport = TcpTransport(policy(port))
        toy = attach(transport)
        toy.connect(1, f"rebinding.example:{port}", Protocol.TCP)
        await toy.first("opened")
        assert resolver.asked == ["rebinding.example"]  # once: a second answer would have been another address
        await transport.shutdown(0)

    run(test)


def test_the_next_address_is_tried(run: Any, resolver: Resolver) -> None:
    resolver.answers = [["10.0.0.1", "127.0.0.2", "127.0.0.1"]]

    async def test() -> None:
        server = Server()
        port = await server.start()
        transport = TcpTransport(policy(port))
        toy = attach(transport)
        toy.connect(1, f"many.example:{port}", Protocol.TCP)
        await toy.first("opened")
        await transport.shutdown(0)

    run(test)


@pytest.mark.parametrize(
    ("versions", "reached"), [("/4", "127.0.0.1"), ("/46", "127.0.0.1"), ("/64", "::1"), ("/6", "::1"), ("", "::1")]
)
def test_a_name_is_reached_over_the_version_of_ip_that_is_preferred(
    run: Any, resolver: Resolver, versions: str, reached: str
) -> None:
    resolver.answers = [["::1", "127.0.0.1"]]

    async def test() -> None:
        server = Server()
        port = await server.start(reached)
        transport = TcpTransport(policy(port))
        toy = attach(transport)
        toy.connect(1, f"both.example:{port}{versions}", Protocol.TCP)
        await toy.first("opened")
        await transport.shutdown(0)

    run(test)


def test_a_name_without_an_address_of_an_allowed_version_is_refused(run: Any, resolver: Resolver) -> None:
    resolver.answers = [["::1"], ["127.0.0.1"]]

    async def test() -> None:
        transport = TcpTransport(policy(80))
        assert await failure(transport, "six.example:80/4") == "policy"
        assert await failure(transport, "four.example:80/") == "policy"

    run(test)


def test_a_name_server_that_is_mute(run: Any, monkeypatch: pytest.MonkeyPatch, resolver: Resolver) -> None:
    resolver.answers = [None]
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.05)

    async def test() -> None:
        assert await failure(TcpTransport(ExitPolicy()), "slow.example:80") == "timeout"

    run(test)


def test_close_while_dialling(run: Any, resolver: Resolver) -> None:
    resolver.answers = [None, ["127.0.0.1"]]

    async def test() -> None:
        transport = TcpTransport(ExitPolicy())
        toy = attach(transport)
        toy.connect(1, "slow.example:80", Protocol.TCP)
        await asyncio.sleep(0)
        toy.close(1)
        toy.connect(5, "early.example:80", Protocol.TCP)
        toy.close(5)
        toy.connect(3, "name.example:80", Protocol.TCP)
        assert await toy.first("closed") == ("closed", 3, "policy")
        await asyncio.sleep(0)
        assert transport.connections == 0

    run(test)


def test_an_address_on_the_internet_that_is_not_allowed_is_told(run: Any, resolver: Resolver) -> None:
    resolver.answers = [["10.0.0.1", "1.0.0.1"]]

    async def test() -> None:
        transport = TcpTransport(ExitPolicy((80,), ["1.1.1.1"]))
        assert await failure(transport, "name.example:80") == "policy 1.0.0.1"
        assert await failure(transport, "10.0.0.1:80") == "policy"

    run(test)


def test_the_name_of_an_address_is_looked_up(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def name(address: tuple[str, int], flags: int) -> tuple[str, str]:
        asked.append(address[0])
        if address[0] == "1.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "none")
        return "one.example", "0"

    monkeypatch.setattr(socket, "getnameinfo", name)

    async def test() -> None:
        transport = TcpTransport(ExitPolicy())
        toy: Toy = attach(transport, resolver=transport)
        for request, host in enumerate(["1.1.1.1", "1.0.0.1", "10.0.0.1"]):
            toy.ask(Resolve(request, ".".join((*host.split(".")[::-1], "in-addr.arpa"))))
            await toy.until(lambda: len(toy.of("done")) == request + 1)  # noqa: B023
        named, unnamed, private = (entry[2] for entry in toy.of("done"))
        assert named == ["one.example"]
        assert (unnamed.kind, private.kind) == ("not-found", "policy")
        assert asked == ["1.1.1.1", "1.0.0.1"]

    run(test)


def test_resolve(run: Any, monkeypatch: pytest.MonkeyPatch, resolver: Resolver) -> None:
    resolver.answers = [
        ["1.1.1.1", "10.0.0.1", "1.0.0.1", "1.1.1.1"],
        ["192.168.0.1"],
        socket.gaierror(-2, "unknown"),
        None,
    ]
    monkeypatch.setattr(module, "RESOLVE_TIMEOUT", 0.05)

    async def test() -> None:
        transport = TcpTransport(ExitPolicy())
        toy: Toy = attach(transport, resolver=transport)
        for request, host in enumerate(["a.example", "b.example", "c.example", "d.example", "bad\nname"]):
            toy.ask(Resolve(request, host))
            await toy.until(lambda: len(toy.of("done")) == request + 1)  # noqa: B023
        results = [entry[2] for entry in toy.of("done")]
        assert results[0] == ["1.1.1.1", "1.0.0.1"]
        assert all(isinstance(result, Failure) for result in results[1:])
        assert [result.kind for result in results[1:]] == ["policy", "not-found", "not-found", "policy"]

    run(test)


def test_look_ups_of_one_source_that_are_stuck_leave_others_theirs(
    run: Any, monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    resolver.silent = (".silent",)
    monkeypatch.setattr(module, "MAX_LOOKUPS", 4)

    async def test() -> None:
        transport = TcpTransport(ExitPolicy())
        toy: Toy = attach(transport, resolver=transport)
        toy.ask(*[Resolve(request, "name.silent", "greedy") for request in range(4)])
        toy.ask(Resolve(4, "name.silent", "greedy"), Connect(1, Protocol.TCP, "name.silent:80", "greedy"))
        await toy.until(lambda: toy.of("done") and toy.of("closed"))
        assert [entry[2].kind for entry in toy.of("done")] == ["refused"]
        assert toy.of("closed") == [("closed", 1, "limit")]
        resolver.answers = [["1.1.1.1"], ["127.0.0.1"]]
        toy.ask(Resolve(5, "name.example", "modest"))
        await toy.until(lambda: len(toy.of("done")) == 2)
        assert toy.of("done")[1] == ("done", 5, ["1.1.1.1"])
        toy.ask(Connect(3, Protocol.TCP, "name.example:80", "modest"))
        await toy.until(lambda: len(toy.of("closed")) == 2)
        assert toy.of("closed")[1] == ("closed", 3, "policy"), "it was looked up"
        await transport.shutdown(0)

    run(test)


@pytest.mark.parametrize(("channels", "streams"), [(0, 0), (1, 1), (100, 75), (1024, MAX_EXIT_STREAMS), (10**6, 768)])
def test_part_of_the_channels_are_for_those_that_still_flush(channels: int, streams: int) -> None:
    assert TcpTransport(ExitPolicy(), channels).max_streams == streams


def test_a_node_with_both_transports(run: Any) -> None:
    async def test() -> None:
        echo = Server()
        port = await echo.start()
        far = WebSocketTransport()
        relay = attach(far)
        link_port = await far.listen("127.0.0.1", 0)
        net = NetTransport(WebSocketTransport(), TcpTransport(policy(port)))
        toy = attach(net)
        net.attach(toy.driver)
        toy.connect(1, f"127.0.0.1:{port}", Protocol.TCP)
        toy.connect(3, f"ws://127.0.0.1:{link_port}/", Protocol.LINK)
        await toy.until(lambda: len(toy.of("opened")) == 2)
        toy.send(1, b"to the server")
        toy.send(3, b"to the relay")
        reader, _ = await echo.accepted.get()
        assert await reader.readexactly(13) == b"to the server"
        await relay.until(lambda: relay.received.get(2) == b"to the relay")
        toy.pause(1, True)
        toy.close(1)
        assert await reader.read() == b""
        toy.close(3, "bye")
        await relay.first("closed")
        await net.shutdown(1)
        await far.shutdown(1)

    run(test)


def test_a_node_that_is_no_exit(run: Any) -> None:
    async def test() -> None:
        net = NetTransport(WebSocketTransport())
        toy = attach(net)
        net.attach(toy.driver)
        toy.connect(1, "127.0.0.1:80", Protocol.TCP)
        assert await toy.first("closed") == ("closed", 1, "policy")
        await net.shutdown(0)

    run(test)
