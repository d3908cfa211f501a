"""What every pipe and forwarded port does, whatever passes: each direction ends by itself, many at once keep apart."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol, cast

import pytest

from tests.e2e.processes import MIB, PATIENCE
from tests.interop.programs import child
from tests.interop.ways import Service, Way
from tests.namespace import program

CONNECTIONS = 1000


class End(Protocol):
    """Our end of a stream."""

    out: IO[bytes]
    into: IO[bytes]

    def end(self) -> None:
        """Half-close: say no more."""


class PipeEnd:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        self.into, self.out = process.stdin, process.stdout

    def end(self) -> None:
        self.into.close()


class SocketEnd:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(PATIENCE)
        self.into: IO[bytes] = cast(IO[bytes], connection.makefile("wb", buffering=0))
        self.out: IO[bytes] = connection.makefile("rb")

    def end(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)


@contextmanager
def opened(service: Service, what: str) -> Iterator[End]:
    """A stream to the service, by a pipe that is to end well, or by a forwarded port."""
    if what == "pipe":
        with child(service.pipe, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield PipeEnd(process)
            assert process.wait(PATIENCE) == 0
    else:
        with service.forward() as (_, port), socket.create_connection(("127.0.0.1", port)) as connection:
            yield SocketEnd(connection)


def write(end: End, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[end.into.write(view) :]


@pytest.mark.parametrize("what", ["pipe", "forward"])
def test_who_has_said_all_still_hears_the_answer(way: Way, what: str) -> None:
    """The far program answers only once it knows that there is no more."""
    with way.to_program(program("wc"), "-c") as service, opened(service, what) as end:
        write(end, bytes(3 * MIB))
        end.end()
        assert end.out.read().split() == [b"%d" % (3 * MIB)]


@pytest.mark.parametrize("what", ["pipe", "forward"])
def test_who_has_heard_all_still_speaks(way: Way, what: str) -> None:
    data = os.urandom(3 * MIB)
    with socket.create_server(("127.0.0.1", 0)) as listening, way.to_port(listening.getsockname()[1]) as service:
        listening.settimeout(PATIENCE)
        with opened(service, what) as end:
            far, _ = listening.accept()
            with far:
                far.settimeout(PATIENCE)
                far.sendall(b"good-bye")
                far.shutdown(socket.SHUT_WR)
                assert end.out.read() == b"good-bye"  # and the end
                write(end, data[:MIB])
                heard = far.recv(MIB, socket.MSG_WAITALL)
                write(end, data[MIB : 2 * MIB])
                heard += far.recv(MIB, socket.MSG_WAITALL)
                write(end, data[2 * MIB :])
                end.end()
                while more := far.recv(MIB):
                    heard += more
                assert heard == data


class Echo(asyncio.Protocol):
    """Says what it hears, and ends when it has heard all."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many as this process, and those that it starts, may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
def test_a_thousand_connections_at_once(way: Way) -> None:
    """Each hears what it said, and nothing of another."""

    async def crowd() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=CONNECTIONS)
        with way.to_port(server.sockets[0].getsockname()[1]) as service, service.forward() as (_, port):
            async with asyncio.timeout(PATIENCE):
                opening = (asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS))
                connections = await asyncio.gather(*opening)
                for number, (_, writer) in enumerate(connections):
                    writer.write(b"connection %d\n" % number)
                for number, (reader, _) in enumerate(connections):  # all are open now
                    assert await reader.readline() == b"connection %d\n" % number
                for number, (_, writer) in enumerate(connections):
                    writer.write(b"end of %d" % number)
                    writer.write_eof()
                for number, (reader, writer) in enumerate(connections):
                    assert await reader.read() == b"end of %d" % number
                    writer.close()
        server.close()

    asyncio.run(crowd())
