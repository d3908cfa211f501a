"""Conflux over exits of the real tor. Its client over ours: see test_relay.py."""

from __future__ import annotations

import asyncio

from convergence.tor.sets import SetCircuit, Stage
from tests.interop.tor.client import TorClient
from tests.interop.tor.network import TorNetwork
from tests.interop.website import LARGE, Website


class Download:
    """A Handler that asks for LARGE, and keeps what comes."""

    def __init__(self) -> None:
        self.answer = bytearray()
        self.code: int | None = None

    def data(self, data: bytes, now: float) -> None:
        self.answer += data
        self.stream.consumed(len(data), now)

    def opened(self, now: float) -> None:
        self.stream.write(b"GET /large HTTP/1.0\r\nHost: host.example\r\n\r\n", now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        self.code = 0

    def aborted(self, code: int, now: float) -> None:
        self.code = code

    def begin(self, linked: SetCircuit, port: int, now: float) -> None:
        self.stream = linked.open_stream(f"127.0.0.1:{port}", self, now)


def test_our_client_downloads_over_both_legs_of_a_set(tor_network: TorNetwork, website: Website) -> None:
    async def use() -> None:
        async with TorClient(tor_network.authorities, {}) as client:
            sets = client.network.circuits.sets
            assert sets is not None

            def ready() -> list[SetCircuit]:
                return [linked for linked in sets._sets if linked.machine.state is Stage.READY]

            await client.until(lambda: len(ready()) == sets.params.ready == 3)
            for _ in range(3):
                linked = ready()[0]
                got: list[object] = []
                client.driver.run(
                    lambda now, got=got: client.network.circuits.exit_circuit(
                        "127.0.0.1", website.http, lambda circuit, now: got.append(circuit), fail, now
                    )
                )
                assert got == [linked]
                download = Download()
                client.driver.run(lambda now, d=download, c=linked: d.begin(c, website.http, now))
                await client.until(lambda d=download: d.code is not None)
                assert download.code == 0 and download.answer.endswith(LARGE)
                first, second = linked.linked.legs
                assert first.last_received > 1000 and second.last_received > 1000 and linked.linked.waiting == 0

    asyncio.run(use())
    assert tor_network.notices() == []


def fail(why: object, now: float) -> None:
    raise AssertionError(why)
