"""A bare data channel between two pages, worker to worker: what WebRTC gives without any node.

Does: measure one of any mode. Does not: print; rtc.py does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright

from tests.browser.harness import launched

MESSAGE = 1 << 16  # bytes; as large as a link's messages become
PLACE = "http://127.0.0.1/"  # of pages that Playwright answers for: no server is there

STRICT: dict[str, Any] = {"ordered": True}
MODES = {
    "reliable, ordered": STRICT,
    "reliable, unordered": {"ordered": False},
    "unreliable, unordered": {"ordered": False, "maxRetransmits": 0},
}

# One worker for either end, from a blob: in a page that a service worker controls, every other script is asked of that.
# The sender says on a second, reliable channel when all is under way: what has not arrived then, and will not be
# repeated, is lost. The receiver's clock counts, from its first message to its last.
WORKER = """
self.onmessage = ({ data: { channel, end, send, size, lossy } }) => {
    let first, last, got = 0, over = false;
    const settle = () => {
        if (got === size || (over && lossy)) self.postMessage({ got, seconds: (last - first) / 1000 });
    };
    channel.binaryType = "arraybuffer";
    channel.onmessage = ({ data }) => {
        last = performance.now();
        first ??= last;
        got += data.byteLength;
        settle();
    };
    end.onmessage = () => { over = true; settle(); };
    if (!send) return;
    const message = new Uint8Array(send);
    let left = size;
    const more = () => {
        for (; left > 0 && channel.bufferedAmount < 1 << 20; left -= send) channel.send(message);
        if (left === 0 && channel.bufferedAmount === 0) { channel.onbufferedamountlow = null; end.send("all"); }
        if (left === 0) channel.bufferedAmountLowThreshold = 0;
    };
    channel.bufferedAmountLowThreshold = 1 << 19;
    channel.onbufferedamountlow = more;
    const start = () => channel.readyState === "open" && end.readyState === "open" && more();
    channel.onopen = end.onopen = start;
    start();
};"""

# A connection with both channels, which are handed over at once: later they could not be.
CONNECT = """({ source, mode, send, size }) => {
    const connection = (window.connection = new RTCPeerConnection());
    const channel = connection.createDataChannel("raw", { ...mode, negotiated: true, id: 0 });
    const end = connection.createDataChannel("end", { negotiated: true, id: 1 });
    const script = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(script);
    const lossy = mode.maxRetransmits === 0;
    window.raw = new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(new Error(`the worker of the bare channel: ${message}`));
    });
    window.over = () => { connection.close(); worker.terminate(); URL.revokeObjectURL(script); };
    worker.postMessage({ channel, end, send, size, lossy }, [channel, end]);
}"""
DESCRIBE = """async (offer) => {
    if (offer) await connection.setRemoteDescription({ type: "offer", sdp: offer });
    const complete = new Promise((resolve) => { connection.onicecandidate = (event) => event.candidate || resolve(); });
    await connection.setLocalDescription();
    await complete;
    return connection.localDescription.sdp;
}"""
FINISH = "(sdp) => connection.setRemoteDescription({ type: 'answer', sdp })"


@dataclass(frozen=True, slots=True)
class Raw:
    """What a bare channel did: MB/s, and which share of the bytes arrived."""

    rate: float
    arrived: float


@contextlib.contextmanager
def pages(playwright: Playwright, folder: Path) -> Iterator[tuple[Page, Page]]:
    """Two empty pages in one Chromium."""
    with launched(playwright, "chromium", folder) as browser:
        yield empty_page(browser), empty_page(browser)


def empty_page(browser: Browser) -> Page:
    context = browser.new_context()
    context.set_default_timeout(0)  # the step's deadline ends the wait
    context.route(PLACE, lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
    page = context.new_page()
    page.goto(PLACE)
    return page


def raw(sender: Page, getter: Page, size: int, mode: dict[str, Any] = STRICT) -> Raw:
    """Send `size` bytes, whole messages, over a bare channel between these pages."""
    for page, send in ((sender, MESSAGE), (getter, 0)):
        page.evaluate(CONNECT, {"source": WORKER, "mode": mode, "send": send, "size": size})
    offer = sender.evaluate(DESCRIBE)
    sender.evaluate(FINISH, getter.evaluate(DESCRIBE, offer))
    result = getter.evaluate("raw")
    for page in (sender, getter):
        page.evaluate("over()")
    return Raw((result["got"] - MESSAGE) / result["seconds"] / 1e6, result["got"] / size)
