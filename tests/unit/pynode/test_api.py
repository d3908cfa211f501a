"""The API for Python programs, over a whole network on loopback."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import queue
import random
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import convergence
from convergence.codes import AddressFlaw, ConnectWhy, FacilitatorWhy, TlsWhy
from convergence.errors import EndReason
from convergence.pipes import http as http_stage
from convergence.pipes.http import EndOfMessage, Request, Response
from pynode import duplex_transport
from pynode.api import node as node_module
from pynode.api.blocking import Caller
from pynode.api.pipe import MAX_LINE, Pipe
from pynode.loop import run
from pynode.nodes import from_text
from tests.ports.tls_servers import Authority
from tests.unit.pynode.living import Living, living

LIMIT = 60  # seconds, only to end a hung test
NOISE = random.Random(5)
Handler = Callable[[Pipe[bytes]], Awaitable[None]]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    with living(tmp_path_factory.mktemp("network")) as network:
        yield network


def go(test: Callable[[], Awaitable[None]], on_error: list[dict[str, Any]] | None = None) -> None:
    """Run a test in an event loop of its own; what the loop's exception handler hears fails it, or is collected."""
    heard: list[dict[str, Any]] = [] if on_error is None else on_error

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
        async with asyncio.timeout(LIMIT):
            await test()

    asyncio.run(main())
    assert on_error is not None or not heard, heard


@asynccontextmanager
async def two(network: Living) -> AsyncIterator[tuple[convergence.Node, convergence.Node]]:
    """A provider and a client."""
    async with (
        convergence.join(network.site, rtc=False) as provider,
        convergence.join(nodes=network.nodes, rtc=False) as client,
    ):
        yield provider, client


async def echo(pipe: Pipe[bytes]) -> None:
    async for data in pipe:
        await pipe.write(data)


