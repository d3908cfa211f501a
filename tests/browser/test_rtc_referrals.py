"""The proposal's configuration for hops extension and dual peers, in real browsers.

browser1 -> browser2 -> browser3 <- browser4 <- browser5 <- browser6 <-> browser7 <-> browser8 <-> browser9
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from convergence.wire.sharelink import ShareLink
from tests.browser.harness import Peer
from tests.browser.swarm import MEET, POINT, RELAY, Swarm, carried, relayed
from tests.browser.test_rtc_network import built, only_rtc
from tests.chain import KNOWN, suits
from tests.e2e.processes import MIB, ROOT, sha256, write_file

pytestmark = pytest.mark.rtc

FACILITATOR = (ROOT / "tests" / "browser" / "chain_facilitator.py",)
TRIES = 16
"""Shares until chance puts the relays of one on the right sides: see tests/chain.py."""
LISTED = "state.shares.find((item) => item.name === argument && item.link)?.link"
READY = "state.nodes === argument && state.circuits.some((circuit) => circuit.state === 'ready')"


class Row:
    """Nine browsers by place. What is forced: each is told by the facilitator of its neighbours only, so that there is
    one way from one to the next; 1 has circuits of two hops, 9 of three, the others of one; 3 serves itself."""

    def __init__(self, net: Swarm, chromium: Browser, firefox: Browser) -> None:
        self.net = net
        self.peers: dict[int, Peer] = {}
        point = {**POINT, "hops": 1, "direct": True}
        self._open([net.add(browser, point) for browser in (firefox, chromium, chromium, chromium)])
        self._open([net.add(chromium, {**RELAY, "hops": 1}) for _ in range(3)])
        self._open([net.add(chromium, {**RELAY, "hops": 3})])
        self._open([net.add(chromium, {**RELAY, "hops": 2})])
        self.identities = {place: bytes.fromhex(peer.state["identity"]) for place, peer in self.peers.items()}
        for place, peer in self.peers.items():
            peer.until(READY, len(KNOWN[place]), seconds=MEET)

    def _open(self, peers: list[Peer]) -> None:
        """Wait until these have their places."""
        names = {peer.until("state.identity"): peer for peer in peers}
        for _ in peers:
            placed = self.net.network.facilitator.until("placed")
            self.peers[placed["place"]] = names[placed["identity"]]

    def share(self, place: int, folder: Path, size: int) -> tuple[str, str]:
        """The link of a file that is shared there, and its digest."""
        for number in range(TRIES):
            file = folder / f"{place}-{number}.bin"
            digest = write_file(file, size, seed=number)
            self.peers[place].page.get_by_test_id("share-input").set_input_files(file)
            link = self.peers[place].until(LISTED, file.name)
            if suits(self.identities, ShareLink.parse(link).hash_name):
                return self.peers[place].link(file.name), digest
        raise AssertionError(f"{TRIES} names, and none puts these relays on the right sides")

    def fetched(self, link: str, digest: str) -> list[int]:
        """The places that 1 gets a file over, entry first."""
        one = self.peers[1]
        one.get(link)
        one.transfer(link, "item.have > 0")
        [path] = built(one, "rendezvous")
        one.done(link)
        assert sha256(one.save(link)) == digest
        one.until("!state.circuits.some((circuit) => circuit.purpose === 'rendezvous')")
        return [place for name in path for place, identity in self.identities.items() if identity.hex() == name]


def test_nine_browsers_in_a_row(
    swarm: Callable[..., Swarm], chromium: Browser, firefox: Browser, tmp_path: Path
) -> None:
    """With the facilitator dead, 1 gets what only 9 has: it asks at 3, which names 4, and so on to 6, where 9 offers
    it. Then it gets what 3 has itself, from 3."""
    row = Row(swarm(facilitating=FACILITATOR), chromium, firefox)
    row.net.kill_facilitator()
    link, digest = row.share(9, tmp_path, MIB)
    assert row.fetched(link, digest) == [2, 3, 4, 5, 6]
    outward = {row.identities[place].hex() for place in (6, 7, 8)}
    assert outward in map(set, built(row.peers[9], "rendezvous"))
    carried([row.peers[place] for place in range(2, 9)], MIB, 7)

    before = relayed(row.peers[4])
    link, digest = row.share(3, tmp_path, 4 * MIB)
    assert row.fetched(link, digest) == [2, 3]
    carried([row.peers[2]], 5 * MIB, 1)
    assert relayed(row.peers[4]) - before < MIB
    only_rtc(row.net)
