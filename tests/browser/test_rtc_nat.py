"""A file between browsers behind NATs: through holes made with the help of STUN or, where none can be, by a server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, expect

from tests.browser.harness import Peer
from tests.browser.swarm import MEET, ORIGIN, POINT, Swarm, links_of, relayed
from tests.e2e.processes import MIB, sha256, write_file
from tests.netlab import Nat, lab

pytestmark = pytest.mark.rtc

SIZE = 16 * MIB
NOT_REACHED = "state.links.find((link) => link.peer === argument.slice(0, 16) && link.state === 'failed')?.why.detail"

Behind = Callable[..., tuple[Swarm, Browser, Browser]]


@pytest.fixture
def behind(
    stack: ExitStack, playwright: Playwright, downloads: Path, tmp_path: Path, dist: Path, peer: Callable[..., Peer]
) -> Behind:
    """Makes a network with a browser on each side behind a NAT of that kind."""

    def behind(nat: Nat, relays: int = 0) -> tuple[Swarm, Browser, Browser]:
        net = stack.enter_context(lab(left=nat, right=nat))
        network = stack.enter_context(net.network(tmp_path / "network", dist, relays))
        left, right = (
            stack.enter_context(net[name].chromium(playwright, downloads, network.site)) for name in ("left", "right")
        )
        return Swarm(network, peer), left, right

    return behind


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "across.bin"
    write_file(path, SIZE)
    return path


def test_a_file_crosses_two_nats(behind: Behind, file: Path) -> None:
    """There is no server but the one for STUN: whatever comes from the right to the left comes by WebRTC."""
    swarm, left, right = behind(Nat.CONE)
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


def test_behind_symmetric_nats_a_file_goes_by_a_server(behind: Behind, file: Path) -> None:
    """The page says of the browser on the other side that it was not reached, and why. Each of the three nodes is a
    point of the file, and circuits have one hop: the reader calls the owner as well as the server."""
    swarm, left, right = behind(Nat.SYMMETRIC, relays=1)
    reader, owner = (swarm.add(browser, {**POINT, "hops": 1}) for browser in (left, right))
    swarm.meet(3)
    link = owner.share(file)
    reader.get(link)
    why = reader.until(NOT_REACHED, owner.state["identity"], seconds=MEET)
    assert "both may be behind routers that let nothing in" in why
    expect(reader.page.get_by_test_id("links-failed")).to_contain_text(why[1:])
    reader.done(link)
    assert sha256(reader.save(link)) == sha256(file)
    for one, other in ((reader, owner), (owner, reader)):
        assert other.state["identity"][:16] not in links_of(one)
