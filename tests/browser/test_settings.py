"""What people let their browser's node do for others: set on the page, kept by the browser, done by the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.harness import START, Peer
from tests.e2e.processes import Network

pytestmark = pytest.mark.rtc

METERED = """
    const connection = Object.assign(new EventTarget(), { saveData: false, type: "cellular" });
    Object.defineProperty(Navigator.prototype, "connection", { value: connection });
"""
CHANGED_TO = """(type) => {
    navigator.connection.type = type;
    navigator.connection.dispatchEvent(new Event("change"));
}"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("network"), dist, relays=3, rtc=True)
    yield network
    network.close()


def put(page: Page, name: str, value: str) -> None:
    """Type a number into its field, as people do."""
    if not page.get_by_test_id("set-hops").is_visible():
        page.get_by_test_id("limits").click()
    page.get_by_test_id(f"set-{name}").fill(value)
    page.get_by_test_id(f"set-{name}").press("Tab")


def working(peer: Peer, why: str = "") -> None:
    """Wait until the node works for others, or does not because of `why`."""
    peer.until("state.relay.why === argument && state.relay.on === !argument", why, seconds=START)


def test_a_browser_relays_until_it_is_paused_and_when_it_goes_on(
    network: Network, chromium: Browser, peer: Callable[..., Peer]
) -> None:
    one, two = (peer(chromium, network.site).open() for _ in range(2))
    for each in (one, two):
        each.ready()
        each.until("state.relay.on && state.relay.reachable")
    nodes = two.until("state.nodes >= 5 && state.nodes")
    assert one.state["identity"] != two.state["identity"]
    put(two.page, "hops", "4")  # all that there are: each of its circuits goes through the other browser
    one.until("state.links.some((link) => link.kind === 'rtc' && link.state === 'open')")
    expect(one.page.get_by_test_id("links")).not_to_have_attribute("data-rtc", "0")
    switch, note = one.page.get_by_test_id("relay-switch"), one.page.get_by_test_id("relay-note")
    expect(switch).to_be_checked()
    switch.press("Space")
    working(one, "paused")
    expect(switch).not_to_be_checked()
    expect(note).to_have_text("Paused")
    one.until("state.relay.circuits === 0")
    two.until("state.nodes === argument", nodes - 1)  # it told the others
    switch.press("Space")
    working(one)
    expect(note).not_to_contain_text("Paused")
    two.until("state.nodes === argument", nodes)


def test_settings_reach_the_node_and_are_there_at_the_next_visit(
    network: Network, chromium: Browser, peer: Callable[..., Peer]
) -> None:
    one = peer(chromium, network.site).open().ready()
    for name, value in (("volume", "1"), ("circuits", "5"), ("upload", "2.5"), ("share", "400"), ("hops", "3")):
        put(one.page, name, value)
    one.page.get_by_test_id("set-rdv").uncheck()
    one.page.get_by_test_id("set-direct").check()
    one.page.get_by_test_id("set-group").check()
    wanted = {"volume": 1, "circuits": 5, "upload": 2.5, "share": 100, "hops": 3}
    wanted |= {"rdv": False, "direct": True, "group": True, "relay": True}
    one.until("Object.entries(argument).every(([name, value]) => state.settings?.[name] === value)", wanted)
    one.until("state.circuits.length >= 5 && state.circuits.every((circuit) => circuit.hops.length === 3)")
    one.page.reload()
    one.until("Object.entries(argument).every(([name, value]) => state.settings?.[name] === value)", wanted)
    one.page.get_by_test_id("limits").click()
    expect(one.page.get_by_test_id("set-share")).to_have_value("100")
    expect(one.page.get_by_test_id("set-rdv")).not_to_be_checked()
    working(one)


def test_a_metered_connection_pauses_for_as_long_as_it_is_one(
    network: Network, chromium: Browser, peer: Callable[..., Peer]
) -> None:
    one = peer(chromium, network.site)
    one.context.add_init_script(METERED)
    one.open()
    working(one, "metered")
    note = one.page.get_by_test_id("relay-note")
    expect(note).to_have_text("Paused: metered connection")
    one.page.evaluate(CHANGED_TO, "wifi")
    working(one)
    one.page.evaluate(CHANGED_TO, "cellular")
    working(one, "metered")
    one.page.get_by_test_id("limits").click()
    one.page.get_by_test_id("set-metered").check()
    working(one)
    expect(note).not_to_contain_text("Paused")


def test_any_tab_changes_what_the_one_node_does(network: Network, chromium: Browser, peer: Callable[..., Peer]) -> None:
    one = peer(chromium, network.site).open()
    working(one)
    first = one.page
    guest = one.open().page
    expect(guest.get_by_text("runs in another tab")).to_be_visible()
    put(guest, "circuits", "7")
    guest.get_by_test_id("relay-switch").click()
    working(one, "paused")
    expect(first.get_by_test_id("relay-switch")).not_to_be_checked()
    first.get_by_test_id("limits").click()
    expect(first.get_by_test_id("set-circuits")).to_have_value("7")
    before = one.state["identity"]
    first.close()
    expect(guest.get_by_text("runs in another tab")).to_be_hidden()
    one.until("state.identity && state.identity !== argument", before, seconds=START)  # the guest's own node
    working(one, "paused")  # as the first one was told to be
    one.until("state.settings?.circuits === 7")


def test_a_site_without_webrtc_uses_no_browser_as_a_relay(
    tmp_path: Path, dist: Path, chromium: Browser, peer: Callable[..., Peer]
) -> None:
    network = Network(tmp_path / "network", dist, relays=3)
    try:
        one = peer(chromium, network.site).open().ready()
        working(one, "site")
        expect(one.page.get_by_test_id("relay-switch")).to_be_disabled()
        assert {link["kind"] for link in one.state["links"]} == {"ws"}
        put(one.page, "hops", "1")
        one.until("state.circuits.length >= 5 && state.circuits.every((circuit) => circuit.hops.length === 1)")
    finally:
        network.close()
