"""Browsers: a file from page to page over 2+2 hops, and the start of a page; each beside what the platform alone gives.

Everything runs on this machine: two pages, five relays and the site share its cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import WSMsgType, web
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.bench.lab import Figure
from tests.bench.supervise import step
from tests.browser.alone import UNKEPT
from tests.browser.harness import ARRIVAL, START, Peer, launched
from tests.e2e.processes import MIB, ROOT, running, write_file

T = TypeVar("T")

SIZE = 32 * MIB
STARTS = 5
MESSAGE = 1 << 16  # bytes; as large as a link's messages become
# Deadlines of steps, in seconds; above those of the harness, whose messages say more.
NETWORK = 120.0
VISIT = START + 60
TRANSFER = ARRIVAL + 60
TARGET_RATE = 3.0  # MB/s
TARGET_START = 1.5  # times the bare load
TARGET_AGAIN = 0.5
TARGET_VERIFY = 0.1

STANDING = "state.ready && state.circuits.filter((circuit) => circuit.state !== 'building').length >= 5"

# One page sends, the other says when all has come: what two pages can do at best over one plain relay.
RECEIVE = """([url, size]) => new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    let left = size;
    window.received = new Promise((done) => {
        socket.onmessage = ({ data }) => {
            left -= data.size ?? data.byteLength;
            if (left === 0) { socket.close(); done(); }
        };
    });
    socket.onopen = resolve;
    socket.onerror = reject;
})"""
SEND = """([url, size, step]) => new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    const message = new Uint8Array(step);
    let left = size;
    const more = () => {
        for (; left > 0 && socket.bufferedAmount < 1 << 20; left -= step) socket.send(message);
        if (left > 0) setTimeout(more); else { window.sending = socket; resolve(); }
    };
    socket.onopen = more;
    socket.onerror = reject;
})"""

HASH = """async () => {
    const { files } = await (await fetch("manifest.json")).json();
    const all = await Promise.all(Object.keys(files).map(async (name) => (await fetch(name)).arrayBuffer()));
    const begun = performance.now();
    for (const bytes of all) await crypto.subtle.digest("SHA-256", bytes);
    return (performance.now() - begun) / 1000;
}"""

BARE_PAGE = "<!doctype html><link rel=icon href=data:,><script type=module src=/bare.js></script>"
BARE_SCRIPT = """
const worker = new Worker("/bare-worker.js", { type: "module" });
window.loaded = new Promise((resolve, reject) => {
    worker.onmessage = () => resolve(performance.now() / 1000);
    worker.onerror = (event) => reject(new Error(event.message));
});"""
BARE_WORKER = """
import { loadPyodide } from "/pyodide/pyodide.mjs";
const pyodide = await loadPyodide({ indexURL: "/pyodide/", checkAPIVersion: true });
self.postMessage(pyodide.runPython("1 + 1"));"""


def run(tiny: bool = False) -> list[Figure]:
    size = MIB if tiny else SIZE
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        step("five relays and a site", NETWORK)
        up = stack.enter_context(
            running("up", "--no-rtc", "--port", "0", "--data", folder / "data", "--dist", ROOT / "dist")
        )
        site = up.until("ready")["site"]
        step("a browser", NETWORK)
        playwright = stack.enter_context(sync_playwright())
        browser = stack.enter_context(launched(playwright, "chromium", folder / "downloads"))
        figures = transfer(browser, site, folder, size)
        figures += start(browser, site, folder, 1 if tiny else STARTS)
    return figures


def transfer(browser: Browser, site: str, folder: Path, size: int) -> list[Figure]:
    """The file, and the same bytes over a plain WebSocket between the same two pages."""
    file = folder / "file.bin"
    write_file(file, size)
    step("circuits of two pages", 2 * VISIT)
    sender, getter = (visitor(browser, site, folder).open() for _ in range(2))
    sender.ready()
    getter.ready()
    step("the link of the file", TRANSFER)
    link = sender.share(file)
    step("the file from page to page", TRANSFER)
    begun = time.perf_counter()
    getter.get(link)
    first = getter.transfer(link, "item.have > 0")["have"]
    flowing = time.perf_counter()
    getter.done(link)
    ended = time.perf_counter()
    step("the same bytes over a plain WebSocket", TRANSFER)
    with plain_relay() as url:
        raw = size / plain(sender.page, getter.page, url, size) / 1e6
    sender.close()
    getter.close()
    rate = size / (ended - begun) / 1e6
    return [
        Figure("browser to browser, from click to complete", rate, "MB/s", TARGET_RATE, note=f"{size >> 20} MiB"),
        Figure("  of it after the first piece", (size - first) / (ended - flowing) / 1e6, "MB/s"),
        Figure("plain WebSocket, the same pages, one relay", raw, "MB/s", note=f"{raw / rate:.1f} times as much"),
    ]


def plain(sender: Page, getter: Page, url: str, size: int) -> float:
    """Seconds."""
    getter.evaluate(RECEIVE, [url, size])
    begun = time.perf_counter()
    sender.evaluate(SEND, [url, size, MESSAGE])
    getter.evaluate("received")
    return time.perf_counter() - begun


@contextlib.contextmanager
def plain_relay() -> Iterator[str]:
    """A process that passes each message of a WebSocket to all others; its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=relay_messages, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"ws://127.0.0.1:{ours.recv()}/"
    finally:
        process.terminate()
        process.join()


