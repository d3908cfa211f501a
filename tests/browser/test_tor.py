"""From a page through a node of Convergence into the Tor network: relays, exits and authorities of the real `tor`.

The proposal's configurations 4 and 5: a web server behind a Tor exit, and a file of another browser's behind Tor relays
and a rendezvous point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from convergence.wire.ordb import PIECE_SIZE
from tests.browser.harness import START, Peer
from tests.browser.secure import secure_page
from tests.e2e.processes import MIB, Network, sha256, write_file
from tests.interop.tor.network import TorNetwork
from tests.interop.website import Website

SIZE = 8 * MIB
RELAYS = 4
"""Of Tor, between two browsers: two behind the node by which each enters."""
KEPT = """() => new Promise((resolve) => {
    const opening = indexedDB.open("convergence");
    opening.onsuccess = () => {
        const count = opening.result.transaction("piece").objectStore("piece").count();
        count.onsuccess = () => resolve(count.result);
        opening.result.close();
    };
})"""
"""Gives how many pieces of files a browser keeps."""


@pytest.fixture(scope="module")
def website(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    website = Website(tmp_path_factory.mktemp("website"), "host.example")
    yield website
    website.close()


@pytest.fixture(scope="module")
def tor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorNetwork]:
    network = TorNetwork()
    yield network
    network.close()


@pytest.fixture(scope="module")
def page(tor: TorNetwork, website: Website, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that believes these authorities."""
    folder = tmp_path_factory.mktemp("page") / "dist"
    return secure_page(website.authority, folder, tor=[authority.v3ident for authority in tor.authorities])


@pytest.fixture(scope="module")
def network(tor: TorNetwork, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """All of its relays lead into the Tor network, and take links of relays there."""
    folder = tmp_path_factory.mktemp("network")
    lines, settings = folder / "tor.txt", folder / "settings.toml"
    lines.write_text("".join(f"{authority.line}\n" for authority in tor.authorities))
    tor_settings = f'[tor]\nentry = true\nnetwork = "{lines}"\nprivate = true\n'
    settings.write_text(f'[node]\ntls = "127.0.0.1:0"\n{tor_settings}')
    network = Network(folder, page, relays=4, options=["--config", settings])
    for relay in network.relays:
        relay.command.until("tor-directory", lambda record: record["ready"])
    yield network
    network.close()


def read_by(network: TorNetwork) -> int:
    """Bytes that all of its relays have read."""
    return sum(process.carried for process in (*network.servers, *network.relays))


def through_tor(peer: Peer) -> Peer:
    """Switch Tor on, and wait until it is in use."""
    peer.page.get_by_test_id("tor-switch").click()
    peer.until("state.tor.stage === 'ready'", seconds=START)
    return peer


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest, network: Network, lasting_peer: Callable[..., Peer]) -> Peer:
    peer = lasting_peer(request.getfixturevalue(request.param), network.site).open().ready()
    return through_tor(peer)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_of_the_web_comes_through_relays_and_an_exit_of_tor(
    browser: Peer, tor: TorNetwork, website: Website, scheme: str
) -> None:
    done = browser.fetched(f"{scheme}://127.0.0.1:{website.port(scheme)}/large")
    assert (done["stage"], done["size"]) == ("done", 10 * MIB), done
    known = {relay.name for relay in (*tor.relays, *tor.servers)}
    path = browser.until("state.circuits.map((item) => item.hops).find((hops) => hops.length === 3 && hops[1].nickname)")
    assert not path[0]["nickname"] and {hop["nickname"] for hop in path[1:]} <= known
    assert tor.notices() == []


def test_a_file_goes_from_browser_to_browser_through_relays_of_tor_and_a_point_of_ours(
    network: Network,
    tor: TorNetwork,
    chromium: Browser,
    firefox: Browser,
    peer: Callable[..., Peer],
    tmp_path: Path,
) -> None:
    digest = write_file(tmp_path / "file.bin", SIZE)
    sender, receiver = (through_tor(peer(kind, network.site).open().ready()) for kind in (chromium, firefox))
    before = read_by(tor)
    link = sender.share(tmp_path / "file.bin")
    receiver.get(link)
    receiver.done(link)
    assert RELAYS * SIZE < read_by(tor) - before < (RELAYS + 1) * SIZE, "all of it went through them, from both ends"
    assert sha256(receiver.save(link)) == digest
    assert receiver.page.evaluate(KEPT) == SIZE // PIECE_SIZE, "it lies in IndexedDB"
    assert tor.notices() == []
