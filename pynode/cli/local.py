"""Where programs of this machine connect: a port, or a unix socket that only this user may connect to.

Does: listen there, take MAX_LOCAL connections at once, leave no socket file behind.
Does not: know where connections lead.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

from convergence.errors import EndReason
from pynode.app import App, bound
from pynode.cli.output import CliError, Output
from pynode.config import Address
from pynode.pipes import SocketPipe

MAX_LOCAL = 2048  # connections of programs at once; more are closed


class Visitors:
    """Makes a pipe of each program that connects, and closes those beyond MAX_LOCAL.

    Args:
        came: called with the pipe of each other one.
    """

    def __init__(self, app: App, output: Output, came: Callable[[SocketPipe], None]) -> None:
        self._app = app
        self._output = output
        self._came = came
        self._count = 0
        self._said = False  # that there are too many, since there were not

    def pipe(self) -> SocketPipe:
        """For the next one."""
        return SocketPipe(self._app.driver, self._visit, self._gone)

    def _visit(self, local: SocketPipe) -> None:
        self._count += 1
        if self._count <= MAX_LOCAL:
            self._came(local)
            return
        if not self._said:
            self._said = True
            self._output.say(f"{MAX_LOCAL} connections are open: more are refused until some end.")
            self._output.record("full", most=MAX_LOCAL)
        self._app.call(lambda now: local.abort(EndReason.RESOURCELIMIT, now))

    def _gone(self) -> None:
        self._count -= 1
        self._said = self._said and self._count >= MAX_LOCAL


@asynccontextmanager
async def listening(where: Address | Path, make: Callable[[], asyncio.Protocol]) -> AsyncIterator[asyncio.Server]:
    """Listen at an address, or at a unix socket whose file goes at the end. Raises AppError, CliError."""
    server = await (_at_port(where, make) if isinstance(where, Address) else _at_socket(where, make))
    own = None if isinstance(where, Address) else _file(where)
    try:
        yield server
    finally:
        server.close()
        if isinstance(where, Path) and own is not None and _file(where) == own:  # else another's stands there by now
            with suppress(OSError):
                where.unlink()


async def _at_port(where: Address, make: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    servers: list[asyncio.Server] = []

    async def port() -> int:
        servers.append(await asyncio.get_running_loop().create_server(make, where.host, where.port))
        return int(servers[0].sockets[0].getsockname()[1])

    await bound(where, port())
    return servers[0]


async def _at_socket(path: Path, make: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    before = os.umask(0o177)
    try:
        if _file(path) is not None:
            await _remove_if_dead(path)
        return await asyncio.get_running_loop().create_unix_server(make, str(path))
    except OSError as error:
        raise CliError(f"Cannot listen at {path}: {os.strerror(error.errno or 0)}.") from None
    finally:
        os.umask(before)


async def _remove_if_dead(path: Path) -> None:
    """A socket at which nobody listens any more. Raises CliError, OSError."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise CliError(f"{path} is there already, and is no socket: choose another path.")
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except ConnectionRefusedError:
        path.unlink()
        return
    writer.close()
    raise CliError(f"{path} is in use: stop what uses it, or choose another path.")


def _file(path: Path) -> tuple[int, int] | None:
    """Which file stands there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def warn_of_strangers(output: Output, where: Address | Path) -> None:
    """Say so if not only this machine reaches what listens there."""
    if isinstance(where, Address) and not _is_loopback(where.host):
        output.say("Everybody who reaches this address can use it.")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
