"""Through a node of Convergence into the Tor network: `convergence relay` with `tor.entry`, and
`convergence proxy --tor --entry-node`, before relays and exits of the real tor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from convergence.circuit.client import ClientCircuit
from convergence.errors import Why
from convergence.path.place import Request, at_once
from convergence.wire.linkspec import LinkSpecifier, SpecifierType
from convergence.wire.target import RelayTarget, Role
from pynode.app import App, Plan
from pynode.cli.sites import find_network
from pynode.tornetwork import read_network
from tests.e2e.processes import PATIENCE, Network, running
from tests.interop.programs import free_port
from tests.interop.test_curl import curl, through
from tests.interop.tor.network import TorNetwork
from tests.interop.ways import Proxy
from tests.interop.website import LARGE, Website

ENTRIES = 3


@pytest.fixture(scope="module")
def lines(tor_network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What names the Tor network."""
    file = tmp_path_factory.mktemp("lines") / "network.txt"
    file.write_text("".join(f"{authority.line}\n" for authority in tor_network.authorities))
    return file


@pytest.fixture(scope="module")
def entered(lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network of ours, all of whose relays lead into the Tor network."""
    folder = tmp_path_factory.mktemp("entered")
    (folder / "dist").mkdir()
    (folder / "dist" / "index.html").write_text("<title>Convergence</title>")  # nothing here opens the page
    settings = folder / "settings.toml"
    settings.write_text(f'[tor]\nentry = true\nnetwork = "{lines}"\nprivate = true\n')
    network = Network(folder, folder / "dist", relays=ENTRIES, options=["--config", settings])
    try:
        for relay in network.relays:
            if not any(record["event"] == "tor-directory" and record["ready"] for record in relay.command.records):
                relay.command.until("tor-directory", lambda record: record["ready"])
        yield network
    finally:
        network.close()


@pytest.fixture(scope="module")
def proxy(entered: Network, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    data = tmp_path_factory.mktemp("proxy")
    options = ("--tor", "--tor-network", lines, "--entry-node", "--site", entered.site, "--data", data, "-v")
    with running("proxy", "--listen", "127.0.0.1:0", *options) as command:
        yield Proxy(command, command.until("listening")["port"])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_10_mib_from_the_web(tor_network: TorNetwork, proxy: Proxy, website: Website, scheme: str) -> None:
    address = f"{scheme}://127.0.0.1:{website.port(scheme)}/large"
    done = curl(*through(proxy, "socks5"), "--cacert", website.authority, address)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == LARGE
    assert tor_network.notices() == []


def test_pages_are_fetched_by_one_command_after_the_other(
    entered: Network, lines: Path, website: Website, tmp_path: Path
) -> None:
    options = ("--tor", "--tor-network", lines, "--entry-node", "--site", entered.site, "--data", tmp_path)
    for number in range(2):
        file = tmp_path / f"page{number}"
        url = f"https://127.0.0.1:{website.https}/large"
        with running("fetch", *options, "--ca", website.authority, "-o", file, url) as command:
            code, last = command.end()
        assert (code, last["event"]) == (0, "done") and file.read_bytes() == LARGE


# -- what an origin may ask of its entry


class Origin:
    """A node of ours in this process, which asks for circuits that no node would ask for."""

    def __init__(self, app: App) -> None:
        self._app = app

    def relay(self, fingerprint: str) -> RelayTarget:
        """As the consensus has it."""
        tor = self._app.node.tor
        assert tor is not None
        relay = tor.directory.relay(bytes.fromhex(fingerprint))
        assert relay is not None
        return relay.target

    async def extended(self, target: RelayTarget) -> bool:
        """Whether an entry extends a circuit to it."""
        node, ended = self._app.node, asyncio.get_running_loop().create_future()

        def path(now: float) -> tuple[RelayTarget, ...]:
            return node.directory.nodes(Role.TOR, now)[0].target, target

        def stands(circuit: ClientCircuit, now: float) -> None:
            ended.set_result(True)

        def failed(why: Why, now: float) -> None:
            ended.set_result(False)

        request = Request(at_once(path), "test", stands, failed, attempts=1)
        self._app.call(lambda now: node.pool._serve(request, now))
        result: bool = await asyncio.wait_for(ended, PATIENCE)
        return result


def address_of(host: str, port: int) -> LinkSpecifier:
    return LinkSpecifier(SpecifierType.TLS_IPV4, bytes(map(int, host.split("."))) + port.to_bytes(2, "big"))


async def ask(tor_network: TorNetwork, entered: Network, lines: Path) -> None:
    network = await find_network(entered.site)
    app = App(Plan(replace(network, tor=replace(read_network(lines), directories=()))))
    await app.start()
    connected = asyncio.Event()
    listening = await asyncio.start_server(lambda reader, writer: connected.set(), "127.0.0.1", 0)
    try:
        await app.joined(PATIENCE)
        origin = Origin(app)
        listed = origin.relay(tor_network.relays[0].fingerprint)
        assert await origin.extended(listed)

        elsewhere = address_of("127.0.0.1", listening.sockets[0].getsockname()[1])
        assert await origin.extended(replace(listed, specifiers=(elsewhere, *listed.specifiers[1:])))
        nowhere = address_of("127.0.0.1", free_port())
        assert await origin.extended(replace(listed, specifiers=(nowhere, *listed.specifiers[1:])))

        unlisted = LinkSpecifier(SpecifierType.LEGACY_ID, bytes(20))
        assert not await origin.extended(replace(listed, specifiers=(elsewhere, unlisted, listed.specifiers[2])))
        other = origin.relay(tor_network.relays[1].fingerprint)
        mixed = (*listed.specifiers[:2], other.specifiers[2])
        assert not await origin.extended(replace(listed, specifiers=mixed))
        assert not connected.is_set(), "only addresses of the consensus are dialled"
    finally:
        listening.close()
        await app.stop()


def test_an_entry_extends_to_relays_of_the_consensus_at_their_addresses_only(
    tor_network: TorNetwork, entered: Network, lines: Path
) -> None:
    asyncio.run(ask(tor_network, entered, lines))
    assert tor_network.notices() == []


def test_no_entry_of_ours_complained(entered: Network) -> None:
    """Comes last."""
    for relay in entered.relays:
        assert relay.alive and not [line for line in relay.command.log if " a bug" in line]
