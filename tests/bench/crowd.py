"""Many clients of one relay of a Tor network, in this process: a relay sees as many links, circuits and streams.

Does: open links with the core's own handshake, circuits of one hop on them (CREATE_FAST), and on each circuit a stream
that asks the relay's directory for its descriptor; keep all of them open until the end.
Does not: go further than this relay, or judge: whatever ends early is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from convergence.circuit.client import ClientCircuit
from convergence.effects import Protocol
from convergence.link.link import Link
from convergence.pipes.duplex import Duplex
from convergence.wire.target import Protocols, RelayTarget, Role
from tests.interop.torlinks import CRYPTO, RNG, Links

REQUEST = b"GET /tor/server/authority HTTP/1.0\r\n\r\n"
LINKS_AT_ONCE = 100
"""Handshakes of TLS under way: with all of them, those that wait their turn would be late."""


class Crowd(Links):
    """Clients of the relay at `address` (host:port) with this RSA fingerprint.

    Attributes:
        built: circuits that stand; answered: streams that got a whole answer; lost: circuits that ended.
    """

    def __init__(self, address: str, fingerprint: str) -> None:
        digest = bytes.fromhex(fingerprint)
        super().__init__(rsa=False, expected_rsa=digest)
        self.built: list[ClientCircuit] = []
        self.answered = self.lost = 0
        self._address = address
        self._hop = RelayTarget(digest, (), digest, b"", Protocols(0), Role(0), frozenset({"tls"}), False)

    async def links_open(self, count: int) -> None:
        while len(self.opened) < count:
            wanted = min(len(self.opened) + LINKS_AT_ONCE, count)
            for _ in range(wanted - len(self.opened)):
                self.driver.run(lambda now: self._call())
            await self.until(lambda wanted=wanted: len(self.opened) == wanted or self.closed)
            assert not self.closed, self.closed[0]

    async def circuits_open(self, each: int) -> None:
        """So many on each link."""
        wanted = len(self.built) + each * len(self.opened)
        for link in self.opened:
            for _ in range(each):
                self.driver.run(lambda now, link=link: self._create_on(link, now))
        await self.until(lambda: len(self.built) + self.lost == wanted)
        assert not self.lost, f"{self.lost} circuits were refused"

    async def ask(self) -> None:
        """On a stream of each circuit, all at once."""
        for circuit in self.built:
            self.driver.run(lambda now, circuit=circuit: self._ask(circuit, now))
        await self.until(lambda: self.answered + self.lost == len(self.built))
        assert not self.lost, f"{self.lost} clients got no answer"

    async def close(self) -> None:
        await self.transport.shutdown(0.1)

    # -- inside

    def _call(self) -> None:
        self._outbox.connect(Protocol.TLS, self._address)

    def _create_on(self, link: Link, now: float) -> None:
        ClientCircuit(self._outbox, CRYPTO, RNG, link, [self._hop], self._built, self._gone, now)

    def _built(self, circuit: ClientCircuit, now: float) -> None:
        self.built.append(circuit)

    def _gone(self, circuit: ClientCircuit, reason: int, now: float) -> None:
        self.lost += 1

    def _ask(self, circuit: ClientCircuit, now: float) -> None:
        answer = _Answer(self)
        answer.pipe = circuit.open_directory(answer, now)
        answer.pipe.write(REQUEST, now)

    def told(self, whole: bool) -> None:
        if whole:
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


def crowded(address: str, fingerprint: str, act: Callable[[Crowd], Any]) -> Any:
    """What `act`, a coroutine function, makes of a crowd that ends with it."""

    async def run() -> Any:
        crowd = Crowd(address, fingerprint)
        try:
            return await act(crowd)
        finally:
            await crowd.close()

    return asyncio.run(run())
