"""Listening sockets of a process, and how many descriptors it may use.

Does: raise the limit of descriptors; accept connections, up to a limit from one address; accept none while descriptors
are nearly used up, so that files, links of our own and the database still find some.
Does not: know a protocol.

The event loops' own servers keep no such reserve. When no descriptor is left, asyncio's server tries again and logs
without end, and uvloop's accepts and closes. A connection that is not accepted here waits in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Any

from pynode.exit import plain_address

MAX_DESCRIPTORS = 65_536
"""Descriptors that a process asks the system for, if it may."""

RESERVE = 128
"""Descriptors that connections of strangers leave free; of a small limit an eighth."""

MAX_FROM_ONE = 512
"""Connections accepted from one address (IPv6: one /64) at a time: an eighth of the places. A household shares one."""

BACKLOG = 1024
AT_ONCE = 64
"""Connections accepted before others have a turn."""

REST, LONGEST_REST = 0.1, 2.0
"""Seconds until the next look whether there are descriptors; doubled each time."""

LOG_PAUSE = 60.0
"""Seconds at least between two log lines that say that there are no descriptors."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger("pynode.listening")

Factory = Callable[[], asyncio.BaseProtocol]
Connect = Callable[[asyncio.AbstractEventLoop, Factory, socket.socket], Awaitable[object]]
"""Makes a transport of an accepted socket, as `loop.connect_accepted_socket` does."""


async def _by_loop(loop: asyncio.AbstractEventLoop, factory: Factory, connection: socket.socket) -> object:
    return await loop.connect_accepted_socket(factory, connection)


def raise_descriptor_limit(wanted: int = MAX_DESCRIPTORS) -> int:
    """Let this process use as many descriptors as it may, `wanted` at most. Returns how many it may use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    bound = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < bound:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (bound, hard))
        except (OSError, ValueError):  # macOS allows less than it says
            return soft
        return bound
    return wanted if soft == resource.RLIM_INFINITY else soft


def usable_descriptors() -> int:
    """The limit for the descriptors of strangers' connections. A new descriptor has the lowest free number, so that its
    number tells how many are in use."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    return limit - min(RESERVE, limit // 8)


def counted_as(remote: str | None) -> str:
    """The name under which connections from this address are counted; "" for loopback, which is not limited because
    proxies connect from there."""
    address = plain_address(remote or "")
    if address is None or address.is_loopback:
        return ""
    return str(ip_network((address, 64 if address.version == 6 else 32), strict=False))


class Sources:
    """Connections by where they come from.

    Args:
        limit: connections from one source at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._from: dict[str, list[socket.socket]] = {}  # closed ones may still be in it
        self._count = 0
        self._purge_at = 2 * limit

    def take(self, remote: str, connection: socket.socket) -> bool:
        """Count a connection until it is closed; False: there are too many from its source."""
        source = counted_as(remote)
        if not source:
            return True
        known = self._from.setdefault(source, [])
        if len(known) >= self._limit:
            known[:] = filter(_open, known)
            if len(known) >= self._limit:
                return False
        known.append(connection)
        self._count += 1
        if self._count >= self._purge_at:
            self._purge()
        return True

    def _purge(self) -> None:
        left = {source: list(filter(_open, known)) for source, known in self._from.items()}
        self._from = {source: known for source, known in left.items() if known}
        self._count = sum(map(len, self._from.values()))
        self._purge_at = 2 * max(self._count, self._limit)


def _open(connection: socket.socket) -> bool:
    return connection.fileno() >= 0


class Listener:
    """Accepts connections for one service.

    Args:
        factory: makes the protocol of each connection; connect: its transport.
        from_one: connections from one address at a time; never more than half of the descriptors.
    """

    def __init__(self, factory: Factory, from_one: int = MAX_FROM_ONE, connect: Connect = _by_loop) -> None:
        self.sockets: list[socket.socket] = []
        self._factory = factory
        self._connect = connect
        self._sources = Sources(min(from_one, max(usable_descriptors() // 2, 1)))
        self._rest = REST
        self._wake: asyncio.TimerHandle | None = None
        self._silent_until = 0.0
        self._handing_over: set[asyncio.Task[Any]] = set()

    async def start(self, host: str, port: int) -> int:
        """`bind` and `accept`."""
        bound = await self.bind(host, port)
        self.accept()
        return bound

    async def bind(self, host: str, port: int) -> int:
        """Listen on every address of `host`, all of them if it is empty. Connections wait until `accept`.

        Returns:
            The port that was bound, for callers that asked for port 0.

        Raises:
            OSError: an address is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, number, _, address in dict.fromkeys(found):
                self.sockets.append(self._listen(family, kind, number, (address[0], port, *address[2:])))
                port = self.sockets[0].getsockname()[1]
        except BaseException:
            self.close()
            raise
        return port

    def accept(self) -> None:
        """Accept connections from now on."""
        self._read(True)

    def close(self) -> None:
        """Accept no more."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self._read(False)
        for listening in self.sockets:
            listening.close()
        self.sockets.clear()

    # -- inside

    @staticmethod
    def _listen(family: int, kind: int, number: int, address: Any) -> socket.socket:
        listening = socket.socket(family, kind, number)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening

    def _read(self, wanted: bool) -> None:
        loop = asyncio.get_running_loop()
        for listening in self.sockets:
            loop.add_reader(listening, self._accept, listening) if wanted else loop.remove_reader(listening)

    def _accept(self, listening: socket.socket) -> None:
        if self._wake is not None:
            return  # another socket met the limit in this very turn of the loop
        usable = usable_descriptors()
        for _ in range(AT_ONCE):
            try:
                connection, address = listening.accept()
            except OSError as error:
                # Any other error means that the connection is gone already, or (EAGAIN) that none waits.
                if error.errno in _NO_ROOM:
                    self._pause(os.strerror(error.errno or 0))
                return
            if not self._sources.take(str(address[0]), connection):
                connection.close()
                continue
            self._hand_over(connection)
            if connection.fileno() >= usable:
                self._pause("nearly all open files are in use")
                return
            self._rest = REST

    def _hand_over(self, connection: socket.socket) -> None:
        connection.setblocking(False)

        async def connect() -> None:
            try:
                await self._connect(asyncio.get_running_loop(), self._factory, connection)
            except OSError:  # it is gone already
                connection.close()

        task = asyncio.get_running_loop().create_task(connect())
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    def _pause(self, why: str) -> None:
        """Leave new connections in the kernel's queue for a while."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._silent_until:
            self._silent_until = loop.time() + LOG_PAUSE
            log.warning("no more connections are accepted until some end: %s", why)
        self._read(False)
        self._wake = loop.call_later(self._rest, self._try)
        self._rest = min(2 * self._rest, LONGEST_REST)

    def _try(self) -> None:
        self._wake = None
        try:
            probe = os.dup(self.sockets[0].fileno())
        except OSError as error:
            self._pause(os.strerror(error.errno or 0))
            return
        os.close(probe)
        if probe >= usable_descriptors():
            self._pause("nearly all open files are in use")
        else:
            self._read(True)
