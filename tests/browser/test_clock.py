"""A browser's node that stood still, or whose device's clock was set: it is back by itself.

What it does about either is tested in the simulator, with times; here, that a real page and its worker notice.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from convergence.driver import HEARTBEAT, LATE
from tests.browser.harness import ARRIVAL, Peer
from tests.e2e.processes import MIB, Network, write_file

SET = """(milliseconds) => {
    const now = Date.now;
    Date.now = () => now() + milliseconds;
}"""
"""In the node's worker: what the device's clock says is other by so much from now on."""
DAY_AND_MORE = 26 * 3600


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("network"), dist, relays=3)
    yield network
    network.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_file(tmp_path / "file.bin", MIB)
    return tmp_path / "file.bin"


def set_clock(peer: Peer, seconds: int) -> None:
    [worker] = peer.page.workers
    worker.evaluate(SET, seconds * 1000)


@pytest.mark.parametrize("ahead", [DAY_AND_MORE, -DAY_AND_MORE], ids=["ahead", "behind"])
def test_a_clock_that_was_set_wrong_is_named_and_one_that_was_set_right_works_again(
    network: Network, chromium: Browser, peer: Callable[..., Peer], file: Path, ahead: int
) -> None:
    sender, getter = (peer(chromium, network.site).open().ready() for _ in range(2))
    link = sender.share(file)
    set_clock(sender, ahead)
    expect(sender.page.get_by_test_id("error")).to_contain_text("clock", timeout=ARRIVAL * 1000)
    set_clock(sender, -ahead)
    getter.get(link)
    getter.done(link)


def renderers(browser: Browser) -> set[int]:
    """The processes of Chromium's pages and their workers."""
    devtools = browser.new_browser_cdp_session()
    processes = devtools.send("SystemInfo.getProcessInfo")["processInfo"]
    devtools.detach()
    return {process["id"] for process in processes if process["type"] == "renderer"}


def test_what_a_page_shares_that_stood_still_is_had_once_it_goes_on(
    network: Network, chromium: Browser, peer: Callable[..., Peer], file: Path
) -> None:
    """For longer than it takes a node to notice. Chromium's own freezing of pages leaves their workers running."""
    getter = peer(chromium, network.site).open().ready()
    before = renderers(chromium)
    sender = peer(chromium, network.site).open().ready()
    link = sender.share(file)
    stopped = renderers(chromium) - before
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        getter.get(link)
        getter.page.wait_for_timeout((LATE + HEARTBEAT) * 1000)
        assert getter.transfer(link)["have"] == 0
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    getter.done(link)
