"""The control of the tests with real programs: `pipe`, `serve`, `forward` and `proxy` over plain TCP, nothing between.

Does: take the arguments and print the records that `convergence` does, so that a test which passes here and fails there
has found a fault of Convergence, not of the rig. Services are found in a folder, each a file that holds a port.
Does not: hide, encrypt or authenticate anything, nor leave loopback. TCP alone cannot tell an end from a death.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

CHUNK = 1 << 16
HEAD = 1 << 14
"""Bytes of an HTTP request's head."""
HOST = "127.0.0.1"
ZONE = ".hash.conv"
SERVICE = "hash:"
SOCKS5_REFUSED = 5  # RFC 1928, section 6
SOCKS5_SUCCEEDED = 0
SOCKS4_GRANTED, SOCKS4_REJECTED = 90, 91


class Reader(Protocol):
    async def read(self, size: int, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...


class Stdin:
    """In a thread, because no event loop can wait for a file."""

    async def read(self, size: int, /) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(None, os.read, 0, size)


class Stdout:
    def __init__(self) -> None:
        self._data = memoryview(b"")

    def write(self, data: bytes, /) -> None:
        self._data = memoryview(data)

    async def drain(self) -> None:
        while self._data:
            count = await asyncio.get_running_loop().run_in_executor(None, os.write, 1, self._data)
            self._data = self._data[count:]

    def write_eof(self) -> None:
        os.close(1)


def say(**record: Any) -> None:
    print(json.dumps(record), flush=True)


async def copy(reader: Reader, writer: Writer, ended: Callable[[], Awaitable[None]] | None = None) -> None:
    """All bytes, then the end. `ended` may refuse the end by an OSError."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if ended is not None:
        await ended()
    writer.write_eof()


async def both(*ways: Awaitable[None]) -> None:
    """Both directions to their ends, or the first error and neither."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset: the only way that TCP has to say that something went wrong."""
    with contextlib.suppress(OSError):  # closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def join(
    near: tuple[asyncio.StreamReader, asyncio.StreamWriter], far: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    try:
        await both(copy(near[0], far[1]), copy(far[0], near[1]))
    except OSError:
        reset(near[1])
        reset(far[1])
    for _, writer in (near, far):
        writer.close()


class Services:
    """Where each address is served."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, address: str) -> Path:
        return self._folder / hashlib.sha256(address.encode()).hexdigest()

    async def connect(self, address: str, source: str = HOST) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError."""
        if address.startswith(SERVICE):
            try:
                port = int(self.file(address).read_text())
            except FileNotFoundError:
                raise ConnectionError("nobody offers this service") from None
        else:
            host, _, digits = address.removeprefix("tcp://").rpartition(":")
            if host not in (HOST, "localhost"):
                raise ConnectionError("the control stays on loopback")
            port = int(digits)
        return await asyncio.open_connection(HOST, port, local_addr=(source, 0))


async def listening(
    on_connection: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int = 0
) -> int:
    server = await asyncio.start_server(on_connection, HOST, port, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    return port


async def until_told() -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    return 0


async def pipe(services: Services, address: str) -> int:
    try:
        reader, writer = await services.connect(address)
        await both(copy(Stdin(), writer), copy(reader, Stdout()))
    except OSError as error:
        print(f"The pipe broke: {error.strerror or error}.", file=sys.stderr)
        return 1
    return 0


async def serve(services: Services, address: str, to: str | None, program: Sequence[str]) -> int:
    async def to_port(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if to is not None and to.startswith("unix:"):
                inside = await asyncio.open_unix_connection(to.removeprefix("unix:"))
            else:
                inside = await services.connect(f"tcp://{to}")
        except OSError:
            reset(writer)
            return
        await join((reader, writer), inside)

    async def to_program(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process = await asyncio.create_subprocess_exec(
            *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin and process.stdout

        async def succeeded() -> None:
            if await process.wait() != 0:
                raise ConnectionError("the program failed")

        given = asyncio.ensure_future(copy(reader, process.stdin))
        try:
            await copy(process.stdout, writer, succeeded)
            writer.close()
        except OSError:
            reset(writer)
        finally:
            given.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await given
            if process.returncode is None:
                process.kill()
            await process.wait()

    port = await listening(to_program if program else to_port)
    services.file(address).write_text(str(port))
    say(event="serving", address=address)
    try:
        return await until_told()
    finally:
        services.file(address).unlink()


async def forward(services: Services, listen: str, address: str) -> int:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await services.connect(address)
        except OSError:
            reset(writer)
            return
        await join((reader, writer), far)

    say(event="listening", port=await listening(connected, int(listen.rpartition(":")[2])))
    return await until_told()


class Proxy:
    """SOCKS5, SOCKS4a and HTTP CONNECT on one port. Each user gets an address of loopback to come from: its circuit."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sources: dict[str, str] = {}

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            dialect = {b"\5": self._socks5, b"\4": self._socks4}.get(first, self._http)
            far = await dialect(first, reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            far = None
        if far is None:
            writer.close()
        else:
            await join((reader, writer), far)

    async def _connect(self, host: str, port: int, user: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        source = self._sources.setdefault(user, f"127.0.1.{1 + len(self._sources)}")
        service = host.endswith(ZONE)
        address = f"{SERVICE}{host.removesuffix(ZONE)}" if service else f"tcp://{host}:{port}"
        far = await self._services.connect(address, source)
        say(event="stream", user=user, circuit=source)
        return far

    async def _socks5(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        method, user = (2 if 2 in methods else 0), ""
        writer.write(bytes((5, method)))
        if method == 2:  # RFC 1929
            await reader.readexactly(1)
            user = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            await reader.readexactly((await reader.readexactly(1))[0])
            writer.write(b"\1\0")
        _, _, _, kind = await reader.readexactly(4)
        if kind == 1:
            host = socket.inet_ntoa(await reader.readexactly(4))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        try:
            far = await self._connect(host, port, user)
        except OSError:
            writer.write(bytes((5, SOCKS5_REFUSED, 0, 1)) + bytes(6))
            return None
        writer.write(bytes((5, SOCKS5_SUCCEEDED, 0, 1)) + bytes(6))
        return far

    async def _socks4(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        _, port, ip = struct.unpack("!BH4s", await reader.readexactly(7))
        user = (await reader.readuntil(b"\0"))[:-1].decode()
        host = socket.inet_ntoa(ip)
        if host.startswith("0.0.0."):  # 4a
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        try:
            far = await self._connect(host, port, user)
        except OSError:
            writer.write(bytes((0, SOCKS4_REJECTED)) + bytes(6))
            return None
        writer.write(bytes((0, SOCKS4_GRANTED)) + bytes(6))
        return far

    async def _http(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.partition("\r\n")[0].split(" ")
        if method != "CONNECT":
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\nContent-Length: 0\r\n\r\n")
            return None
        fields = {name.lower(): value for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])}
        if any(name in ("origin", "referer") or name.startswith("sec-fetch-") for name in fields):  # a web page's
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return None
        credentials = fields.get("proxy-authorization", "Basic ").split()[1:]
        user = base64.b64decode(credentials[0]).decode().partition(":")[0] if credentials else ""
        host, _, port = target.rpartition(":")
        try:
            far = await self._connect(host, int(port), user)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return None
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        return far


async def proxy(services: Services, listen: str) -> int:
    say(event="listening", port=await listening(Proxy(services).connected, int(listen.rpartition(":")[2])))
    return await until_told()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser()
    commands = top.add_subparsers(dest="command", required=True)
    for name, positional in {
        "pipe": ["address"],
        "serve": ["address"],
        "forward": ["listen", "address"],
        "proxy": [],
    }.items():
        command = commands.add_parser(name)
        for argument in positional:
            command.add_argument(argument)
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--json", action="store_true")
        command.add_argument("--listen" if name == "proxy" else "--to")
    return top


async def main(arguments: list[str]) -> int:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    given, program = parser().parse_args(arguments[:at]), arguments[at + 1 :]
    services = Services(given.data)
    match given.command:
        case "pipe":
            return await pipe(services, given.address)
        case "serve":
            return await serve(services, given.address, given.to, program)
        case "forward":
            return await forward(services, given.listen, given.address)
        case _:
            return await proxy(services, given.listen)


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    code = loop.run_until_complete(main(sys.argv[1:]))
    os._exit(code)  # a thread may still wait for standard input
