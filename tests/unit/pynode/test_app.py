"""A facilitator and nodes in one process, over loopback."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from convergence.codes import FacilitatorWhy
from convergence.effects import Connect, Event
from convergence.events import as_json
from convergence.wire.linkspec import or_address, rsa_fingerprint
from convergence.wire.relay import Begin
from convergence.wire.target import Role
from pynode.app import App, AppError, FacilitatorApp, Network, NotJoinedError, Plan, page_folder
from pynode.config import Address, Circuits, Limits
from pynode.loop import run
from pynode.storage import DiskStorage
from pynode.transports.websocket import WebSocketTransport

ANY = Address("127.0.0.1", 0)
RELAY = Role.RELAY | Role.RDV


def go(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test as a command runs: on the loop that the program uses."""

    async def main(stop: asyncio.Event) -> int:
        async with asyncio.timeout(30):
            await test()
        return 0

    assert run(main) == 0


class Heard:
    """An on_event that can be waited on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, kind: str, **data: Any) -> Event:
        while True:
            for event in self.events:
                if event.kind == kind and data.items() <= as_json(event).items():
                    return event
            self._news.clear()
            await self._news.wait()


def test_where_relays_of_tor_reach_a_relay_is_told_and_its_identity_there_is_kept(tmp_path: Path) -> None:
    told = []

    async def scenario() -> None:
        facilitator = FacilitatorApp(tmp_path / "facilitator", ANY)
        await facilitator.start()
        for address, shown in ((None, "127.0.0.1"), ("192.0.2.7", "192.0.2.7")):
            relay = App(Plan(facilitator.network, tmp_path / "relay", RELAY, ANY, tls=ANY, tls_address=address))
            await relay.start()
            assert relay.tls is not None
            said = relay.node.announcement.describe(time.time())
            assert said is not None
            specifiers = said.target.tor_specifiers
            host, port = or_address(specifiers)
            assert relay.tls == f"{host}:{port}" and host == shown
            told.append(rsa_fingerprint(specifiers))
            socket.create_connection(("127.0.0.1", port)).close()
            await relay.stop()
        await facilitator.stop()

    go(scenario)
    assert told[0] == told[1]


def test_a_relay_registers_and_a_client_learns_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        facilitator = FacilitatorApp(tmp_path / "facilitator", ANY)
        await facilitator.start()
        relay_heard, heard = Heard(), Heard()
        relay = App(Plan(facilitator.network, tmp_path / "relay", RELAY, ANY), relay_heard)
        await relay.start()
        await relay_heard.until("registered")
        assert relay.url == f"ws://127.0.0.1:{relay.port}/"
        client = App(Plan(facilitator.network, tmp_path / "client"), heard)
        await client.start()
        await client.joined(10)
        await heard.until("nodes", count=1)
        assert client.identity is None
        assert client.call(client.node.snapshot)["nodes"] == 1
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{facilitator.network.site}status.json") as response,
        ):
            [node] = (await response.json())["nodes"]
        assert relay.identity is not None
        assert (node["identity"], node["transports"]) == (relay.identity.hex()[:16], [relay.url])
        await client.stop()
        await relay.stop()
        await facilitator.stop()

    go(scenario)


def test_identities_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        seen = []
        for _ in range(2):
            facilitator = FacilitatorApp(tmp_path / "facilitator", ANY)
            await facilitator.start()
            relay = App(Plan(facilitator.network, tmp_path / "relay", RELAY, ANY))
            await relay.start()
            seen.append((facilitator.service.identity, relay.identity))
            await relay.stop()
            await facilitator.stop()
        assert seen[0] == seen[1]

    go(scenario)


def test_a_facilitator_remembers_nodes_until_told_to_forget_them(tmp_path: Path) -> None:
    folder = tmp_path / "facilitator"

    async def kept() -> list[bytes]:
        storage = DiskStorage(folder)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        storage.scan("node", b"", answer.set_result)
        await storage.close()
        keys: list[bytes] = await answer
        return keys

    async def scenario() -> None:
        heard = Heard()
        facilitator = FacilitatorApp(folder, ANY)
        await facilitator.start()
        relay = App(Plan(facilitator.network, tmp_path / "relay", RELAY, ANY), heard)
        await relay.start()
        await heard.until("registered")
        await relay.stop()
        await facilitator.stop()
        assert relay.identity is not None
        assert await kept() == [relay.identity]
        await facilitator.start()
        facilitator.forget([relay.identity])
        await facilitator.stop()
        assert await kept() == []

    go(scenario)


def test_a_public_name_goes_into_the_address(tmp_path: Path) -> None:
    async def scenario() -> None:
        nowhere = Network("ws://127.0.0.1:9/facilitator")
        app = App(Plan(nowhere, tmp_path, RELAY, ANY, public="node.example"))
        await app.start()
        assert app.url == f"ws://node.example:{app.port}/"
        await app.stop()
        app = App(Plan(nowhere, tmp_path, RELAY, ANY, url="wss://other.example/x"))
        await app.start()
        assert app.url == "wss://other.example/x"
        await app.stop()

    go(scenario)


@pytest.mark.parametrize(
    ("network", "own"),
    [
        (Network("ws://127.0.0.1:9/facilitator"), "http://localhost:9"),
        (Network("ws://127.0.0.1:9/facilitator", site="https://site.example/"), "https://site.example"),
    ],
)
def test_links_are_for_pages_of_the_network(tmp_path: Path, network: Network, own: str) -> None:
    async def scenario() -> None:
        app = App(Plan(network, tmp_path, RELAY, ANY, origins=("https://mirror.example",)))
        await app.start()
        taken = {}
        async with aiohttp.ClientSession() as session:
            for origin in (None, own, "https://mirror.example", "https://evil.example", "http://192.0.2.1:9"):
                try:
                    async with session.ws_connect(f"http://127.0.0.1:{app.port}/", origin=origin):
                        taken[origin] = 101
                except aiohttp.WSServerHandshakeError as error:
                    taken[origin] = error.status
        assert list(taken.values()) == [101, 101, 101, 403, 403]
        await app.stop()

    go(scenario)


@pytest.mark.parametrize(("host", "status"), [("site.example", 200), ("evil.example", 421)])
def test_a_site_has_the_names_it_was_given(tmp_path: Path, host: str, status: int) -> None:
    async def scenario() -> None:
        facilitator = FacilitatorApp(tmp_path, ANY, hosts=["site.example"])
        await facilitator.start()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{facilitator.network.site}status.json", headers={"Host": host}) as response,
        ):
            assert response.status == status
        await facilitator.stop()

    go(scenario)


@pytest.mark.parametrize(("stun", "told"), [(None, None), (["stun:a"], {"stun": ["stun:a"]})])
def test_a_site_says_whether_pages_make_webrtc_links(tmp_path: Path, stun: list[str] | None, told: Any) -> None:
    async def scenario() -> None:
        facilitator = FacilitatorApp(tmp_path, ANY, stun=stun)
        await facilitator.start()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{facilitator.network.site}network.json") as response,
        ):
            assert (await response.json()).get("rtc") == told
        await facilitator.stop()

    go(scenario)


@pytest.mark.rtc
def test_a_relay_without_an_address_registers(tmp_path: Path) -> None:
    async def scenario() -> None:
        facilitator = FacilitatorApp(tmp_path / "facilitator", ANY)
        await facilitator.start()
        heard = Heard()
        relay = App(Plan(facilitator.network, tmp_path / "relay", RELAY, stun=()), heard)
        await relay.start()
        await heard.until("registered")
        assert (relay.url, relay.port) == (None, None)
        await relay.stop()
        await facilitator.stop()

    go(scenario)


def test_a_node_that_works_for_others_is_reached_somehow(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(AppError, match="needs an address, or rtc"):
            await App(Plan(Network("ws://127.0.0.1:9/facilitator"), tmp_path, RELAY)).start()

    go(scenario)


def test_the_introducer_of_the_settings_is_the_nodes(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App(Plan(Network("ws://127.0.0.1:9/facilitator"), tmp_path, circuits=Circuits(introducer=b"i" * 32)))
        await app.start()
        assert app.node.config.introducer == b"i" * 32
        await app.stop()

    go(scenario)


def test_an_exit_has_no_more_streams_than_the_settings_leave_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App(
            Plan(
                Network("ws://127.0.0.1:9/facilitator"),
                tmp_path,
                Role.EXIT,
                listen=Address("127.0.0.1", 0),
                limits=Limits(exit_channels=4),
            )
        )
        await app.start()
        assert app.node.config.exit_streams == 3
        await app.stop()

    go(scenario)


def test_a_relay_has_the_rate_of_its_settings(tmp_path: Path) -> None:
    async def scenario() -> None:
        local, limits = Address("127.0.0.1", 0), Limits(rate=1 << 20, burst=1 << 21)
        app = App(Plan(Network("ws://127.0.0.1:9/facilitator"), tmp_path, Role.RELAY, local, limits=limits))
        await app.start()
        relayed = app.node.config.relay_limits
        assert relayed is not None and (relayed.rate, relayed.burst) == (1 << 20, 1 << 21)
        await app.stop()

    go(scenario)


def test_links_of_one_address_are_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebSocketTransport, "source", lambda self, channel: f"address of {channel}")
    endpoint = SimpleNamespace(entries={}, accept_stream=lambda stream_id: SimpleNamespace(end=lambda *a, **k: None))
    circuit: Any = SimpleNamespace(link=SimpleNamespace(channel=2), endpoint=endpoint)

    async def scenario() -> None:
        network = Network("ws://127.0.0.1:9/facilitator")
        app = App(Plan(network, tmp_path, Role.EXIT, listen=Address("127.0.0.1", 0)))
        await app.start()
        now = time.time()
        app.node.begin(circuit, 1, Begin("host.example", 80), now)
        assert [effect.source for effect in app.node.poll(now) if isinstance(effect, Connect)] == ["address of 2"]
        await app.stop()

    go(scenario)


def test_no_facilitator_is_told_in_a_sentence(tmp_path: Path) -> None:
    async def scenario() -> None:
        heard = Heard()
        app = App(Plan(Network("ws://127.0.0.1:9/facilitator"), tmp_path), heard)
        await app.start()
        await heard.until("trouble")
        with pytest.raises(NotJoinedError) as caught:
            await app.joined(0)
        assert caught.value.trouble is not None
        assert caught.value.trouble.why.code is FacilitatorWhy.UNREACHABLE
        await app.stop()

    go(scenario)


def test_ports_and_folders_that_cannot_be_used(tmp_path: Path) -> None:
    nowhere = Network("ws://127.0.0.1:9/facilitator")
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "keys.json").write_text(json.dumps({"version": 1}))

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = Address("127.0.0.1", taken.getsockname()[1])
            for app in (App(Plan(nowhere, tmp_path, RELAY, address)), FacilitatorApp(tmp_path, address)):
                with pytest.raises(AppError, match=f"{address} is in use"):
                    await app.start()
        for listen in (Address("192.0.2.1", 0), Address("no.such.host.invalid", 0)):
            with pytest.raises(AppError, match="no address of this machine"):
                await App(Plan(nowhere, tmp_path, RELAY, listen)).start()
        with pytest.raises(AppError, match="cannot use the data folder"):
            await App(Plan(nowhere, file)).start()
        with pytest.raises(AppError, match="damaged"):
            await App(Plan(nowhere, tmp_path / "bad", RELAY, ANY)).start()
        with pytest.raises(AppError, match="needs a data folder"):
            await App(Plan(nowhere, None, RELAY, ANY)).start()
        with pytest.raises(AppError, match="no index.html"):
            await FacilitatorApp(tmp_path, ANY, files=tmp_path).start()

    go(scenario)


def test_a_node_without_a_folder_keeps_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App(Plan(Network("ws://127.0.0.1:9/facilitator")))
        await app.start()
        with pytest.raises(AppError, match="keeps no data"):
            _ = app.storage
        await app.stop()

    go(scenario)


def test_the_page_is_found_beside_the_package_or_in_it(tmp_path: Path) -> None:
    package = tmp_path / "pynode"
    assert page_folder(package) is None
    for folder in (package / "dist", tmp_path / "dist"):
        folder.mkdir(parents=True)
        assert page_folder(package) != folder
        (folder / "index.html").write_text("")
        assert page_folder(package) == folder
