"""A file between browsers behind NATs: through holes punched with the help of STUN, or, where none can be, by servers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Playwright, expect

from tests.browser.harness import Peer
from tests.browser.swarm import MEET, ORIGIN, POINT, Swarm, relayed
from tests.e2e.processes import MIB, sha256, write_file
from tests.netlab import Nat, lab

pytestmark = pytest.mark.rtc

SIZE = 16 * MIB
NOT_REACHED = "state.links.find((link) => link.peer === argument.slice(0, 16) && link.state === 'failed')?.reason"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "across.bin"
    write_file(path, SIZE)
    return path


def test_a_file_crosses_two_nats(
    playwright: Playwright, downloads: Path, dist: Path, peer: Callable[..., Peer], tmp_path: Path, file: Path
) -> None:
    """There is no server but the one for STUN: whatever comes from the right to the left came by WebRTC."""
    with ExitStack() as stack:
        net = stack.enter_context(lab(left=Nat.CONE, right=Nat.CONE))
        network = stack.enter_context(net.network(tmp_path / "network", dist))
        left, right = (
            stack.enter_context(net[name].chromium(playwright, downloads, network.site)) for name in ("left", "right")
        )
        swarm = Swarm(network, peer)
        reader, owner = swarm.add(left, ORIGIN), swarm.add(right, ORIGIN)
        relays = [swarm.add(browser, POINT) for browser in (left, right, left)]
        swarm.meet(len(relays))
        link = owner.ready().share(file)
        reader.ready().get(link)
        reader.done(link)
        assert sha256(reader.save(link)) == sha256(file)
        assert sum(map(relayed, relays)) > SIZE
        for one in swarm.peers:
            assert {link["kind"] for link in one.state["links"]} == {"rtc"}
            one.close()


def test_behind_symmetric_nats_a_file_goes_by_servers(
    playwright: Playwright, downloads: Path, dist: Path, peer: Callable[..., Peer], tmp_path: Path, file: Path
) -> None:
    """The page says of the browser on the other side that it was not reached, and why."""
    with ExitStack() as stack:
        net = stack.enter_context(lab(left=Nat.SYMMETRIC, right=Nat.SYMMETRIC))
        network = stack.enter_context(net.network(tmp_path / "network", dist, relays=3))
        left, right = (
            stack.enter_context(net[name].chromium(playwright, downloads, network.site)) for name in ("left", "right")
        )
        swarm = Swarm(network, peer)
        reader, owner = swarm.add(left, POINT), swarm.add(right, POINT)
        swarm.meet(5)
        why = reader.until(NOT_REACHED, owner.state["identity"], seconds=MEET)
        assert "routers" in why, why
        expect(reader.page.get_by_test_id("links-failed")).to_contain_text(why[1:])
        link = owner.share(file)
        reader.get(link)
        reader.done(link)
        assert sha256(reader.save(link)) == sha256(file)
        for one in swarm.peers:
            one.close()
