"""The transport of a facilitator: channels that its site accepts, and links that it dials to find nodes.

Does: send each channel to the transport that carries its protocol, say where a channel comes from.
Does not: carry anything itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from ipaddress import ip_network

from convergence.effects import DescriptionKind, Protocol
from pynode.exit import plain_address
from pynode.site import FacilitatorSockets
from pynode.transports import CLOSE_TIMEOUT, Channels
from pynode.transports.websocket import WebSocketTransport

PREFIXES = {4: 24, 6: 48}
"""Bits of an address that name its network: what one party usually has many addresses of."""


def network_of(remote: str | None) -> str:
    """The network that registrations from this address are counted under; "" for loopback, where proxies stand."""
    address = plain_address(remote or "")
    if address is None or address.is_loopback:
        return ""
    return str(ip_network((address, PREFIXES[address.version]), strict=False))


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

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        self._dialled.add(channel)
        self._links.connect(channel, protocol, address, source)

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        """Only RTC channels are described."""

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        return self._carrier(channel).send(channel, buffers)

    def close(self, channel: int, reason: str) -> None:
        self._carrier(channel).close(channel, reason)
        self._dialled.discard(channel)

    def pause(self, channel: int, paused: bool) -> None:
        """Of those that were dialled; a site's channels are not."""
        if channel in self._dialled:
            self._links.pause(channel, paused)

    async def shutdown(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close the links that were dialled; the site closes those that it accepted."""
        await self._links.shutdown(timeout)

    def _carrier(self, channel: int) -> FacilitatorSockets | WebSocketTransport:
        return self._links if channel in self._dialled else self._sockets
