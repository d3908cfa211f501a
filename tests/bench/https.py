"""https in the page, through an exit, beside plain http the same way and the browser's own https, in one run.

Everything runs on this machine: the page, five relays, the site and the web server share its cores.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.bench.lab import Figure
from tests.bench.supervise import step
from tests.browser.harness import START, Peer, launched
from tests.browser.secure import secure_page
from tests.e2e.processes import running
from tests.interop.website import LARGE, Website

NETWORK = 120.0  # seconds; above the deadlines of the harness, whose messages say more
TRANSFER = 120.0
ROUNDS = 10
LARGE_ROUNDS = 5  # of each scheme in turn; the median counts
TARGET = 5.0  # MB/s
OWN = """async (address) => {
    const begun = performance.now();
    const size = (await (await fetch(address, { cache: "no-store" })).arrayBuffer()).byteLength;
    return [size, (performance.now() - begun) / 1000];
}"""


def run(tiny: bool = False) -> list[Figure]:
    rounds = 2 if tiny else ROUNDS
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        step("a web server, and a page that trusts it", NETWORK)
        website = Website(folder, "host.example")
        stack.callback(website.close)
        page = secure_page(website.authority, folder / "dist")
        step("five relays and a site", NETWORK)
        allowed = [part for port in (website.http, website.https) for part in ("--exit-allow", f"127.0.0.1:{port}")]
        options = ["--no-rtc", "--port", "0", "--data", folder / "data", "--dist", page, *allowed]
        site = stack.enter_context(running("up", *options)).until("ready")["site"]
        step("a browser", NETWORK)
        playwright = stack.enter_context(sync_playwright())
        browser = stack.enter_context(launched(playwright, "chromium", folder / "downloads"))
        step("circuits of the page", START + 60)
        peer = Peer(browser, site, folder / "downloads").open().ready()
        step("https of the page, small and large", TRANSFER)
        peer.fetched(f"https://127.0.0.1:{website.https}/word/first")  # loads the page's TLS
        small = [fetched(peer, website, "https", f"/word/s{number}")[1] for number in range(rounds)]
        plain = [fetched(peer, website, "http", f"/word/p{number}")[1] for number in range(rounds)]
        large: dict[str, list[float]] = {"https": [], "http": []}
        for number in range(1 if tiny else LARGE_ROUNDS):
            for scheme, times in large.items():
                size, seconds = fetched(peer, website, scheme, f"/large?{number}")
                assert size == len(LARGE)
                times.append(seconds)
        step("the browser's own https", TRANSFER)
        context = browser.new_context(ignore_https_errors=True)
        own, own_seconds = itself(context.new_page(), website)
        assert own == len(LARGE)
        context.close()
        peer.close()
    seconds, open_seconds = (statistics.median(large[scheme]) for scheme in ("https", "http"))
    handshake = (statistics.median(small) - statistics.median(plain)) * 1e3
    return [
        Figure(
            "https in the page, 10 MiB", size / seconds / 1e6, "MB/s", TARGET, note="circuit and handshake included"
        ),
        Figure("http in the page, 10 MiB", size / open_seconds / 1e6, "MB/s"),
        Figure("the browser's own https", size / own_seconds / 1e6, "MB/s", note="no circuits"),
        Figure("https in the page / the browser's own", own_seconds / seconds, "ratio"),
        Figure("a short answer by https", statistics.median(small) * 1e3, "ms", note="a new circuit each, median"),
        Figure("a short answer by http", statistics.median(plain) * 1e3, "ms"),
        Figure("TLS adds to a short answer", handshake, "ms", note=f"of {rounds} each"),
    ]


def fetched(peer: Peer, website: Website, scheme: str, path: str) -> tuple[int, float]:
    """Bytes and seconds of one fetch, from the click on."""
    address = f"{scheme}://127.0.0.1:{website.port(scheme)}{path}"
    begun = time.perf_counter()
    item: dict[str, Any] = peer.fetched(address)
    assert item["stage"] == "done", item
    return item["size"], time.perf_counter() - begun


def itself(page: Page, website: Website) -> tuple[int, float]:
    """The browser asks the web server, from a page of that server."""
    page.goto(f"https://127.0.0.1:{website.https}/")
    size, seconds = page.evaluate(OWN, f"https://127.0.0.1:{website.https}/large")
    return size, seconds
