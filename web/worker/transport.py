"""WebSockets and WebRTC data channels of the browser as `ports.Transport`, and its clock and timer.

Does: pass channels between the driver and channels.js: one crossing for each message sent, one for all that arrived
together.
Does not: open TCP connections; browsers have none, so a browser is never an exit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from js import Uint8Array

from convergence.driver import Driver
from convergence.effects import DescriptionKind, Protocol

MAX_MESSAGE = 1 << 16  # bytes; effects.Send promises no more on a LINK channel


class BrowserTransport:
    """`attach` the driver before the first connect.

    Attributes:
        rtc: the RTC channels and how they are: "connecting", "connected" or "recovering".
        on_cut_off: called when one began to recover and none is connected.
    """

    def __init__(self, channels: Any) -> None:
        self.rtc: dict[int, str] = {}
        self.on_cut_off: Callable[[], None] = lambda: None
        self._channels = channels
        self._protocols: dict[int, Protocol] = {}
        self._scratch = Uint8Array.new(MAX_MESSAGE)
        self._views: dict[int, Any] = {}  # length -> view of the scratch buffer; few lengths occur
        self._driver: Driver

    def attach(self, driver: Driver, listener: Any, entry: Callable[[Callable[..., None]], Any]) -> None:
        """Name the driver's inputs to the channels. `entry` makes a Python function callable from JavaScript."""
        self._driver = driver
        listener.opened = entry(self._opened)
        listener.received = entry(lambda channel, data: driver.received(channel, data.to_bytes()))
        listener.closed = entry(self._closed)
        listener.drained = entry(driver.drained)
        listener.described = entry(lambda channel, kind, sdp: driver.described(channel, DescriptionKind(kind), sdp))
        listener.state = entry(self._state)

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable, /) -> None:
        self._protocols[channel] = protocol
        if protocol is Protocol.TCP:
            self._driver.closed(channel, "a browser opens no TCP connections")
        elif protocol is Protocol.RTC:
            self.rtc[channel] = "connecting"
            self._channels.connectRtc(channel, address)
        else:
            self._channels.connect(channel, address)

    def describe(self, channel: int, kind: DescriptionKind, sdp: str, /) -> None:
        self._channels.describe(channel, int(kind), sdp)

    def send(self, channel: int, buffers: Sequence[bytes], /) -> bool:
        channels, flowing = self._channels, True
        for buffer in buffers:
            view = self._view(len(buffer))
            view.assign(buffer)
            flowing = channels.send(channel, view)
        return flowing

    def close(self, channel: int, reason: str, /) -> None:
        self._forget(channel)
        self._channels.close(channel)

    def pause(self, channel: int, paused: bool, /) -> None:
        """Not possible in a browser: sockets and data channels read at once."""

    def _view(self, length: int) -> Any:
        if length > MAX_MESSAGE:
            return Uint8Array.new(length)
        view = self._views.get(length)
        if view is None:
            view = self._views[length] = self._scratch.subarray(0, length)
        return view

    def _opened(self, channel: int) -> None:
        self._driver.opened(channel, self._protocols[channel])

    def _closed(self, channel: int, reason: str) -> None:
        self._forget(channel)
        self._driver.closed(channel, reason)

    def _state(self, channel: int, state: str) -> None:
        self.rtc[channel] = state
        if "connected" not in self.rtc.values():
            self.on_cut_off()

    def _forget(self, channel: int) -> None:
        self._protocols.pop(channel, None)
        self.rtc.pop(channel, None)


class BrowserClock:
    """Implements ports.Clock."""

    def now(self) -> float:
        return time.time()

    def elapsed(self) -> float:
        return time.monotonic()  # performance.now


class WorkerTimer:
    """The one timer, on setTimeout."""

    def __init__(self, arm: Callable[[float], None], clock: BrowserClock) -> None:
        self._arm = arm
        self._clock = clock

    def arm(self, deadline: float | None, /) -> None:
        self._arm(-1 if deadline is None else max(0.0, (deadline - self._clock.now()) * 1000))
