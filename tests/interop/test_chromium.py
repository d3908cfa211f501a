"""Chromium through the proxy: a page, and a WebSocket of it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.interop.ways import Proxy, Way
from tests.interop.website import Website

MESSAGES = 100
ECHO = """async ([address, messages, size]) => {
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    await new Promise((open, failed) => { socket.onopen = open; socket.onerror = () => failed(new Error("refused")); });
    const answered = () => new Promise((resolve, reject) => {
        socket.onmessage = (event) => resolve(event.data);
        socket.onclose = () => reject(new Error("closed early"));
    });
    for (let number = 0; number < messages; number++) {
        const answer = answered();
        socket.send(`message ${number} ${"é".repeat(number)}`);
        if ((await answer) !== `message ${number} ${"é".repeat(number)}`) throw new Error("another answer");
    }
    const answer = answered();
    socket.send(new Uint8Array(size).fill(7));
    const back = new Uint8Array(await answer);
    const closed = new Promise((resolve) => { socket.onclose = (event) => resolve(event); });
    socket.close(1000);
    const { code, wasClean } = await closed;
    return [back.length, back.every((byte) => byte === 7), code, wasClean];
}"""
"""Says so many messages to an echo, then one of `size` bytes, then good-bye. Gives what came back of the large one and
how the far side closed."""
LARGE = 1 << 20


def context(browser: Browser, proxy: Proxy, dialect: str) -> BrowserContext:
    """Playwright itself has Chromium take the proxy for loopback as well."""
    return browser.new_context(proxy={"server": f"{dialect}://127.0.0.1:{proxy.port}"}, ignore_https_errors=True)


# For http, Chromium sends no CONNECT to an HTTP proxy but a GET, which the proxy refuses: see test_curl.py.
@pytest.mark.parametrize(
    ("dialect", "scheme"),
    [("socks5", "http"), pytest.param("socks5", "https", marks=pytest.mark.long), ("http", "https")],
)
def test_a_page_and_its_websocket(chromium: Browser, way: Way, website: Website, dialect: str, scheme: str) -> None:
    with way.to_port(website.port(scheme)) as service, way.proxy() as proxy:
        profile = context(chromium, proxy, dialect)
        try:
            page = profile.new_page()
            page.goto(f"{scheme}://{service.host}/")
            assert page.title() == "a page"
            address = f"{scheme.replace('http', 'ws')}://{service.host}/echo"
            assert page.evaluate(ECHO, [address, MESSAGES, LARGE]) == [LARGE, True, 1000, True]
        finally:
            profile.close()
        proxy.circuits("", streams=2)  # the page's and the WebSocket's, at least


def test_a_page_of_a_service_that_nobody_offers(chromium: Browser, way: Way) -> None:
    with way.proxy() as proxy:
        profile = context(chromium, proxy, "socks5")
        try:
            page = profile.new_page()
            with pytest.raises(Exception, match="ERR_SOCKS_CONNECTION_FAILED"):
                page.goto("http://nobody-offers-this.hash.conv/")
        finally:
            profile.close()
