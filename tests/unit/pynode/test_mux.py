"""Channels go to the transport that carries their protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from convergence.effects import OFFERER, DescriptionKind, Protocol
from pynode.exit import CloseReason
from pynode.transports import Channels
from pynode.transports.mux import NetTransport
from pynode.transports.rtc import RtcTransport
from pynode.transports.tcp import TcpTransport
from pynode.transports.tls import TlsTransport
from pynode.transports.websocket import WebSocketTransport


class Recorder:
    """A transport, and the driver of one."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.channels: object = None

    def __contains__(self, channel: int) -> bool:
        return ("connect", channel) in [entry[:2] for entry in self.log]

    def connect(self, *arguments: Any) -> None:
        self.log.append(("connect", *arguments))

    def describe(self, *arguments: Any) -> None:
        self.log.append(("describe", *arguments))

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        self.log.append(("send", channel, buffers))
        return True

    def close(self, *arguments: Any) -> None:
        self.log.append(("close", *arguments))

    def pause(self, *arguments: Any) -> None:
        self.log.append(("pause", *arguments))

    def closed(self, *arguments: Any) -> None:
        self.log.append(("closed", *arguments))


def test_each_protocol_has_its_transport() -> None:
    websocket, tcp, rtc, tls, directory = Recorder(), Recorder(), Recorder(), Recorder(), Recorder()
    net = NetTransport(
        cast(WebSocketTransport, websocket),
        cast(TcpTransport, tcp),
        cast(RtcTransport, rtc),
        cast(TlsTransport, tls),
        cast(TcpTransport, directory),
    )
    channels = cast(Channels, Recorder())
    net.attach(channels)
    for number, (transport, protocol) in enumerate(
        [
            (websocket, Protocol.LINK),
            (websocket, Protocol.FACILITATOR),
            (tcp, Protocol.TCP),
            (rtc, Protocol.RTC),
            (tls, Protocol.TLS),
            (directory, Protocol.DIRECTORY),
        ]
    ):
        assert transport.channels is channels
        transport.log.clear()
        net.connect(number, protocol, "there", "source")
        assert net.send(number, [b"x"])
        net.pause(number, True)
        net.close(number, "done")
        assert transport.log == [
            ("connect", number, protocol, "there", "source"),
            ("send", number, [b"x"]),
            ("pause", number, True),
            ("close", number, "done"),
        ]
    net.describe(3, DescriptionKind.ANSWER, "sdp")
    assert rtc.log[-1] == ("describe", 3, DescriptionKind.ANSWER, "sdp")


def test_what_a_node_does_not_carry_is_closed() -> None:
    driver = Recorder()
    net = NetTransport(cast(WebSocketTransport, Recorder()))
    net.attach(cast(Channels, driver))
    net.connect(1, Protocol.TCP, "x:1")
    net.connect(3, Protocol.RTC, OFFERER)
    net.describe(3, DescriptionKind.OFFER, "")
    net.connect(5, Protocol.TLS, "x:1")
    net.connect(7, Protocol.DIRECTORY, "x:1")
    assert driver.log == [
        ("closed", 1, str(CloseReason.POLICY)),
        ("closed", 3, "WebRTC is switched off"),
        ("closed", 5, "TLS links are switched off"),
        ("closed", 7, str(CloseReason.POLICY)),
    ]