def relay_messages(parent: Connection) -> None:
    sockets: list[web.WebSocketResponse] = []

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        sockets.append(socket)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                for other in sockets:
                    if other is not socket:
                        await other.send_bytes(message.data)
        sockets.remove(socket)
        return socket

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        parent.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


def start(browser: Browser, site: str, folder: Path, times: int) -> list[Figure]:
    """All in turn, each in a profile of its own; the median."""
    ours, later, hashed, unkept, published, bare = [], [], [], [], [], []
    for number in range(1, times + 1):
        step(f"bare loads of Pyodide, {number}", 2 * VISIT)
        published.append(in_new_profile(browser, site, folder, published_load))
        bare.append(in_new_profile(browser, site, folder, bare_load))
        step(f"a first visit with nothing kept, {number}", VISIT)
        unkept.append(in_new_profile(browser, site, folder, unkept_start))
        step(f"a first and a second visit, {number}", 3 * VISIT)
        seconds = in_new_profile(browser, site, folder, two_visits)
        for figures, value in zip((ours, later, hashed), seconds, strict=True):
            figures.append(value)
    first, alone = statistics.median(ours), statistics.median(published)
    warm, unverified = statistics.median(later), statistics.median(unkept)
    return [
        Figure("page open to five circuits", first, "s", note=listed(ours)),
        Figure("bare load of Pyodide as published", alone, "s", note=listed(published)),
        Figure("start, in bare loads", first / alone, "times", TARGET_START, at_most=True),
        Figure("second visit, to five circuits", warm, "s", note=listed(later)),
        Figure("second visit, in bare loads", warm / alone, "times", TARGET_AGAIN, at_most=True),
        Figure(
            "to hash all files, of the first visit",
            statistics.median(hashed) / first,
            "of it",
            TARGET_VERIFY,
            at_most=True,
        ),
        Figure("first visit with nothing verified or kept", unverified, "s", note=listed(unkept)),
        Figure(
            "to verify and keep, service worker and all", 1 - unverified / first, "of it", TARGET_VERIFY, at_most=True
        ),
        Figure("bare load of Pyodide with the site's bytecode", statistics.median(bare), "s", note=listed(bare)),
    ]


def listed(times: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in times)


def in_new_profile(browser: Browser, site: str, folder: Path, measure: Callable[[Peer], T]) -> T:
    peer = visitor(browser, site, folder)
    try:
        return measure(peer)
    finally:
        peer.close()


def visitor(browser: Browser, site: str, folder: Path, **options: Any) -> Peer:
    """A browser profile for which Playwright has no deadlines of its own: those of the steps end every wait."""
    peer = Peer(browser, site, folder, **options)
    peer.context.set_default_timeout(0)
    expect.set_options(timeout=1000 * VISIT)  # in ms; 0 would be its default
    return peer


def five_circuits(peer: Peer) -> float:
    """Seconds since the page began to load."""
    peer.open().until(STANDING, seconds=START)
    seconds: float = peer.page.evaluate("performance.now() / 1000")
    return seconds


def unkept_start(peer: Peer) -> float:
    """Of a browser without service workers."""
    peer.context.add_init_script(UNKEPT)
    return five_circuits(peer)


def two_visits(peer: Peer) -> tuple[float, float, float]:
    """The first and, once all is kept that it leaves behind, the next; and what hashing all files takes."""
    first = five_circuits(peer)
    peer.settled().page.close()
    second = five_circuits(peer)
    return first, second, peer.page.evaluate(HASH)


def bare_load(peer: Peer) -> float:
    """Likewise, of a page that only loads Pyodide in a worker, from the same site."""
    answer(peer, "bare.html", "text/html", BARE_PAGE)
    answer(peer, "bare.js", "text/javascript", BARE_SCRIPT)
    answer(peer, "bare-worker.js", "text/javascript", BARE_WORKER)
    page = peer.context.new_page()
    page.goto(f"{peer.site}bare.html")
    seconds: float = page.evaluate("loaded")
    return seconds


def published_load(peer: Peer) -> float:
    """Likewise, with Python's library as Pyodide publishes it: sources only."""
    library = ROOT / "node_modules" / "pyodide" / "python_stdlib.zip"
    peer.context.route(f"{peer.site}pyodide/{library.name}", lambda route: route.fulfill(path=library))
    return bare_load(peer)


def answer(peer: Peer, path: str, content: str, body: str) -> None:
    """A file of the site that is not there."""
    headers = {"Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Opener-Policy": "same-origin"}
    fulfil = {"body": body, "content_type": content, "headers": headers}
    peer.context.route(peer.site + path, lambda route: route.fulfill(**fulfil))
