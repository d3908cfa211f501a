"""What a wake-up costs a middle relay of the Tor network, beside the least program that could do its work.

A relay as the command runs it and both its neighbours, in one process, over real sockets and TLS. A burst comes in
records of six cells, as C tor writes them. The figure is CPU time, from the bytes that a read brought to the end of
the write. Before a *cold* wake-up, as much memory is read as other programs may use in between: the caches hold nothing
of ours then. The *least* program decrypts, cuts, takes one layer off, encrypts and writes. It has no circuits, queues,
limits or clock.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convergence.circuit.client import ClientCircuit
from convergence.wire.cells import CELL_LEN, FIXED_HEADER, PAYLOAD_LEN, Command, cells, payloads
from convergence.wire.linkspec import LinkSpecifier, SpecifierType, ed25519_specifier
from convergence.wire.target import Protocols, RelayTarget, Role
from pynode.config import Address, Limits, Tor
from pynode.loop import loop_factory
from pynode.torrelay import TorRelayApp
from tests.bench.lab import Figure
from tests.bench.supervise import step
from tests.interop.torlinks import CRYPTO, NOBODY, RNG, Links, links

RECORD = 6 * CELL_LEN
SMALL, LARGE = 8, 70  # cells of a burst; 70 are what a read of a busy link brings, on average
OTHERS = 8 << 20  # bytes that other programs use in between
TIMES = 300
SECONDS = 60.0

Handle = Callable[[int], None]
"""What a protocol does with so many bytes that came."""


def run(tiny: bool = False) -> list[Figure]:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(measured(3 if tiny else TIMES))


async def measured(times: int) -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = folder / "network.txt"
        network.write_text(f"DirAuthority {NOBODY}\n")
        settings = Tor(network=network, private=True)
        app = TorRelayApp(folder / "data", Address("127.0.0.1", 0), settings, Limits(), lambda event: None)
        await app.start()
        own = app.relay.target
        async with links() as last, links(rsa=False, expected=own.identity, expected_rsa=own.node_id) as client:
            path = await Circuit.stand(app, client, last)
            for count in (SMALL, LARGE):
                for others, how in ((0, "warm"), (OTHERS, "cold")):
                    step(f"{count} cells, {how}", SECONDS)
                    ours = await path.median(count, others, times, path.relay)
                    least = await path.median(count, others, times, path.least)
                    figures += [
                        Figure(f"{count} cells, caches {how}", ours, "us"),
                        Figure("the least program", least, "us"),
                        Figure("the least / ours", least / ours, "ratio"),
                    ]
        await app.stop()
    return figures


class Circuit:
    """A circuit from `client` over the relay to `last`, who sends bursts."""

    @classmethod
    async def stand(cls, app: TorRelayApp, client: Links, last: Links) -> Circuit:
        port = await last.transport.listen("127.0.0.1", 0)
        client.dial(app.port)
        await client.until(lambda: client.opened)
        built: list[ClientCircuit] = []

        def create(now: float) -> None:
            path = [app.relay.target, target_of(last, port)]
            ClientCircuit(client._outbox, CRYPTO, RNG, client.opened[0], path, stands, lambda *_: None, now)

        def stands(circuit: ClientCircuit, now: float) -> None:
            built.append(circuit)

        client.driver.run(create)
        await client.until(lambda: built)
        return cls(app, client, last, built[0].id)

    def __init__(self, app: TorRelayApp, client: Links, last: Links, number: int) -> None:
        assert app._transport is not None and app._transport.tls is not None
        tls = app._transport.tls
        self._client = client
        self._sink: Any = Sink()
        client.opened[0].circuits[number] = self._sink
        [link] = last.opened
        [from_last] = link.circuits
        self._sender = last.transport._open[link.channel]
        self._cell = FIXED_HEADER.pack(from_last, Command.RELAY) + bytes(PAYLOAD_LEN)
        self._inward = next(connection for channel, connection in tls._open.items() if channel % 2)  # it dialled
        self._outward = next(connection for channel, connection in tls._open.items() if not channel % 2)
        self._records = tls.records
        self._head = FIXED_HEADER.pack(number, Command.RELAY)
        self._crypt = CRYPTO.aes_ctr(bytes(16)).crypt
        self._partial = b""
        self.relay: Handle = self._inward.buffer_updated

    def least(self, size: int) -> None:
        data, _ = self._records.open(self._inward._tls, 0, size)
        data = self._partial + data
        count = len(data) // CELL_LEN
        self._partial = data[count * CELL_LEN :]
        if count and self._outward.transport is not None:
            run = self._crypt(payloads(data[: count * CELL_LEN], count))
            sealed = self._records.seal(self._outward._tls, memoryview(cells(self._head, run)))
            self._outward.transport.write(sealed)

    async def median(self, count: int, others: int, times: int, handle: Handle) -> float:
        """Microseconds of `handle`."""
        memory, spent = bytearray(others), []

        def buffer_updated(size: int) -> None:
            memory.count(1)
            begun = time.thread_time_ns()
            handle(size)
            spent.append((time.thread_time_ns() - begun) / 1e3)

        self._inward.buffer_updated = buffer_updated  # type: ignore[method-assign, assignment]
        burst = memoryview(self._cell * count)
        for _ in range(times):
            seal, tls = self._sender.owner.records.seal, self._sender._tls
            sealed = b"".join([seal(tls, burst[at : at + RECORD]) for at in range(0, len(burst), RECORD)])
            assert self._sender.transport is not None
            self._sender.transport.write(sealed)
            wanted = self._sink.cells + count
            await self._client.until(lambda wanted=wanted: self._sink.cells >= wanted)
        return statistics.median(spent)


class Sink:
    """Implements the part of link.CircuitHandler that is called here."""

    cells = 0

    def relay(self, run: bytes, early: bool, now: float) -> None:
        self.cells += len(run) // PAYLOAD_LEN

    def destroyed(self, reason: int, now: float) -> None: ...


def target_of(node: Links, port: int) -> RelayTarget:
    """How circuits are extended to it."""
    specifiers = (
        LinkSpecifier(SpecifierType.TLS_IPV4, bytes([127, 0, 0, 1]) + port.to_bytes(2, "big")),
        LinkSpecifier(SpecifierType.LEGACY_ID, node.fingerprint),
        ed25519_specifier(node.keys.identity),
    )
    keys = node.keys
    return RelayTarget(
        keys.identity, specifiers, node.fingerprint, keys.ntor_public, Protocols(0), Role.RELAY, frozenset(), rtc=False
    )
