"""The snapshot of Python's memory: taken at the first visit, used at the next, thrown away when it was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.harness import SNAPSHOT, Peer
from tests.e2e.processes import Network

# Gives the digest that stands beside the snapshot.
KEPT = """async () => {
    const cache = await caches.open("convergence-snapshots");
    const [answer] = await cache.matchAll();
    return answer?.headers.get("x-sha256");
}"""
# Puts other bytes in place of the last one, which then is 1 more; with their own digest if so asked.
CHANGE = """async (own) => {
    const cache = await caches.open("convergence-snapshots");
    const [request] = await cache.keys();
    const answer = await cache.match(request);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    if (own) bytes.fill(0);
    bytes[bytes.length - 1] += 1;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    const text = own ? hex : answer.headers.get("x-sha256");
    await cache.put(request, new Response(bytes, { headers: { "x-sha256": text } }));
    return text;
}"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("network"), dist, relays=3)
    yield network
    network.close()


def again(peer: Peer) -> Page:
    """The same profile's next visit, up to its circuits."""
    peer.page.close()
    return peer.open().ready().page


def test_a_snapshot_is_used_and_a_changed_one_thrown_away(
    network: Network, chromium: Browser, peer: Callable[..., Peer]
) -> None:
    one = peer(chromium, network.site, returning=None).open().ready()
    identities = {one.state["identity"]}
    first = one.page.evaluate(SNAPSHOT, None)

    page = again(one)
    identities.add(one.state["identity"])
    assert page.evaluate(KEPT) == first  # it was used: a start without one makes another

    page.evaluate(CHANGE, False)
    page = again(one)
    second = page.evaluate(SNAPSHOT, first)

    nonsense = page.evaluate(CHANGE, True)  # unchanged, but Python cannot start from it
    page = again(one)
    third = page.evaluate(SNAPSHOT, nonsense)
    identities.add(one.state["identity"])
    assert len({first, second, nonsense, third, None}) == 5
    assert len(identities) == 3
