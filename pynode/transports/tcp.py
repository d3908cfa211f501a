"""TCP channels of an exit, and its name look-ups.

Does: look a host up, judge what came back by the exit policy, connect to that very address (a name cannot be rebound
in between), carry bytes both ways with back-pressure, say in one word why a channel ended.
Does not: listen, or know streams. A side that has ended ends the channel: END closes a stream both ways.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any, TypeVar, cast

from convergence.circuit.exit import MAX_EXIT_STREAMS
from convergence.effects import Failure, Protocol
from convergence.wire.relay import reverse_address
from pynode.exit import CloseReason, Policy, is_public, plain_address
from pynode.transports import CLOSE_TIMEOUT, LOW_WATER, Channels, until_gone
from pynode.transports.lookups import LookUps, TooManyLookUpsError
from pynode.transports.unsent import Unsent

CLOSING_PART = 4
"""One channel in so many may still flush after it was closed; beyond, the oldest of those is cut off."""

MAX_CHANNELS = MAX_EXIT_STREAMS * CLOSING_PART // (CLOSING_PART - 1)
"""TCP channels at a time, dialling ones included. The rest of them are streams of the core, which shares them out."""

MAX_LOOKUPS = 64
"""Name look-ups at a time; beyond, for each source its equal part of them."""

MAX_ADDRESSES = 4
"""Addresses of a host that are tried or told."""

RESOLVE_TIMEOUT = 10.0
CONNECT_TIMEOUT = 20.0
"""Seconds for all addresses of a host together; each gets its share."""

CHUNK = 65536
"""Most bytes handed to the driver at once."""

T = TypeVar("T")

log = logging.getLogger("pynode.tcp")


class _Refused(Exception):
    """Not connected, for `reason`."""

    def __init__(self, reason: CloseReason, address: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.address = address


class _Stream(asyncio.Protocol):
    """One connection. `channel` is None once nothing more is to be reported."""

    def __init__(self, owner: TcpTransport, channel: int) -> None:
        self.owner = owner
        self.channel: int | None = channel
        self.transport: asyncio.Transport | None = None
        self.congested = False
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp = self.transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, but not the class
        if self.channel is None:  # closed while it was being dialled
            tcp.abort()
            return
        high = self.owner.unsent.high_water
        tcp.set_write_buffer_limits(high, min(LOW_WATER, high // 4))
        if self.paused:  # uvloop starts to read once this method returns, even if it was paused
            asyncio.get_running_loop().call_soon(self.hold)
        self.owner.channels.opened(self.channel, Protocol.TCP, None)

    def hold(self) -> None:
        """Stop or start to read, as the core wants it now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading() if self.paused else self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            if self.channel is not None:
                piece = data if len(data) <= CHUNK else data[start : start + CHUNK]
                self.owner.channels.received(self.channel, bytes(piece))

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def overfull(self) -> None:
        self.report(CloseReason.LIMIT)
        self.owner._cut(self)

    def eof_received(self) -> bool:
        return False  # flush, then close

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            reason = CloseReason.DONE
        else:
            reason = CloseReason.TIMEOUT if isinstance(error, TimeoutError) else CloseReason.RESET
        self.report(reason)
        self.owner._gone(self)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if self.channel is not None:
            self.owner.channels.drained(self.channel)

    def report(self, reason: CloseReason, address: str = "") -> None:
        """Tell the core, once."""
        channel, self.channel = self.channel, None
        if channel is not None:
            self.owner._closed(channel, f"{reason} {address}" if address else str(reason))


