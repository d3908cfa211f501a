"""Many clients of one relay of a Tor network, in this process: a relay sees as many links, circuits and streams.

Does: open links with the core's own handshake, circuits over them, and on each circuit a stream to a web server; keep
all links and circuits open until the end.
Does not: choose relays, or judge: whatever ends early is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from convergence.circuit.client import ClientCircuit
from convergence.effects import Protocol
from convergence.link.link import Link
from convergence.pipes.duplex import Duplex
from convergence.wire.target import RelayTarget
from tests.interop.tor.client import TorClient
from tests.interop.tor.network import Authority
from tests.interop.torlinks import CRYPTO, RNG, Links

T = TypeVar("T")

LINKS_AT_ONCE = 100
"""Handshakes of TLS under way: with all of them, those that wait their turn would be late."""

CREATES_AT_ONCE = 16
"""Circuits of a link that wait for their handshakes."""


class Crowd(Links):
    """Clients.

    Args:
        address: host:port of the first relay of the path.

    Attributes:
        built: circuits that stand; answered: streams that got an answer; lost: circuits and streams that ended early.
    """

    def __init__(self, address: str, path: Sequence[RelayTarget]) -> None:
        super().__init__(rsa=False, expected=path[0].identity, expected_rsa=path[0].node_id)
        self.built: list[ClientCircuit] = []
        self.answered = self.lost = 0
        self._address = address
        self._path = path

    async def links_open(self, count: int) -> None:
        while len(self.opened) < count:
            wanted = min(len(self.opened) + LINKS_AT_ONCE, count)
            for _ in range(wanted - len(self.opened)):
                self.driver.run(lambda now: self._call())
            await self.until(partial(self._opened_or_failed, wanted))
            assert not self.closed, self.closed[0]

    async def circuits_open(self, each: int) -> None:
        """So many on each link. No relay lets very many wait for their handshakes."""
        for _ in range(each // CREATES_AT_ONCE):
            await self._circuits_open(CREATES_AT_ONCE)
        await self._circuits_open(each % CREATES_AT_ONCE)

    async def ask(self, port: int) -> None:
        """Ask the web server at this port of loopback, on a stream of each circuit, all at once."""
        for circuit in self.built:
            self.driver.run(partial(self._ask, circuit, port))
        await self.until(lambda: self.answered + self.lost == len(self.built))
        assert not self.lost, f"{self.lost} clients got no answer"

    async def close(self) -> None:
        await self.transport.shutdown(0.1)

    # -- inside

    async def _circuits_open(self, each: int) -> None:
        wanted = len(self.built) + each * len(self.opened)
        for link in self.opened:
            for _ in range(each):
                self.driver.run(partial(self._create_on, link))
        await self.until(lambda: len(self.built) + self.lost == wanted)
        assert not self.lost, f"{self.lost} circuits were refused"

    def _opened_or_failed(self, links: int) -> bool:
        return len(self.opened) == links or bool(self.closed)

    def _call(self) -> None:
        self._outbox.connect(Protocol.TLS, self._address)

    def _create_on(self, link: Link, now: float) -> None:
        ClientCircuit(self._outbox, CRYPTO, RNG, link, self._path, self._built, self._gone, now)

    def _built(self, circuit: ClientCircuit, now: float) -> None:
        self.built.append(circuit)

    def _gone(self, circuit: ClientCircuit, reason: int, now: float) -> None:
        self.lost += 1

    def _ask(self, circuit: ClientCircuit, port: int, now: float) -> None:
        answer = _Answer(self)
        answer.pipe = circuit.open_stream(f"127.0.0.1:{port}", answer, now)
        answer.pipe.write(b"GET /word/crowd HTTP/1.0\r\n\r\n", now)

    def told(self, answered: bool) -> None:
        if answered:
            self.answered += 1
        else:
            self.lost += 1


class _Answer:
    """The Handler of a stream."""

    def __init__(self, owner: Crowd) -> None:
        self.pipe: Duplex
        self._owner = owner
        self._first = b""

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None:
        self._first = self._first or data
        self.pipe.consumed(len(data), now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        self._owner.told(b" 200 " in self._first[:20])

    def aborted(self, code: int, now: float) -> None:
        self._owner.told(False)


def crowded(address: str, path: Sequence[RelayTarget], act: Callable[[Crowd], Coroutine[Any, Any, T]]) -> T:
    """What `act` makes of a crowd that ends with it."""

    async def run() -> T:
        crowd = Crowd(address, path)
        try:
            return await act(crowd)
        finally:
            await crowd.close()

    return asyncio.run(run())


def targets(authorities: list[Authority], fingerprints: Sequence[str]) -> list[RelayTarget]:
    """What the consensus and microdescriptors say of these relays."""

    async def read() -> list[RelayTarget]:
        async with TorClient(authorities, {}) as client:
            await client.until(lambda: client.complete)
            view = client.network.directory.view
            assert view is not None
            found = {status.identity: status for status in view.relays}
            relays = [view.relay(found[bytes.fromhex(fingerprint)]) for fingerprint in fingerprints]
            return [relay.target for relay in relays if relay is not None]

    return asyncio.run(read())
