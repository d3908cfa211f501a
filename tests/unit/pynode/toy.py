"""A toy machine under the real driver: it records every input, and a test can wait for what it needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from convergence.driver import Driver
from convergence.effects import CloseLink, Connect, Describe, DescriptionKind, Effect, Pause, Protocol, Send

PATIENCE = 20.0  # seconds until a test that waits in vain is failed


class Clock:
    def now(self) -> float:
        return time.time()

    def elapsed(self) -> float:
        return time.monotonic()


class NoTimer:
    def arm(self, deadline: float | None) -> None:
        pass


class Toy:
    """Records inputs as tuples, asks for what a test puts into it."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.received: dict[int, bytearray] = {}
        self.messages: list[bytes] = []
        self.on_data: Callable[[int, bytes], None] | None = None
        self.effects: list[Effect] = []
        self.driver: Driver
        self._changed = asyncio.Event()

    # -- driver.Machine

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: bytes | None) -> None:
        self._note(("opened", channel, protocol))

    def link_described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None:
        self._note(("described", channel, kind, sdp))

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        assert type(data) is bytes and data
        self.received.setdefault(channel, bytearray()).extend(data)
        self.messages.append(data)
        if self.on_data is not None:
            self.on_data(channel, data)
        self._note(("data", channel))

    def link_closed(self, channel: int, now: float, reason: str) -> None:
        self._note(("closed", channel, reason))

    def link_congested(self, channel: int, congested: bool, now: float) -> None:
        self._note(("congested", channel, congested))

    def done(self, request: int, result: Any, now: float) -> None:
        self._note(("done", request, result))

    def woke(self, by: float, now: float) -> None:
        self._note(("woke", by))

    def timer(self, now: float) -> None:
        self._note(("timer",))

    def poll(self, now: float) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def deadline(self) -> float | None:
        return None

    # -- for tests

    def ask(self, *effects: Effect) -> None:
        def give(now: float) -> None:
            self.effects.extend(effects)

        self.driver.run(give)

    def connect(self, channel: int, address: str, protocol: Protocol = Protocol.LINK) -> None:
        self.ask(Connect(channel, protocol, address))

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        self.ask(Describe(channel, kind, sdp))

    def send(self, channel: int, *buffers: bytes) -> None:
        self.ask(Send(channel, buffers))

    def close(self, channel: int, reason: str = "") -> None:
        self.ask(CloseLink(channel, reason))

    def pause(self, channel: int, paused: bool) -> None:
        self.ask(Pause(channel, paused))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [entry for entry in self.log if entry[0] == kind]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def first(self, kind: str) -> tuple[Any, ...]:
        await self.until(lambda: self.of(kind))
        return self.of(kind)[0]

    def _note(self, entry: tuple[Any, ...]) -> None:
        self.log.append(entry)
        self._changed.set()


def attach(transport: Any, **ports: Any) -> Toy:
    """A toy that drives `transport`."""
    toy = Toy()
    toy.driver = Driver(toy, transport, Clock(), NoTimer(), **ports)
    transport.channels = toy.driver
    return toy


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())
