"""Browsers as relays: the network configurations of the proposal, in real Chromium and Firefox.

Browsers link to each other by WebRTC only. In each configuration the facilitator is killed once all know each other, so
every link that comes about later was introduced by a peer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.harness import Peer
from tests.browser.swarm import MEET, ORIGIN, POINT, RELAY, Swarm, carried, relayed
from tests.e2e.processes import MIB, running, sha256, write_file

pytestmark = pytest.mark.rtc


CONNECTIONS = """
    window.testConnections = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
        constructor(...values) { super(...values); window.testConnections.push(this); }
    };
"""
CLOSE_ALL_BUT = """(kept) => {
    const open = window.testConnections.filter((one) => one.connectionState === "connected");
    open.slice(kept).forEach((one) => one.close());
    window.testConnections = open.slice(0, kept);
    return open.length > kept;
}"""
LINKED_AGAIN = "() => window.testConnections.some((one) => one.connectionState === 'connected')"
OPEN = "state.links.filter((link) => link.kind === 'rtc' && link.state === 'open').length"


def lose_links(peer: Peer, kept: int = 1) -> None:
    """Of those by WebRTC, all but so many: whoever is wanted next has to be introduced, which may happen at once."""
    peer.until(f"{OPEN} > argument", kept)
    assert peer.page.evaluate(CLOSE_ALL_BUT, kept)


def built(peer: Peer, purpose: str) -> list[list[str]]:
    """Identities of the hops of circuits that stand for a purpose."""
    circuits = [item for item in peer.state["circuits"] if item["purpose"] == purpose and item["state"] != "building"]
    return [[hop["identity"] for hop in item["hops"]] for item in circuits]


def only_rtc(swarm: Swarm) -> None:
    for peer in swarm.peers:
        assert {link["kind"] for link in peer.state["links"]} <= {"rtc"}


def test_a_chain_of_six_browsers(
    swarm: Callable[..., Swarm], chromium: Browser, firefox: Browser, tmp_path: Path
) -> None:
    """browser1 -> ... -> browser6: a file comes through all of them; a seventh, which relays nothing, has it."""
    net = swarm()
    first = net.add(chromium, {**ORIGIN, "hops": 5})
    middle = [net.add(browser, RELAY, CONNECTIONS) for browser in (chromium, firefox, chromium, chromium)]
    last = net.add(chromium, POINT)
    owner = net.add(chromium, ORIGIN)
    net.meet(5)
    for one in net.peers:
        one.ready()
    net.kill_facilitator()
    lose_links(middle[0])

    file = tmp_path / "through-six.bin"
    digest = write_file(file, 4 * MIB)
    link = owner.share(file)
    first.get(link)
    first.transfer(link, "item.have > 0")
    [path] = built(first, "rendezvous")
    assert path[-1] == last.state["identity"]
    assert set(path[:-1]) == {one.state["identity"] for one in middle}
    first.done(link)
    assert sha256(first.save(link)) == digest
    carried([*middle, last], 4 * MIB, 5)
    only_rtc(net)
    assert relayed(first) == relayed(owner) == 0


def test_peers_meet_at_a_browser_in_the_middle(
    swarm: Callable[..., Swarm], chromium: Browser, firefox: Browser, tmp_path: Path
) -> None:
    """browser1 -> browser2 -> browser3 (RDV) <- browser4 <- browser5 <- browser6, 16 MiB over WebRTC only."""
    net = swarm()
    reader = net.add(chromium, {**ORIGIN, "hops": 2})
    relays = [net.add(browser, RELAY) for browser in (chromium, firefox, chromium, chromium)]
    point = net.add(chromium, POINT, CONNECTIONS)
    owner = net.add(firefox, {**ORIGIN, "hops": 3})
    net.meet(5)
    for one in net.peers:
        one.ready()
    net.kill_facilitator()
    lose_links(point)

    file = tmp_path / "peer-to-peer.bin"
    digest = write_file(file, 16 * MIB)
    link = owner.share(file)
    reader.get(link)
    reader.transfer(link, "item.have > 0")
    [inward], [outward] = built(reader, "rendezvous"), built(owner, "rendezvous")
    assert inward[-1] == outward[-1] == point.state["identity"]
    assert (len(inward), len(outward)) == (2, 3)
    assert not set(inward[:1]) & set(outward[:1])
    reader.done(link)
    assert sha256(reader.save(link)) == digest
    carried([point], 16 * MIB, 1)
    carried(relays, 16 * MIB, 2)
    only_rtc(net)


def test_server_browser_browser_server(
    swarm: Callable[..., Swarm], chromium: Browser, firefox: Browser, tmp_path: Path
) -> None:
    """A command gets a file through two browsers from a point on a server: WebRTC and WebSocket links mixed. Halfway,
    one browser's links by WebRTC are lost, with no facilitator to introduce it again."""
    net = swarm(relays=1)
    browsers = [net.add(browser, RELAY, CONNECTIONS) for browser in (chromium, firefox)]
    net.meet(3)
    for one in net.peers:
        one.ready()
    file = tmp_path / "mixed.bin"
    digest = write_file(file, 16 * MIB)
    out = tmp_path / "out"
    site = net.network.site
    with running("share", file, "--site", site, "--data", tmp_path / "sharer") as sharer:
        link = sharer.until("shared")["link"]
        (tmp_path / "getter.toml").write_text("[circuits]\nhops = 3\n")
        command = ["get", link, "-o", f"{out}/", "--data", tmp_path / "getter", "--config", tmp_path / "getter.toml"]
        with running(*command) as getter:
            getter.until("progress", lambda record: record["have"] > 0)
            net.kill_facilitator()
            lose_links(browsers[0], kept=0)
            getter.until("done")
            assert browsers[0].page.evaluate(LINKED_AGAIN)
    assert sha256(out / file.name) == digest
    carried(browsers, 16 * MIB, 2)


def test_a_peer_introduces_when_the_facilitator_is_dead(
    swarm: Callable[..., Swarm], chromium: Browser, firefox: Browser
) -> None:
    """A knows B, B knows the others. A loses every link but the one with B, and has others again: by B alone."""
    net = swarm()
    for browser in (firefox, chromium, chromium, chromium):
        net.add(browser, POINT)
    lonely = net.add(chromium, POINT, CONNECTIONS)
    net.meet(5)
    for one in net.peers:
        one.ready()
    net.kill_facilitator()
    lose_links(lonely)
    # A function: an expression would be evaluated at each look, which the page's policy forbids.
    lonely.page.wait_for_function("() => window.testConnections.length >= 2", timeout=1000 * MEET)
    lonely.until(f"{OPEN} >= 2", seconds=MEET)
    lonely.ready()
