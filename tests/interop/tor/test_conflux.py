"""Conflux with the real tor, both ways: our client over its exits, its client over ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from queue import Queue

import pytest
from stem import StreamStatus
from stem.control import EventType
from stem.response.events import StreamEvent

from convergence.tor.sets import SetCircuit, Stage
from tests.e2e.processes import PATIENCE
from tests.interop.tor.client import TorClient
from tests.interop.tor.daemon import Tor
from tests.interop.tor.network import TorNetwork
from tests.interop.tor.test_network import fetch
from tests.interop.tor.test_relay import OPEN, Relay
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


@pytest.fixture(scope="module")
def our_exit(tor_network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    relay = Relay(tor_network, tmp_path_factory.mktemp("exit"), "oursexit", OPEN)
    try:
        tor_network.listed(relay.fingerprint)
        for other in tor_network.relays:  # an exit serves no circuit that comes from a relay it has not heard of
            other.wait(EventType.NEWCONSENSUS, lambda other=other: other.knows(relay.fingerprint), "news")
        yield relay
    finally:
        relay.stop()


def sets(client: Tor, exit_: str) -> list[str]:
    """Numbers of the circuits of this client that are legs of sets to this relay."""
    lines = client.controller.get_info("circuit-status").splitlines()
    return [line.split()[0] for line in lines if "PURPOSE=CONFLUX_LINKED" in line and f"${exit_}" in line]


def test_a_client_of_tors_downloads_over_a_set_to_our_exit(
    tor_network: TorNetwork, our_exit: Relay, website: Website
) -> None:
    last = our_exit.fingerprint
    options = (f"ExitNodes {last}", "StrictNodes 1", "__DisablePredictedCircuits 0")
    with tor_network.client(*options) as client:
        client.wait(EventType.BW, lambda: len(sets(client, last)) >= 2, "conflux set to our exit")
        opened: Queue[StreamEvent] = Queue()
        client.controller.add_event_listener(opened.put, EventType.STREAM)
        for _ in range(3):
            done = fetch(client, website)
            assert (done.returncode, done.stderr) == (0, b"") and done.stdout == LARGE
            while (event := opened.get(timeout=PATIENCE)).status != StreamStatus.SUCCEEDED:
                pass
            assert event.circ_id in sets(client, last)
        client.controller.remove_event_listener(opened.put)
    assert tor_network.notices() == []
