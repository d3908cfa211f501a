"""Our client of a Tor network on real sockets, with nothing else of a node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from convergence.crypto.keys import NodeKeys
from convergence.driver import Driver
from convergence.effects import Effect, Failure, Protocol
from convergence.events import Event
from convergence.link.neighbours import Neighbours
from convergence.outbox import Outbox
from convergence.ports import Binding
from convergence.tor.network import DirectoryAddress, TorConfig, TorNetwork
from convergence.tor.sets import Sets
from pynode.crypto import CPythonCrypto, SystemRng
from pynode.loop import AsyncioClock, AsyncioTimer
from pynode.transports.tls import TlsTransport
from tests.e2e.processes import PATIENCE
from tests.interop.tor.network import Authority

Kept = dict[tuple[str, bytes], bytes]


class MemoryStorage:
    """Implements ports.Storage."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def store(self, items: Any, reply: Callable[[None | Failure], None], /) -> None:
        for bucket, key, value in items:
            if value is None:
                self._kept.pop((bucket, key), None)
            else:
                self._kept[bucket, key] = value
        reply(None)

    def load(self, bucket: str, key: bytes, reply: Callable[[bytes | None | Failure], None], /) -> None:
        reply(self._kept.get((bucket, key)))

    def scan(self, bucket: str, prefix: bytes, reply: Callable[[list[bytes] | Failure], None], /) -> None:
        reply(sorted(key for name, key in self._kept if name == bucket and key.startswith(prefix)))


class TorClient:
    """Implements driver.Machine: links and a TorNetwork.

    Args:
        kept: what earlier clients kept, and this one keeps.
    """

    def __init__(self, authorities: list[Authority], kept: Kept) -> None:
        self.events: list[Event] = []
        self._outbox = Outbox()
        self._changed = asyncio.Event()
        crypto, rng = CPythonCrypto(), SystemRng()
        keys = NodeKeys.generate(crypto, rng)
        self.neighbours = Neighbours(
            self._outbox, crypto, rng, keys, lambda identity, now: self.network.address(identity, now), None
        )
        config = TorConfig(
            tuple(bytes.fromhex(authority.v3ident) for authority in authorities),
            tuple(
                DirectoryAddress(f"{authority.address}:{authority.or_port}", bytes.fromhex(authority.fingerprint))
                for authority in authorities
            ),
            sets=Sets,
        )
        self.network = TorNetwork(self._outbox, crypto, rng, self.neighbours, config)
        clock = AsyncioClock()
        timer = AsyncioTimer(clock)
        self.transport = TlsTransport()
        self.driver = Driver(
            self, self.transport, clock, timer, storage=MemoryStorage(kept), on_event=self.events.append
        )
        self.transport.channels = self.driver
        timer.tick = self.driver.tick

    async def __aenter__(self) -> TorClient:
        self.driver.run(self.network.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.driver.run(self.network.stop)
        self.driver.run(self.neighbours.close_all)
        await self.transport.shutdown(1.0)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @property
    def complete(self) -> bool:
        """Whether it has a consensus and all that this names."""
        return self.network.directory.consensus is not None and not self.network.directory.missing()

    # -- driver.Machine

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Binding | None) -> None:
        self.neighbours.opened(channel, binding, now)

    def link_described(self, *arguments: Any) -> None: ...

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        self.neighbours.data(channel, data, now)
        self._changed.set()

    def link_closed(self, channel: int, now: float, reason: str) -> None:
        self.neighbours.closed(channel, reason, now)

    def link_congested(self, channel: int, congested: bool, now: float) -> None:
        self.neighbours.congested(channel, congested, now)

    def done(self, request: int, result: Any, now: float) -> None:
        self._outbox.done(request, result, now)
        self._changed.set()

    def woke(self, by: float, now: float) -> None:
        self._outbox.shift(by)

    def timer(self, now: float) -> None:
        self._outbox.run_timers(now)
        self._changed.set()

    def poll(self, now: float) -> list[Effect]:
        return self._outbox.poll(now)

    def deadline(self) -> float | None:
        return self._outbox.deadline()