class TcpTransport:
    """Implements ports.Transport for TCP channels and ports.Resolver. Set `channels` (a Driver) before use.

    Args:
        max_channels: no more than MAX_CHANNELS are used.

    Attributes:
        max_streams: channels that are open or being opened; the core has to keep to it.
    """

    channels: Channels

    def __init__(self, policy: Policy, max_channels: int = MAX_CHANNELS, unsent: Unsent | None = None) -> None:
        self.unsent = unsent or Unsent()
        self._policy = policy
        self._max_channels = min(max_channels, MAX_CHANNELS)
        self._max_closing = self._max_channels // CLOSING_PART
        self.max_streams = self._max_channels - self._max_closing
        self._streams: dict[int, _Stream] = {}
        self._live: set[_Stream] = set()
        self._closing: dict[_Stream, None] = {}  # the oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._dials: dict[int, asyncio.Task[None]] = {}
        self._look_ups = LookUps("exit-look-up", MAX_LOOKUPS)
        self._all_gone = asyncio.Event()

    def __contains__(self, channel: int) -> bool:
        return channel in self._streams

    # -- ports.Transport

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        """Connect to "host:port" ("[v6]:port"), if the policy allows. "/64" behind it says over which versions of IP,
        the preferred one first; without it, the system prefers."""
        stream = _Stream(self, channel)
        if len(self._streams) + len(self._closing) >= self._max_channels:
            stream.report(CloseReason.LIMIT)
            return
        self._streams[channel] = stream
        self._live.add(stream)
        task = asyncio.get_running_loop().create_task(self._dial(stream, address, source))
        self._dials[channel] = task

        def dialled(_: asyncio.Task[None]) -> None:
            self._dials.pop(channel, None)
            if stream.transport is None:
                self._gone(stream)

        task.add_done_callback(dialled)

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        stream = self._streams.get(channel)
        if stream is None or stream.transport is None:
            return True
        # Not `writelines`: before Python 3.12.9 and 3.13.2 asyncio's knows no flow control.
        stream.transport.write(b"".join(buffers))
        self.unsent.note(stream)
        return not stream.congested

    def close(self, channel: int, reason: str) -> None:
        """Flush, then close; after CLOSE_TIMEOUT seconds it is cut off."""
        stream = self._streams.pop(channel, None)
        if stream is None:
            return
        stream.channel = None
        if stream.transport is None:
            dial = self._dials.pop(channel, None)
            if dial is not None:
                dial.cancel()
            return
        self._closing[stream] = None
        stream.transport.close()
        if len(self._closing) > self._max_closing:
            self._cut(next(iter(self._closing)))
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut, stream)

    def pause(self, channel: int, paused: bool) -> None:
        stream = self._streams.get(channel)
        if stream is None or stream.paused == paused:
            return
        stream.paused = paused
        stream.hold()

    # -- ports.Resolver

    def resolve(self, host: str, reply: Callable[[list[str] | Failure], None], source: Hashable = None) -> None:
        """Addresses of a host, or the name of an address, that the policy allows on some port. A Failure is "policy",
        "refused" or "not-found"."""
        reverse = reverse_address(host)

        async def answer() -> None:
            try:
                if reverse is None:
                    addresses = await self._lookup(host, None, source)
                else:
                    addresses = [await self._name(reverse, source)]
            except _Refused as refusal:
                kind = {CloseReason.POLICY: "policy", CloseReason.LIMIT: "refused"}.get(refusal.reason, "not-found")
                reply(Failure(kind, f"cannot look the name up: {refusal.reason}"))
            else:
                reply(addresses)

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- for the application

    async def shutdown(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close everything; wait at most `timeout` seconds for data that is still to be flushed."""
        self._look_ups.close()
        for task in list(self._tasks):
            task.cancel()
        for channel in list(self._streams):
            self.close(channel, "shutting down")
        await until_gone(self._live, self._all_gone, self._cut, timeout)

    @property
    def connections(self) -> int:
        """How many connections there are now, dialling ones included."""
        return len(self._live)

    # -- inside

    async def _dial(self, stream: _Stream, address: str, source: Hashable) -> None:
        try:
            target, slash, versions = address.partition("/")
            host, port = _split(target)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                addresses = await self._lookup(host, port, source, versions if slash else None)
                await self._connect_any(stream, addresses, port)
        except _Refused as refusal:
            stream.report(refusal.reason, refusal.address)
        except TimeoutError:
            stream.report(CloseReason.TIMEOUT)

    async def _connect_any(self, stream: _Stream, addresses: list[str], port: int) -> None:
        """Try one address after the other: a host may have IPv6 addresses where we have no route for them."""
        loop = asyncio.get_running_loop()
        reason = CloseReason.UNREACHABLE
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT / len(addresses)):
                    await loop.create_connection(lambda: stream, address, port)
                return
            except OSError as error:  # TimeoutError is one
                reason = _dial_reason(error)
        raise _Refused(reason)

    async def _lookup(self, host: str, port: int | None, source: Hashable, versions: str | None = None) -> list[str]:
        """Allowed addresses of a host, at most MAX_ADDRESSES, by version of IP, then in the system's order."""
        if not self._policy.may_permit(host, port):
            raise _Refused(CloseReason.POLICY)
        found = await self._found(self._look_ups.find(host, port or 0, source))
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [address for address in addresses if self._policy.permits(host, address, port)]
        if versions is not None:
            allowed = [address for digit in versions for address in allowed if (":" in address) == (digit == "6")]
        if not allowed:
            # An address of this exit's own network is nobody's business.
            public = (address for address in addresses if (plain := plain_address(address)) and is_public(plain))
            raise _Refused(CloseReason.POLICY, next(public, "")) if addresses else _Refused(CloseReason.RESOLVE)
        return allowed[:MAX_ADDRESSES]

    async def _name(self, address: str, source: Hashable) -> str:
        if not self._policy.permits(address, address, None):
            raise _Refused(CloseReason.POLICY)
        return await self._found(self._look_ups.name(address, source))

    async def _found(self, look_up: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                return await look_up
        except TooManyLookUpsError:
            raise _Refused(CloseReason.LIMIT) from None
        except (OSError, UnicodeError):
            raise _Refused(CloseReason.RESOLVE) from None

    def _closed(self, channel: int, reason: str) -> None:
        self._streams.pop(channel, None)
        self.channels.closed(channel, reason)

    def _gone(self, stream: _Stream) -> None:
        self._live.discard(stream)
        self._closing.pop(stream, None)
        self.unsent.forget(stream)
        if not self._live:
            self._all_gone.set()

    def _cut(self, stream: _Stream) -> None:
        self._closing.pop(stream, None)
        if stream in self._live and stream.transport is not None:
            stream.transport.abort()


def _split(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65536:
        raise _Refused(CloseReason.POLICY)
    return host, int(port)


def _dial_reason(error: OSError) -> CloseReason:
    if isinstance(error, TimeoutError):
        return CloseReason.TIMEOUT
    if error.errno == errno.ECONNREFUSED:
        return CloseReason.REFUSED
    return CloseReason.RESET if error.errno == errno.ECONNRESET else CloseReason.UNREACHABLE
