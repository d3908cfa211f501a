"""The transport of a facilitator: channels that its site accepts, and links that it dials to find nodes.

Does: send each channel to the transport that carries its protocol, say where a channel comes from, decide whether
private addresses are dialled.
Does not: carry anything itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from convergence.effects import DescriptionKind, Protocol
from pynode.exit import is_public, plain_address
from pynode.site import FacilitatorSockets
from pynode.transports import CLOSE_TIMEOUT, Channels
from pynode.transports.websocket import WebSocketTransport

PREFIXES = {4: 24, 6: 48}
"""Bits of an address that name its network: what one party usually has many addresses of."""

LOOK_UP_TIMEOUT = 5.0
"""Seconds to look one of our own names up, at the start."""


def network_of(remote: str | None) -> str:
    """The network that registrations from this address are counted under; "" for loopback, where proxies stand."""
    address = plain_address(remote or "")
    if address is None or address.is_loopback:
        return ""
    return str(ip_network((address, PREFIXES[address.version]), strict=False))


async def is_private(hosts: Iterable[str]) -> bool:
    """Whether a facilitator under these names and addresses is one of a private network, whose nodes have private
    addresses. One that has a public address dials public addresses only, for strangers name what it dials. A name that
    nobody can look up makes nothing public."""
    loop = asyncio.get_running_loop()
    for host in filter(None, hosts):
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT):
                found = await loop.getaddrinfo(host, None)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            continue
        addresses = [plain_address(str(item[4][0])) for item in found]
        if any(address is not None and is_public(address) for address in addresses):
            return False
    return True


class FacilitatorTransport:
    """Implements ports.Transport.

    Args:
        sockets: accept FACILITATOR channels.
        links: dials.
    """

    def __init__(self, sockets: FacilitatorSockets, links: WebSocketTransport) -> None:
        self._sockets = sockets
        self._links = links
        self._dialled: set[int] = set()

    def attach(self, channels: Channels) -> None:
        """Report to this driver."""
        self._sockets.channels = channels
        self._links.channels = channels

    def source(self, channel: int) -> str:
        """Where an accepted channel comes from, for limits."""
        return network_of(self._sockets.remote(channel))

    def connect(self, channel: int, protocol: Protocol, address: str) -> None:
        self._dialled.add(channel)
        self._links.connect(channel, protocol, address)

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        """Only RTC channels are described."""

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        return self._carrier(channel).send(channel, buffers)

    def close(self, channel: int, reason: str) -> None:
        self._carrier(channel).close(channel, reason)
        self._dialled.discard(channel)

    def pause(self, channel: int, paused: bool) -> None:
        """Only TCP channels are paused."""

    async def shutdown(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close what was dialled; the site closes what it accepted."""
        await self._links.shutdown(timeout)

    def _carrier(self, channel: int) -> FacilitatorSockets | WebSocketTransport:
        return self._links if channel in self._dialled else self._sockets