async def settled(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


# -- reading and writing


def test_an_echo_is_heard_and_each_way_ends_by_itself(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            async with await provider.serve("hash:echo", echo) as service:
                assert service.address == "hash:echo" and service.points > 0 and service.host.endswith(".hash.conv")
                async with await client.connect("hash:echo") as pipe:
                    await pipe.write(b"one\ntwo\nthree, and four")
                    assert await pipe.readline() == b"one\n"
                    assert await pipe.readexactly(3) == b"two"
                    assert await pipe.read(1) == b"\n"
                    pipe.end()
                    assert await pipe.readline() == b"three, and four"
                    assert await pipe.read() == b"" == await pipe.readline() and await pipe.receive() is None
                    assert pipe.code is None and pipe.address == "hash:echo"
                    with pytest.raises(RuntimeError):
                        await pipe.write(b"more")
                    with pytest.raises(ValueError):
                        await pipe.read(-1)
                assert service.served == 1
                await settled(lambda: service.connections == 0)

    go(test)


def test_the_server_may_end_first_and_hear_what_still_comes(network: Living) -> None:
    async def test() -> None:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def last_word(pipe: Pipe[bytes]) -> None:
            await pipe.write(b"I have said all")
            pipe.end()
            heard.put_nowait(await pipe.readall())

        async with two(network) as (provider, client):
            await provider.serve("hash:last", last_word)
            pipe = await client.connect("hash:last")
            assert await pipe.readall() == b"I have said all"
            await pipe.write(b"but I")
            await pipe.write(b" have not")
            pipe.end()
            assert await heard.get() == b"but I have not"

    go(test)


def test_a_megabyte_passes_whole_both_ways_at_once(network: Living) -> None:
    async def test() -> None:
        data = NOISE.randbytes(2 << 20)
        async with two(network) as (provider, client):
            await provider.serve("hash:bulk", echo)
            pipe = await client.connect("hash:bulk")

            async def write() -> None:
                await pipe.write(data)
                pipe.end()

            writing = asyncio.create_task(write())
            assert await pipe.readexactly(1 << 20) == data[: 1 << 20]
            assert await pipe.readall() == data[1 << 20 :]
            await writing

    go(test)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_reading_does_not_depend_on_how_the_bytes_came(network: Living, cut: int) -> None:
    async def test() -> None:
        text = b"".join(b"%d\n" % number for number in range(300)) + b"\n\nno newline"

        async def pieces(pipe: Pipe[bytes]) -> None:
            for at in range(0, len(text), cut):
                await pipe.write(text[at : at + cut])

        async with two(network) as (provider, client):
            await provider.serve("hash:pieces", pieces)
            pipe = await client.connect("hash:pieces")
            lines = [await pipe.readline() for _ in range(302)]
            assert lines == text.splitlines(keepends=True)[:302]
            assert await pipe.readexactly(2) == b"no"
            with pytest.raises(asyncio.IncompleteReadError) as short:
                await pipe.readexactly(100)
            assert short.value.partial == b" newline"

    go(test)


def test_lines_and_all_have_limits_and_nothing_is_lost_beyond_them(network: Living) -> None:
    async def test() -> None:
        async def flood(pipe: Pipe[bytes]) -> None:
            await pipe.write(b"x" * (MAX_LINE + 1) + b"\nshort\n")

        async with two(network) as (provider, client):
            await provider.serve("hash:flood", flood)
            pipe = await client.connect("hash:flood")
            with pytest.raises(ValueError, match="a line of more than"):
                await pipe.readline()
            assert await pipe.readexactly(MAX_LINE + 1) == b"x" * (MAX_LINE + 1)
            assert await pipe.readline() == b"\n" and await pipe.readline(6) == b"short\n"
            pipe = await client.connect("hash:flood")
            with pytest.raises(ValueError, match="more than 1000"):
                await pipe.readall(1000)

    go(test)


def test_one_task_reads_at_a_time(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            await provider.serve("hash:echo", echo)
            pipe = await client.connect("hash:echo")
            reading = asyncio.create_task(pipe.read())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError):
                await pipe.read()
            with pytest.raises(RuntimeError):
                pipe.through(convergence.gzip())
            await pipe.write(b"x")
            assert await reading == b"x"

    go(test)


# -- back-pressure


@pytest.mark.parametrize("form", ["pipe", "streams"])
def test_a_reader_that_never_reads_stops_the_writer_and_loses_nothing(network: Living, form: str) -> None:
    async def test() -> None:
        may_read, got = asyncio.Event(), asyncio.Queue[int]()

        async def lazy(pipe: Pipe[bytes]) -> None:
            await may_read.wait()
            got.put_nowait(len(await pipe.readall()))

        async def lazy_streams(pipe: Pipe[bytes]) -> None:
            reader, _ = await pipe.streams()
            await may_read.wait()
            got.put_nowait(len(await reader.read()))

        async with two(network) as (provider, client):
            await provider.serve("hash:lazy", lazy if form == "pipe" else lazy_streams)
            await provider.serve("hash:echo", echo)
            pipe = await client.connect("hash:lazy")
            written = 0

            async def pour() -> None:
                nonlocal written
                while written < 64 << 20:
                    await pipe.write(bytes(1 << 14))
                    written += 1 << 14

            pouring = asyncio.create_task(pour())
            before = -1
            while written != before:  # it has stopped once nothing more was written in a while
                before = written
                await asyncio.sleep(0.5)
            assert 0 < written < 4 << 20
            other = await client.connect("hash:echo")
            await other.write(b"others go on")
            assert await other.readexactly(12) == b"others go on"
            pouring.cancel()
            may_read.set()
            await asyncio.gather(pouring, return_exceptions=True)
            pipe.end()
            assert await got.get() == written

    go(test)


def test_what_came_and_is_not_read_is_bounded(network: Living) -> None:
    async def test() -> None:
        async def pour(pipe: Pipe[bytes]) -> None:
            while True:
                await pipe.write(bytes(1 << 14))

        async with two(network) as (provider, client):
            await provider.serve("hash:pour", pour)
            pipe = await client.connect("hash:pour")
            held, before = 0, -1
            while held != before:
                before = held
                await asyncio.sleep(0.5)
                held = sum(map(len, pipe._inbox.items))
            assert 0 < held < 1 << 20
            pipe.abort()

    go(test)


# -- the end of pipes, and errors


def test_an_abort_is_heard_with_its_code_after_what_came_before(network: Living) -> None:
    async def test() -> None:
        async def cut(pipe: Pipe[bytes]) -> None:
            await pipe.write(b"all of this")
            pipe.fail(EndReason.CONNRESET)

        async with two(network) as (provider, client):
            await provider.serve("hash:cut", cut)
            pipe = await client.connect("hash:cut")
            assert await pipe.readexactly(11) == b"all of this"
            with pytest.raises(convergence.PipeBroken) as broken:
                await pipe.read()
            assert broken.value.code == pipe.code == EndReason.CONNRESET
            assert str(broken.value) == "The far side cut the connection."
            with pytest.raises(convergence.PipeBroken):
                await pipe.write(b"x")
            assert isinstance(broken.value, ConnectionError)

    go(test)


def test_a_handler_that_fails_ends_only_its_connection(network: Living) -> None:
    errors: list[dict[str, Any]] = []

    async def test() -> None:
        async def sometimes(pipe: Pipe[bytes]) -> None:
            line = await pipe.readline()
            await pipe.write(line)
            if line == b"fail\n":
                raise ZeroDivisionError
            await echo(pipe)

        async with two(network) as (provider, client):
            service = await provider.serve("hash:sometimes", sometimes)
            good, bad = await client.connect("hash:sometimes"), await client.connect("hash:sometimes")
            await good.write(b"fine\n")
            await bad.write(b"fail\n")
            assert await bad.readline() == b"fail\n"
            with pytest.raises(convergence.PipeBroken) as broken:
                await bad.readline()
            assert broken.value.code == EndReason.MISC
            await good.write(b"more\n")
            assert [await good.readline() for _ in range(2)] == [b"fine\n", b"more\n"]
            assert service.connections == 1

    go(test, errors)
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]


def test_a_service_that_closes_ends_its_connections_and_may_be_offered_again(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            service = await provider.serve("hash:closing", echo)
            with pytest.raises(convergence.ServeError) as twice:
                await provider.serve("hash:closing", echo)
            assert twice.value.why is AddressFlaw.SERVED
            pipe = await client.connect("hash:closing")
            await service.close()
            with pytest.raises(convergence.PipeBroken):
                await pipe.read()
            assert service.connections == service.points == 0
            await provider.serve("hash:closing", echo)
            again = await client.connect("hash:closing", patience=30)
            await again.write(b"back")
            assert await again.readexactly(4) == b"back"

    go(test)


def test_a_service_takes_so_many_connections_at_once(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            await provider.serve("hash:few", echo, most=2)
            first, second = await client.connect("hash:few"), await client.connect("hash:few")
            with pytest.raises(convergence.ConnectError) as refused:
                await client.connect("hash:few", patience=0.2)
            assert refused.value.why is ConnectWhy.BUSY and refused.value.code == EndReason.RESOURCELIMIT
            first.end()
            assert await first.readall() == b""
            fourth = await client.connect("hash:few")
            for pipe in (second, fourth):
                await pipe.write(b"x")
                assert await pipe.read() == b"x"

    go(test)


def test_a_thousand_connections_at_once(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            service = await provider.serve("hash:thousand", echo)
            pipes = await asyncio.gather(*(client.connect("hash:thousand") for _ in range(1000)))
            assert service.connections == 1000

            async def talk(number: int, pipe: Pipe[bytes]) -> bytes:
                await pipe.write(b"%d" % number)
                pipe.end()
                return await pipe.readall()

            said = await asyncio.gather(*(talk(number, pipe) for number, pipe in enumerate(pipes)))
            assert said == [b"%d" % number for number in range(1000)]
            await settled(lambda: service.connections == 0)

    go(test)


def test_nobody_offers_it_and_it_is_no_address(network: Living) -> None:
    async def test() -> None:
        async with convergence.join(network.site, rtc=False) as client:
            with pytest.raises(convergence.ConnectError) as nobody:
                await client.connect("hash:nobody offers this", patience=0.2)
            assert nobody.value.why is ConnectWhy.NOBODY and nobody.value.code == EndReason.RESOLVEFAILED
            assert "Nobody offers this service" in str(nobody.value)
            with pytest.raises(convergence.AddressError) as flaw:
                await client.connect("hash:")
            assert flaw.value.why is AddressFlaw.NO_NAME and isinstance(flaw.value, ValueError)
            with pytest.raises(convergence.ConnectTimeout) as late:
                await client.connect("hash:nobody offers this", timeout=0.01)
            assert isinstance(late.value, TimeoutError)
            with pytest.raises(convergence.ServeError):
                await client.serve("tcp://example.org:80", echo)
            with pytest.raises(convergence.ServeError):
                await client.serve(b"too short", echo)

    go(test)


# -- private services


def test_a_private_service_is_reached_by_its_address_only(network: Living, tmp_path: Path) -> None:
    async def test() -> None:
        secret = convergence.new_secret()
        async with two(network) as (provider, client):
            service = await provider.serve(secret, echo)
            assert service.address == convergence.address_of(secret)
            pipe = await client.connect(service.address)
            await pipe.write(b"psst")
            assert await pipe.readexactly(4) == b"psst"
            kept = await provider.serve(tmp_path / "keys" / "mine.json", echo)
            await kept.close()
            again = await provider.serve(tmp_path / "keys" / "mine.json", echo)
            assert again.address == kept.address != service.address
            with pytest.raises(convergence.ServeError):
                await client.serve(service.address, echo)

    go(test)


# -- asyncio's streams, protocols, TLS


def test_streams_of_asyncio_at_both_ends(network: Living) -> None:
    async def test() -> None:
        async def shout(pipe: Pipe[bytes]) -> None:
            first = await pipe.readline()
            reader, writer = await pipe.streams()
            writer.write(first.upper())
            while line := await reader.readline():
                writer.write(line.upper())
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with two(network) as (provider, client):
            service = await provider.serve("hash:shout", shout)
            reader, writer = await client.open_connection("hash:shout")
            writer.write(b"one\ntwo\n")
            await writer.drain()
            assert await reader.readline() == b"ONE\n"
            writer.write_eof()
            assert await reader.read() == b"TWO\n"
            assert writer.get_extra_info("peername") == "hash:shout"
            writer.close()
            await settled(lambda: service.connections == 0)

    go(test)


def test_any_asyncio_protocol_speaks_through_it(network: Living) -> None:
    class Greeter(asyncio.Protocol):
        def __init__(self) -> None:
            self.heard = b""
            self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(b"hello")
            transport.write_eof()

        def data_received(self, data: bytes) -> None:
            self.heard += data

        def connection_lost(self, error: Exception | None) -> None:
            self.lost.set_result(error)

    async def test() -> None:
        async with two(network) as (provider, client):
            await provider.serve("hash:echo", echo)
            _, protocol = await client.create_connection(Greeter, "hash:echo")
            assert isinstance(protocol, Greeter)
            assert await protocol.lost is None and protocol.heard == b"hello"

    go(test)


def test_tls_of_the_standard_library_runs_over_the_streams(network: Living, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=far.example"]
    command += ["-addext", "subjectAltName=DNS:far.example"]
    subprocess.run(command, check=True, capture_output=True)

    async def test() -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)

        async def secure(pipe: Pipe[bytes]) -> None:
            reader, writer = await pipe.streams()
            await writer.start_tls(server)
            writer.write((await reader.readline()).upper())
            await writer.drain()

        async with two(network) as (provider, client):
            await provider.serve("hash:tls", secure)
            reader, writer = await client.open_connection("hash:tls")
            context = ssl.create_default_context(cafile=str(certificate))
            await writer.start_tls(context, server_hostname="far.example")
            writer.write(b"secret\n")
            await writer.drain()
            assert await reader.readline() == b"SECRET\n"
            writer.close()

    go(test)


# -- stages


def test_stages_lie_between_the_program_and_the_network(network: Living) -> None:
    async def test() -> None:
        packed = bytearray()

        async def unpack(pipe: Pipe[bytes]) -> None:
            plain = pipe.through(convergence.gzip())
            data = await plain.readall()
            await plain.write(data[::-1])

        async def spy(pipe: Pipe[bytes]) -> None:
            packed.extend(await pipe.readall())

        async with two(network) as (provider, client):
            service = await provider.serve("hash:packed", unpack)
            await provider.serve("hash:spy", spy)
            answers = []
            for address in ("hash:packed", "hash:spy"):
                pipe = await client.connect(address, convergence.gzip())
                await pipe.write(b"0123456789" * 50_000)
                pipe.end()
                answers.append(asyncio.create_task(pipe.readall()))
            assert await answers[0] == b"9876543210" * 50_000
            with pytest.raises(convergence.PipeBroken):  # an end without gzip's own end is a cut
                await answers[1]
            assert gzip.decompress(packed) == b"0123456789" * 50_000 and len(packed) < 50_000
            await settled(lambda: service.connections == 0)

    go(test)


def test_what_came_before_a_stage_passes_through_it_too(network: Living) -> None:
    async def test() -> None:
        async def upgrade(pipe: Pipe[bytes]) -> None:
            assert await pipe.readline() == b"now packed\n"
            plain = pipe.through(convergence.gzip())
            await plain.write(await plain.readall())
            plain.close()

        async with two(network) as (provider, client):
            await provider.serve("hash:upgrade", upgrade)
            pipe = await client.connect("hash:upgrade")
            await pipe.write(b"now packed\n" + gzip.compress(b"and this"))
            pipe.end()
            plain = pipe.through(convergence.gzip())
            assert await plain.readall() == b"and this"
            with pytest.raises(RuntimeError):
                await pipe.read()

    go(test)


def test_messages_keep_their_borders(network: Living) -> None:
    async def test() -> None:
        async def count(pipe: Pipe[bytes]) -> None:
            messages = pipe.through(convergence.framing(), convergence.deflate())
            async for message in messages:
                await messages.write(b"%d" % len(message))

        async with two(network) as (provider, client):
            await provider.serve("hash:messages", count)
            pipe = await client.connect("hash:messages", convergence.framing(), convergence.deflate())
            for size in (1, 70_000, 5):
                await pipe.write(bytes(size))
                assert await pipe.receive() == b"%d" % size

    go(test)


def test_a_chain_is_a_line_of_code(network: Living) -> None:
    async def test() -> None:
        async def site(pipe: Pipe[bytes]) -> None:
            http = pipe.through(http_stage.server(), convergence.gzip())
            async for part in http:
                if isinstance(part, EndOfMessage):
                    await http.write(Response((("content-length", "5"),), 200))
                    await http.write(b"hello")
                    await http.write(EndOfMessage())
                    return

        async with two(network) as (provider, client):
            await provider.serve("hash:site", site)
            http, parser, gzip = client.local(), http_stage.client(), convergence.gzip()
            http.pipe(parser).pipe(gzip).pipe(client.dial("hash:site"))
            await http.opened()
            await http.write(Request((("host", "site"),), "GET", "/"))
            await http.write(EndOfMessage())
            parts = [await http.receive() for _ in range(3)]
            assert isinstance(parts[0], Response) and parts[0].status == 200 and parts[1] == b"hello"
            assert isinstance(parts[2], EndOfMessage)
            http.close()

    go(test)


def test_tls_to_a_site_through_an_exit_and_a_wrong_certificate_is_told(tmp_path: Path) -> None:
    authority = Authority()

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async def test() -> None:
        servers = [
            await asyncio.start_server(upper, "127.0.0.1", 0, ssl=authority.context(case))
            for case in ("good", "expired")
        ]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        manager = living(tmp_path, [f"127.0.0.1:{port}" for port in ports])
        network = await asyncio.to_thread(manager.__enter__)
        try:
            async with convergence.join(network.site, rtc=False, exit_hops=2) as node:
                user, tls = node.local(), node.tls("good.example", roots=authority.roots)
                user.pipe(convergence.framing()).pipe(tls).pipe(node.dial(f"tcp://127.0.0.1:{ports[0]}"))
                await user.opened()
                user.abort()
                pipe = await node.connect(
                    f"tcp://127.0.0.1:{ports[0]}", node.tls("good.example", roots=authority.roots)
                )
                await pipe.write(b"hello\n")
                assert await pipe.readall() == b"HELLO\n"
                for port, host, why in (
                    (ports[1], "good.example", TlsWhy.EXPIRED),
                    (ports[0], "other.example", TlsWhy.WRONG_HOST),
                ):
                    with pytest.raises(convergence.ConnectError) as refused:
                        await node.connect(f"tcp://127.0.0.1:{port}", node.tls(host, roots=authority.roots))
                    assert refused.value.why is why and len(str(refused.value)) > 10
                with pytest.raises(convergence.AddressError):
                    node.tls("no host")
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)
        for server in servers:
            server.close()

    go(test, [])  # the servers' loop tells of clients that refuse their certificate


def test_what_a_stage_cannot_read_breaks_only_its_pipe(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            await provider.serve("hash:echo", echo)
            other = await client.connect("hash:echo")

            async def garbage(pipe: Pipe[bytes]) -> None:
                await pipe.write(b"this is no gzip")

            await provider.serve("hash:garbage", garbage)
            pipe = await client.connect("hash:garbage", convergence.gzip())
            with pytest.raises(convergence.PipeBroken) as broken:
                await pipe.read()
            assert broken.value.code == EndReason.TORPROTOCOL
            await other.write(b"fine")
            assert await other.readexactly(4) == b"fine"

    go(test)


# -- exits


def test_a_site_is_reached_through_an_exit_and_a_closed_port_is_told(tmp_path: Path) -> None:
    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(upper, "127.0.0.1", 0)
        closed = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        ports = [one.sockets[0].getsockname()[1] for one in (server, closed)]
        closed.close()
        await closed.wait_closed()
        allowed = [f"127.0.0.1:{port}" for port in ports]
        manager = living(tmp_path, allowed)
        network = await asyncio.to_thread(manager.__enter__)
        try:
            async with convergence.join(network.site, rtc=False, exit_hops=2) as node:
                pipe = await node.connect(f"tcp://127.0.0.1:{ports[0]}")
                await pipe.write(b"hello\n")
                assert await pipe.readall() == b"HELLO\n"
                with pytest.raises(convergence.ConnectError) as refused:
                    await node.connect(f"tcp://127.0.0.1:{ports[1]}")
                assert refused.value.code == EndReason.CONNECTREFUSED
                with pytest.raises(convergence.ConnectError) as forbidden:
                    await node.connect("tcp://127.0.0.1:1")
                assert forbidden.value.code == EndReason.EXITPOLICY and "exit" in str(forbidden.value)
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)
        server.close()

    go(test)


# -- cancellation


def left(node: convergence.Node) -> int:
    """Connections that the core still knows."""
    snapshot = node._call(lambda core, now: core.services.snapshot())
    return int(snapshot["connections"])


def test_a_connect_that_is_cancelled_at_any_moment_leaves_nothing(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            service = await provider.serve("hash:echo", echo)
            done = 0
            for pause in [0, 0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064]:
                task = asyncio.create_task(client.connect("hash:echo"))
                await asyncio.sleep(pause)
                task.cancel()
                result: Any = (await asyncio.gather(task, return_exceptions=True))[0]
                if isinstance(result, Pipe):
                    done += 1
                    result.abort()
                else:
                    assert isinstance(result, asyncio.CancelledError)
            assert done < 10
            await settled(lambda: left(client) == 0 and service.connections == 0)

    go(test)


def test_a_read_that_is_cancelled_loses_nothing(network: Living) -> None:
    async def test() -> None:
        gate = asyncio.Event()

        async def halves(pipe: Pipe[bytes]) -> None:
            await pipe.write(b"first ")
            await gate.wait()
            await pipe.write(b"second\n")

        async with two(network) as (provider, client):
            await provider.serve("hash:halves", halves)
            pipe = await client.connect("hash:halves")
            await settled(lambda: bool(pipe._inbox.items))
            for read in (pipe.readline(), pipe.readall(), pipe.readexactly(13)):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await read
            gate.set()
            assert await pipe.readline() == b"first second\n"
            assert await pipe.read() == b""

    go(test)


def test_a_write_that_is_cancelled_leaves_a_pipe_that_works(network: Living) -> None:
    async def test() -> None:
        may_read = asyncio.Event()

        async def lazy(pipe: Pipe[bytes]) -> None:
            await may_read.wait()
            await pipe.write(b"%d" % len(await pipe.readall()))

        async with two(network) as (provider, client):
            await provider.serve("hash:lazy writer", lazy)
            pipe = await client.connect("hash:lazy writer")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await pipe.write(bytes(8 << 20))
            may_read.set()
            await pipe.write(b"and one more")
            pipe.end()
            arrived = int(await pipe.readall())
            assert arrived % (1 << 16) == len(b"and one more") and arrived < 8 << 20

    go(test)


def reads_all(heard: asyncio.Queue[int]) -> Handler:
    """Reads slowly to the end, then says how much came."""

    async def handler(pipe: Pipe[bytes]) -> None:
        size = 0
        while data := await pipe.read():
            size += len(data)
            await asyncio.sleep(0.01)
        heard.put_nowait(size)

    return handler


@pytest.mark.parametrize("form", ["pipe", "stage", "chain", "streams"])
def test_who_leaves_at_once_has_sent_all(network: Living, form: str) -> None:
    data = NOISE.randbytes(400_000)

    async def send(client: convergence.Node) -> None:
        if form == "streams":
            _, writer = await client.open_connection("hash:late reader")
            writer.write(data)
            writer.close()
            await writer.wait_closed()
            return
        if form == "chain":
            local = client.local()
            local.pipe(convergence.deflate()).pipe(client.dial("hash:late reader"))
            async with local:
                await local.opened()
                await local.write(data)
            return
        stages = [convergence.deflate()] if form == "stage" else []
        async with await client.connect("hash:late reader", *stages) as pipe:
            await pipe.write(data)

    async def test() -> None:
        heard: asyncio.Queue[int] = asyncio.Queue()
        async with convergence.join(network.site, rtc=False) as provider:
            await provider.serve("hash:late reader", reads_all(heard))
            async with convergence.join(nodes=network.nodes, rtc=False) as client:
                await send(client)
            assert await heard.get() >= len(data)

    go(test)


def test_a_script_that_leaves_at_once_has_sent_all(network: Living) -> None:
    heard: queue.Queue[int] = queue.Queue()

    def handler(pipe: convergence.BlockingPipe) -> None:
        heard.put(len(pipe.readall()))

    with convergence.join_sync(network.site, rtc=False) as provider, provider.serve("hash:script", handler):
        with convergence.join_sync(nodes=network.nodes, rtc=False) as client, client.connect("hash:script") as pipe:
            pipe.write(bytes(400_000))
        assert heard.get(timeout=LIMIT) == 400_000


@pytest.mark.parametrize("form", ["pipe", "stage", "streams"])
def test_a_far_end_that_never_reads_holds_nobody_for_ever(
    network: Living, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplex_transport, "LINGER", 0.3)

    async def test() -> None:
        async def deaf(pipe: Pipe[bytes]) -> None:
            await asyncio.Event().wait()

        async with two(network) as (provider, client):
            service = await provider.serve("hash:deaf", deaf)
            pipe = await client.connect("hash:deaf", *([convergence.deflate()] if form == "stage" else []))
            if form == "streams":
                _, writer = await pipe.streams()
                writer.write(bytes(1_000_000))
                drain = asyncio.ensure_future(writer.drain())
                await asyncio.sleep(0)
                writer.close()
                await writer.wait_closed()
                await drain
            else:
                await pipe.write(bytes(300_000))
            pipe.close()
            await pipe.wait_closed()
            await service.close()

    go(test)


def test_a_pipe_that_nobody_holds_any_more_is_closed(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            service = await provider.serve("hash:held", echo)
            pipe = await client.connect("hash:held")
            streams = await (await client.connect("hash:held")).streams()
            stage = (await client.connect("hash:held")).through(convergence.gzip())
            await settled(lambda: service.connections == 3)
            with pytest.warns(ResourceWarning, match="not closed"):
                del pipe
                gc.collect()
            await settled(lambda: service.connections == 2)
            stage.close()
            streams[1].close()
            await settled(lambda: service.connections == 0)

    go(test)


def test_a_pipe_that_is_left_ends_as_the_block_did(network: Living) -> None:
    async def test() -> None:
        codes: asyncio.Queue[int | None] = asyncio.Queue()

        async def listen(pipe: Pipe[bytes]) -> None:
            try:
                await pipe.readall()
            except convergence.PipeBroken:
                pass
            codes.put_nowait(pipe.code)

        async with two(network) as (provider, client):
            service = await provider.serve("hash:left", listen)
            async with await client.connect("hash:left") as pipe:
                await pipe.write(b"x")
            assert await codes.get() is None
            with pytest.raises(ZeroDivisionError):
                async with await client.connect("hash:left"):
                    raise ZeroDivisionError
            assert await codes.get() == EndReason.MISC
            pipe = await client.connect("hash:left")
            reader, writer = await pipe.streams()
            pipe.abort(EndReason.CONNRESET)
            assert await codes.get() == EndReason.CONNRESET
            assert await reader.read() == b"" and writer.is_closing()
            started = client.local()
            started.close()
            assert started.code == EndReason.DONE
            await settled(lambda: service.connections == 0 and left(client) == 0)

    go(test)


def test_what_is_isolated_shares_no_circuit(network: Living) -> None:
    async def test() -> None:
        async with two(network) as (provider, client):
            await provider.serve("hash:isolated", echo)
            users = ["ada", "ada", "bob", None]
            pipes = [await client.connect("hash:isolated", isolation=user) for user in users]
            circuits: dict[str | None, set[object]] = {user: set() for user in users}
            for user, pipe in zip(users, pipes, strict=True):
                circuits[user].add(pipe._pending.circuit)  # type: ignore[union-attr]
            sets = list(circuits.values())
            assert len(set().union(*sets)) == sum(map(len, sets)) and not any(None in one for one in sets)

    go(test)


def test_cancelled_joins_serves_and_handlers_leave_nothing(network: Living) -> None:
    async def test() -> None:
        for pause in (0, 0.001, 0.01, 0.05):
            task = asyncio.create_task(convergence.join(network.site, rtc=False).__aenter__())
            await asyncio.sleep(pause)
            task.cancel()
            [joined] = await asyncio.gather(task, return_exceptions=True)
            if isinstance(joined, convergence.Node):
                await joined.__aexit__(None, None, None)
        async with two(network) as (provider, client):
            for pause in (0, 0.001, 0.005):
                task2 = asyncio.create_task(provider.serve("hash:cancelled", echo))
                await asyncio.sleep(pause)
                task2.cancel()
                [served] = await asyncio.gather(task2, return_exceptions=True)
                if isinstance(served, convergence.Service):
                    await served.close()
            cancelled = asyncio.Event()

            async def patient(pipe: Pipe[bytes]) -> None:
                try:
                    await pipe.read()
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            service = await provider.serve("hash:cancelled", patient)
            pipe = await client.connect("hash:cancelled", patience=30)
            await service.close()
            assert cancelled.is_set()
            with pytest.raises(convergence.PipeBroken):
                await pipe.read()
        names = {task.get_name() for task in asyncio.all_tasks()} - {asyncio.current_task().get_name()}  # type: ignore[union-attr]
        assert not names

    go(test)


# -- joining


def test_a_site_that_is_down_is_told_in_words() -> None:
    async def test() -> None:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(convergence.JoinError, match="is no Convergence site"):
            async with convergence.join(f"http://127.0.0.1:{port}/"):
                pass
        server.close()
        await server.wait_closed()
        with pytest.raises(convergence.JoinError, match="does not answer"):
            async with convergence.join(f"http://127.0.0.1:{port}/"):
                pass
        with pytest.raises(convergence.JoinError, match="is no address of a site"):
            async with convergence.join("ftp://site/"):
                pass
        with pytest.raises(convergence.JoinError, match="No nodes are known"):
            async with convergence.join(nodes=[], timeout=0.05, rtc=False):
                pass
        node = convergence.join("http://127.0.0.1:1/")
        with pytest.raises(RuntimeError):
            await node.connect("hash:x")

    go(test)


def test_a_site_whose_facilitator_is_gone_is_told_in_words() -> None:
    async def test() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = b'{"facilitator": {"identity": "%s", "path": "http://127.0.0.1:1/facilitator"}}' % (b"ab" * 32)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        site = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(convergence.JoinError, match="The facilitator cannot be reached") as down:
            async with convergence.join(site, rtc=False, timeout=0.5):
                pass
        assert down.value.why is FacilitatorWhy.UNREACHABLE
        server.close()

    go(test)


def test_without_a_facilitator_nodes_come_from_the_program(network: Living, tmp_path: Path) -> None:
    (tmp_path / "nodes.txt").write_text("# a comment\nnonsense\n\n" + "\n".join(network.nodes))

    async def test() -> None:
        async with (
            convergence.join(nodes=tmp_path / "nodes.txt", rtc=False) as provider,
            convergence.join(nodes=["nonsense", *network.nodes[:1]], rtc=False) as client,
            convergence.join(nodes=lambda: from_text("\n".join(network.nodes)), rtc=False) as third,
        ):
            assert sorted(provider.nodes()) == sorted(network.nodes) and len(client.nodes()) == 1
            client.know(provider.nodes())
            assert sorted(client.nodes()) == sorted(third.nodes()) == sorted(network.nodes)
            await provider.serve("hash:given", echo)
            pipe = await client.connect("hash:given")
            await pipe.write(b"found")
            assert await pipe.readexactly(5) == b"found"

    go(test)


def test_it_runs_in_the_loop_of_the_commands_too(network: Living) -> None:
    async def main(stop: asyncio.Event) -> int:
        async with asyncio.timeout(LIMIT), two(network) as (provider, client):
            await provider.serve("hash:echo", echo)
            reader, writer = await client.open_connection("hash:echo")
            writer.write(b"x\n")
            return len(await reader.readline())

    assert run(main) == 2


# -- without asyncio


def test_the_blocking_form_gives_files(network: Living) -> None:
    def shout(pipe: convergence.BlockingPipe) -> None:
        with pipe.makefile("rw") as file:
            for line in file:
                file.write(line.upper())
                file.flush()

    with convergence.join_sync(network.site, rtc=False) as node:
        with node.serve("hash:shout", shout) as service, node.connect("hash:shout") as pipe:
            assert service.points > 0 and pipe.address == "hash:shout"
            file = pipe.makefile("rw")
            print("hello", file=file, flush=True)
            assert file.readline() == "HELLO\n"
            pipe.timeout = 0.05
            with pytest.raises(TimeoutError):
                pipe.read(1)
            pipe.timeout = None
            pipe.write(b"bye\n")
            pipe.end()
            assert pipe.read() == b"BYE\n" and pipe.read(5) == b""
        with pytest.raises(convergence.ConnectError):
            node.connect("hash:shout", patience=0.2)
    with pytest.raises(RuntimeError):
        node.connect("hash:shout")


def test_files_of_the_blocking_form_end_with_codes_and_by_themselves(network: Living) -> None:
    heard: queue.Queue[object] = queue.Queue()

    def listen(pipe: convergence.BlockingPipe) -> None:
        assert pipe.address == "" and pipe.readable() and pipe.writable()
        try:
            heard.put(pipe.readall())
        except convergence.PipeBroken as error:
            heard.put(error.code)

    with convergence.join_sync(network.site, rtc=False) as node:
        service = node.serve(convergence.new_secret(), listen)
        pipe = node.connect(service.address)
        with pipe.makefile("wb") as file:
            file.write(b"buffered")
        pipe.end()
        assert heard.get(timeout=LIMIT) == b"buffered" and service.served == 1
        node.connect(service.address).abort(EndReason.CONNRESET)
        assert heard.get(timeout=LIMIT) == EndReason.CONNRESET
        node.connect(service.address)  # nobody keeps it: that closes it
        gc.collect()
        assert heard.get(timeout=LIMIT) == b""
        assert len(node.nodes()) == 5
        caller = node._caller
        assert caller is not None
        waiting = caller.run(asyncio.to_thread(lambda: pipe.closed))
        assert waiting is False

        async def wrong() -> None:
            node.connect(service.address)

        with pytest.raises(RuntimeError, match="own thread"):
            caller.run(wrong())
    pipe.close()


def test_a_closed_file_of_the_blocking_form_is_closed(network: Living) -> None:
    with convergence.join_sync(network.site, rtc=False) as node, node.serve("hash:shut", lambda pipe: pipe.read(1)):
        pipe = node.connect("hash:shut")
        pipe.close()
        pipe.close()
        for use in (lambda: pipe.read(1), pipe.read, lambda: pipe.write(b"x"), pipe.end, pipe.makefile):
            with pytest.raises(ValueError, match="closed"):
                use()


def test_a_fork_is_told_that_the_node_is_not_in_it(network: Living) -> None:
    with convergence.join_sync(network.site, rtc=False) as node, node.serve("hash:fork", lambda pipe: pipe.read(1)):
        pipe = node.connect("hash:fork")
        child = os.fork()
        if not child:
            signal.alarm(LIMIT)  # ends a child that hangs
            with suppress(RuntimeError):
                pipe.write(b"x")
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        pipe.close()


def test_a_call_that_comes_while_the_loop_ends_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    answers: queue.Queue[str] = queue.Queue()

    def ask() -> None:
        try:
            caller.call(lambda: None)
        except RuntimeError as error:
            answers.put(str(error))

    class Ending(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
            try:
                return super().call_soon_threadsafe(*arguments, **options)
            finally:
                if threading.current_thread() is asking:
                    asked.set()

        def close(self) -> None:
            """It runs no more, and is not closed yet."""
            asking.start()
            asked.wait(LIMIT)
            super().close()

    asking = threading.Thread(target=ask, daemon=True)
    monkeypatch.setattr("pynode.api.blocking.loop_factory", lambda: Ending)
    caller = Caller()
    caller.close()
    assert answers.get(timeout=LIMIT) == "the node does not run any more"


def test_a_handler_in_a_thread_that_fails_ends_only_its_connection(network: Living) -> None:
    def sometimes(pipe: convergence.BlockingPipe) -> None:
        if pipe.read(1) == b"f":
            raise SystemError
        pipe.write(b"fine")

    with convergence.join_sync(nodes=network.nodes, rtc=False) as node:
        node.serve("hash:sometimes", sometimes)
        with node.connect("hash:sometimes") as bad, node.connect("hash:sometimes") as good:
            bad.write(b"f")
            with pytest.raises(convergence.PipeBroken):
                bad.read(1)
            good.write(b"g")
            assert good.readall() == b"fine"


def test_a_site_that_is_down_is_told_to_scripts_too() -> None:
    with pytest.raises(convergence.JoinError):
        with convergence.join_sync("http://127.0.0.1:1/"):
            pass


# -- the door


def test_the_core_alone_has_no_api_and_loads_nothing_of_a_platform() -> None:
    core = Path(convergence.__file__).parents[1]
    program = (
        "import sys, convergence\n"
        "assert not {'asyncio', 'pynode', 'ssl', 'socket'} & set(sys.modules)\n"
        "from convergence import errors\n"
        "try:\n    convergence.join\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(core)},
        cwd=core,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout == "module 'convergence' has no attribute 'join'\n", done.stderr


def test_all_names_of_the_api_are_at_the_door() -> None:
    from pynode import api

    assert set(api.__all__) == convergence._API
    assert all(getattr(convergence, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError):
        _ = convergence.nothing


def test_a_service_that_no_point_takes_is_told(network: Living) -> None:
    async def test() -> None:
        async with convergence.join(nodes=network.nodes[:1], rtc=False) as node:
            with pytest.raises(convergence.ServeError, match="cannot be found"):
                await node.serve("hash:alone", echo, timeout=0.5)
            assert not node._services and node_module.MAX_CLIENTS == 1024

    go(test)
