"""Look-ups of host names, shared out among those who cause them.

Does: tell the addresses of a host, and the name of an address; refuse whoever has its part of the threads, and leave
the others theirs.
Does not: judge an address.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias, TypeVar

from convergence.limits import below_its_part, most_in_parts

T = TypeVar("T")
Found: TypeAlias = list[tuple[Any, ...]]
"""What `socket.getaddrinfo` returns."""


class TooManyLookUpsError(OSError):
    """Whoever asks has its part of the look-ups under way."""


class LookUps:
    """Look-ups in threads. One lasts for as long as the name's servers are silent, and nobody can end it: it counts
    until its thread is free, whether or not somebody still waits.

    Args:
        name: of the threads.
        at_once: look-ups; beyond them, sources below their equal part still get theirs.
    """

    def __init__(self, name: str, at_once: int) -> None:
        self._at_once = at_once
        self._threads = ThreadPoolExecutor(most_in_parts(at_once), name)
        self._under_way: dict[Future[Any], Hashable] = {}  # and whose

    async def find(self, host: str, port: int, source: Hashable) -> Found:
        """The addresses of a host; a numeric one needs no thread.

        Raises:
            OSError: there are none, or too many look-ups of this source are under way (TooManyLookUpsError).
            UnicodeError: no name can be like that.
        """
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            return look_up(flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        return await self._in_thread(look_up, source)

    async def name(self, address: str, source: Hashable) -> str:
        """The host name of an IP address. Raises OSError as `find` does."""
        host, _ = await self._in_thread(partial(socket.getnameinfo, (address, 0), socket.NI_NAMEREQD), source)
        return host

    async def _in_thread(self, look_up: Callable[[], T], source: Hashable) -> T:
        self._under_way = {thread: whose for thread, whose in self._under_way.items() if not thread.done()}
        sources = self._under_way.values()
        if len(sources) >= self._at_once and not below_its_part(sources, source, self._at_once):
            raise TooManyLookUpsError("too many look-ups")
        thread = self._threads.submit(look_up)
        self._under_way[thread] = source
        return await asyncio.wrap_future(thread)

    def close(self) -> None:
        """Begin no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
