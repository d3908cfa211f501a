"""One transport for a node that has several.

Does: send each channel to the transport that carries its protocol.
Does not: carry anything itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from convergence.effects import DescriptionKind, Protocol
from pynode.exit import CloseReason
from pynode.transports import CLOSE_TIMEOUT, Channels
from pynode.transports.rtc import RtcTransport
from pynode.transports.tcp import TcpTransport
from pynode.transports.websocket import WebSocketTransport

if TYPE_CHECKING:  # nodes without such links do not load its OpenSSL
    from pynode.transports.tls import TlsTransport


class NetTransport:
    """Implements ports.Transport. Call `attach` with the driver before use.

    Args:
        websocket: for links and facilitator channels.
        tcp: for exit streams; None on nodes that are no exits.
        rtc: for links without an address; None where WebRTC is switched off.
        tls: for links of the Tor network; None on nodes that have none.
        directory: for directory ports; None on nodes that ask none.
    """

    def __init__(
        self,
        websocket: WebSocketTransport,
        tcp: TcpTransport | None = None,
        rtc: RtcTransport | None = None,
        tls: TlsTransport | None = None,
        directory: TcpTransport | None = None,
    ) -> None:
        self.websocket = websocket
        self.tcp = tcp
        self.rtc = rtc
        self.tls = tls
        self.directory = directory

    def attach(self, channels: Channels) -> None:
        """Report to this driver."""
        self._channels = channels
        self.websocket.channels = channels
        if self.tcp is not None:
            self.tcp.channels = channels
        if self.rtc is not None:
            self.rtc.channels = channels
        if self.tls is not None:
            self.tls.channels = channels
        if self.directory is not None:
            self.directory.channels = channels

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        match protocol:
            case Protocol.TCP if self.tcp is not None:
                self.tcp.connect(channel, protocol, address, source)
            case Protocol.TCP:
                self._channels.closed(channel, str(CloseReason.POLICY))
            case Protocol.RTC if self.rtc is not None:
                self.rtc.connect(channel, protocol, address, source)
            case Protocol.RTC:
                self._channels.closed(channel, "WebRTC is switched off")
            case Protocol.TLS if self.tls is not None:
                self.tls.connect(channel, protocol, address, source)
            case Protocol.TLS:
                self._channels.closed(channel, "TLS links are switched off")
            case Protocol.DIRECTORY if self.directory is not None:
                self.directory.connect(channel, protocol, address, source)
            case Protocol.DIRECTORY:
                self._channels.closed(channel, str(CloseReason.POLICY))
            case _:
                self.websocket.connect(channel, protocol, address, source)

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        if self.rtc is not None:
            self.rtc.describe(channel, kind, sdp)

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        return self._carrier(channel).send(channel, buffers)

    def close(self, channel: int, reason: str) -> None:
        self._carrier(channel).close(channel, reason)

    def pause(self, channel: int, paused: bool) -> None:
        self._carrier(channel).pause(channel, paused)

    def source(self, channel: int) -> Hashable:
        """Whom limits count this channel under."""
        if self.tls is not None and channel in self.tls:
            return self.tls.source(channel)
        return self.websocket.source(channel)

    async def shutdown(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close everything, one transport after the other, each in `timeout` seconds at most."""
        if self.tcp is not None:
            await self.tcp.shutdown(timeout)
        if self.rtc is not None:
            await self.rtc.shutdown(timeout)
        if self.tls is not None:
            await self.tls.shutdown(timeout)
        if self.directory is not None:
            await self.directory.shutdown(timeout)
        await self.websocket.shutdown(timeout)

    def _carrier(self, channel: int) -> TcpTransport | RtcTransport | TlsTransport | WebSocketTransport:
        for transport in (self.tcp, self.rtc, self.tls, self.directory):
            if transport is not None and channel in transport:
                return transport
        return self.websocket
