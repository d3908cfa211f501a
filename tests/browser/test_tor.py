"""From a page through a node of Convergence into the Tor network: relays, exits and authorities of the real `tor`.

The proposal's configurations 4 and 5: a web server behind a Tor exit, and a file of another browser's behind Tor relays
and a rendezvous point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from convergence.wire.ordb import PIECE_SIZE
from tests.browser.alone import UNKEPT
from tests.browser.harness import START, Peer
from tests.browser.secure import secure_page
from tests.e2e.processes import MIB, PROGRAM, Network, Relay, sha256, write_file
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
TO_TOR = "state.circuits.filter((item) => item.hops.some((hop) => hop.nickname))"
ENTRIES = f"{TO_TOR}.map((item) => item.hops[0].identity)"


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
def settings(tor: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a relay that leads into the Tor network and takes links of relays there."""
    folder = tmp_path_factory.mktemp("settings")
    lines, settings = folder / "tor.txt", folder / "settings.toml"
    lines.write_text("".join(f"{authority.line}\n" for authority in tor.authorities))
    entry = f'[tor]\nentry = true\nnetwork = "{lines}"\nprivate = true\n'
    settings.write_text(f'[node]\ntls = "127.0.0.1:0"\n{entry}')
    return settings


@pytest.fixture(scope="module")
def network(settings: Path, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """All of its relays have these settings. Its exits may not reach the web site."""
    network = Network(tmp_path_factory.mktemp("network"), page, relays=4, options=["--config", settings])
    lead_into_tor(network.relays)
    yield network
    network.close()


def lead_into_tor(relays: Iterable[Relay]) -> None:
    """Wait until they do; they may have said so already."""
    for relay in relays:
        if not any(record.get("ready") for record in relay.command.records if record["event"] == "tor-directory"):
            relay.command.until("tor-directory", lambda record: record["ready"])


def read_by(network: TorNetwork) -> int:
    """Bytes that all of its relays have read."""
    return sum(process.carried for process in (*network.servers, *network.relays))


def through_tor(peer: Peer) -> Peer:
    """Switch Tor on, unless it is, and wait until it is in use."""
    switch = peer.page.get_by_test_id("tor-switch")
    if not switch.is_checked():
        switch.click()
    peer.until("state.tor.stage === 'ready'", seconds=START)
    return peer


@pytest.fixture(scope="module")
def browsers(
    network: Network, chromium: Browser, firefox: Browser, lasting_peer: Callable[..., Peer]
) -> dict[str, Peer]:
    """One of each kind, with Tor switched on."""
    peers = [lasting_peer(browser, network.site).open() for browser in (chromium, firefox)]
    return {peer.name: through_tor(peer.ready()) for peer in peers}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["chromium", "firefox"])
def test_a_page_of_the_web_comes_through_relays_and_an_exit_of_tor(
    browsers: dict[str, Peer], tor: TorNetwork, website: Website, kind: str, scheme: str
) -> None:
    done = browsers[kind].fetched(f"{scheme}://127.0.0.1:{website.port(scheme)}/large")
    assert (done["stage"], done["size"]) == ("done", 10 * MIB), done
    known = {relay.name for relay in (*tor.relays, *tor.servers)}
    path = browsers[kind].until(f"{TO_TOR}[0]?.hops")
    assert not path[0]["nickname"] and {hop["nickname"] for hop in path[1:]} <= known
    assert tor.notices() == []


def test_a_file_goes_from_browser_to_browser_through_relays_of_tor_and_a_point_of_ours(
    browsers: dict[str, Peer], tor: TorNetwork, tmp_path: Path
) -> None:
    digest = write_file(tmp_path / "file.bin", SIZE)
    sender, receiver = browsers["chromium"], browsers["firefox"]
    before = read_by(tor)
    link = sender.share(tmp_path / "file.bin")
    receiver.get(link)
    receiver.done(link)
    assert RELAYS * SIZE < read_by(tor) - before < (RELAYS + 1) * SIZE, "all of it went through them, from both ends"
    assert sha256(receiver.save(link)) == digest
    assert receiver.page.evaluate(KEPT) == SIZE // PIECE_SIZE, "it lies in IndexedDB"
    assert tor.notices() == []


def test_tor_stays_on_over_a_visit_and_what_is_fetched_when_it_is_off_goes_another_way(
    browsers: dict[str, Peer], website: Website
) -> None:
    browser = browsers["chromium"]
    browser.page.reload()
    switch = browser.page.get_by_test_id("tor-switch")
    expect(switch).to_be_checked()
    through_tor(browser)
    address = f"http://127.0.0.1:{website.http}/word/"
    assert browser.fetched(f"{address}one")["stage"] == "done"
    switch.click()
    browser.until(f"state.tor.stage === 'off' && !{TO_TOR}.length")
    done = browser.fetched(f"{address}two")
    assert done["why"]["code"] == "fetch-policy", "our own exits may not reach it"


def test_where_the_code_for_tor_does_not_load_nothing_goes_out_another_way(
    network: Network, website: Website, chromium: Browser, peer: Callable[..., Peer]
) -> None:
    one = peer(chromium, network.site)
    one.context.add_init_script(UNKEPT)
    one.context.route("**/tor.zip", lambda route: route.abort())
    one.open().ready()
    one.page.get_by_test_id("tor-switch").click()
    one.until("state.tor.stage === 'failed' && state.tor.why.code === 'tor-code'")
    error = one.page.get_by_test_id("tor-error")
    expect(error).to_contain_text("could not be loaded")
    address = f"http://127.0.0.1:{website.http}/word/one"
    one.page.get_by_test_id("fetch-input").fill(address)
    one.page.get_by_test_id("fetch-button").click()
    expect(one.page.get_by_test_id("fetch-error")).to_contain_text("could not be loaded")
    assert not one.state["fetches"]
    one.context.unroute("**/tor.zip")
    one.page.get_by_test_id("tor-switch").click()
    one.until("state.tor.stage === 'off'")
    through_tor(one)
    assert one.fetched(address)["stage"] == "done"


def test_an_entry_that_lies_about_the_consensus_is_told_of_and_not_used(
    settings: Path,
    page: Path,
    website: Website,
    chromium: Browser,
    peer: Callable[..., Peer],
    tmp_path: Path,
) -> None:
    def program(name: str) -> Sequence[str | Path]:
        return [Path(__file__).parent / "lying_entry.py"] if name == "relay-1" else PROGRAM

    network = Network(tmp_path, page, relays=3, program=program, options=["--config", settings])
    try:
        lead_into_tor(network.relays)
        liar, *others = network.relays
        for relay in others:
            relay.kill()
        one = peer(chromium, network.site).open()
        one.page.get_by_test_id("tor-switch").click()
        one.until("state.tor.why?.code === 'tor-refused' && state.tor.why.document === 'consensus'")
        expect(one.page.get_by_test_id("tor-error")).to_contain_text("signed by 0 of 3 authorities, 2 are needed")
        address = f"http://127.0.0.1:{website.http}/word/one"
        one.page.get_by_test_id("fetch-input").fill(address)
        one.page.get_by_test_id("fetch-button").click()
        expect(one.page.get_by_test_id("fetch-error")).to_contain_text("The list of Tor relays is not complete yet.")
        network.mend()
        one.until("state.tor.stage === 'ready'", seconds=START)
        expect(one.page.get_by_test_id("tor-error")).to_be_empty()
        assert one.fetched(address)["stage"] == "done"
        entries = one.until(ENTRIES)
        assert entries and liar.identity not in entries
    finally:
        network.close()
