"""Two browser nodes: a file over 2+2 hops beside a raw WebSocket echo between the same two pages; the page's start
beside a bare Pyodide load in the same browser.

Real headless Chromium, two profiles, and the network of `convergence up` with the page in dist/.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server
from playwright.sync_api import Browser, Page, sync_playwright

from tests.bench.cli import make_file, network
from tests.bench.lab import Figure
from tests.browser.harness import START, Peer, launched

TITLE = "Browser to browser, 2+2 hops on loopback (Chromium)"
DIST = Path(__file__).resolve().parents[2] / "dist"
SPEED_TARGET = 3.0  # MB/s
START_TARGET = 1.5  # times the bare Pyodide load
SIZE = 32 << 20
MESSAGE = 65_278  # bytes: 127 cells, what a link sends at most
STARTS = 3
PHASES = (60, 75, 80)  # percent in the page's state: Python runs, the node's code is loaded, the nodes are known

BARE_PAGE = """<!doctype html><meta charset="utf-8"><title>bare</title><script type="module">
new Worker("bare.js", {type: "module"}).onmessage = () => { window.loaded = performance.now(); };
</script>"""
BARE_WORKER = """import { loadPyodide } from "./pyodide/pyodide.mjs";
const pyodide = await loadPyodide({ indexURL: new URL("pyodide/", self.location.href).href });
pyodide.runPython("1 + 1");
self.postMessage(null);"""

ECHO = """([url]) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => resolve();
    socket.onmessage = ({ data }) => socket.send(data);
})"""
SEND = """([url, size, message]) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    const part = crypto.getRandomValues(new Uint8Array(message));
    let sent = 0, back = 0, started = 0;
    const fill = () => {
        while (sent < size && sent - back < 32 * message) { socket.send(part); sent += message; }
    };
    socket.onopen = () => { started = performance.now(); fill(); };
    socket.onmessage = ({ data }) => {
        back += data.byteLength;
        if (back >= size) { socket.close(); resolve(back / 1e3 / (performance.now() - started)); } else fill();
    };
})"""


def run(tiny: bool = False) -> list[Figure]:
    size, starts = (1 << 20, 1) if tiny else (SIZE, STARTS)
    with tempfile.TemporaryDirectory(prefix="convergence-bench-") as name, sync_playwright() as playwright:
        folder = Path(name)
        make_file(folder / "file.bin", size)
        with network(folder, "--dist", DIST) as state, launched(playwright, "chromium", folder) as browser:
            # In turn, so that other programs on the machine slow both.
            pairs = [(bare_load(browser, folder), page_start(browser, state["site"], folder)) for _ in range(starts)]
            bare = min(load for load, _ in pairs)
            python, code, network_known, ready = min((marks for _, marks in pairs), key=lambda marks: marks[-1])
            speed, raw = transfer(browser, state["site"], folder, size)
    return [
        Figure("file from page to page", speed, "MB/s", SPEED_TARGET, note=f"{size >> 20} MiB, from click to verified"),
        Figure("raw WebSocket echo between the pages", raw, "MB/s", note=f"messages of {MESSAGE:,} bytes"),
        Figure("file / raw echo", speed / raw, "ratio"),
        Figure("page open to five circuits", ready, "s", note=f"best of {starts}, cold profile"),
        Figure("  of it: until Python runs", python, "s"),
        Figure("  until the node's code is loaded", code, "s"),
        Figure("  until the nodes are known", network_known, "s"),
        Figure("bare Pyodide load", bare, "s", note=f"best of {starts}, cold profile"),
        Figure("page open / bare load", ready / bare, "ratio", START_TARGET, at_most=True),
    ]


def page_start(browser: Browser, site: str, folder: Path) -> list[float]:
    """Seconds from navigation to each of PHASES and to five circuits, in a fresh profile."""
    peer = Peer(browser, site, folder)
    marks = []
    try:
        peer.open()
        for percent in PHASES:
            peer.until("state.ready || state.phase.percent >= argument", percent, seconds=START)
            marks.append(float(peer.page.evaluate("performance.now()")) / 1000)
        peer.ready()
        return [*marks, float(peer.page.evaluate("performance.now()")) / 1000]
    finally:
        peer.close()


def bare_load(browser: Browser, folder: Path) -> float:
    """Seconds from navigation to Pyodide having run a line, in a fresh profile and a worker, as the page has it."""
    web = folder / "bare"
    web.mkdir(exist_ok=True)
    (web / "index.html").write_text(BARE_PAGE, encoding="utf-8")
    (web / "bare.js").write_text(BARE_WORKER, encoding="utf-8")
    if not (web / "pyodide").exists():
        (web / "pyodide").symlink_to(DIST / "pyodide", target_is_directory=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(web)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function("window.loaded", timeout=120_000)
        return float(page.evaluate("window.loaded")) / 1000
    finally:
        context.close()
        server.shutdown()
        thread.join()
        server.server_close()


def transfer(browser: Browser, site: str, folder: Path, size: int) -> tuple[float, float]:
    """MB/s of a file, and of an echo, between the same two pages."""
    sharing, getting = (Peer(browser, site, folder) for _ in range(2))
    try:
        for peer in (sharing, getting):
            peer.open().ready()
        link = sharing.share(folder / "file.bin")
        started = time.monotonic()
        getting.get(link)
        getting.done(link)
        speed = size / 1e6 / (time.monotonic() - started)
        return speed, echo(sharing.page, getting.page, size)
    finally:
        for peer in (sharing, getting):
            peer.close()


def echo(sender: Page, echoer: Page, size: int) -> float:
    """MB/s one way while the same comes back, through a process that only joins the two sockets."""
    with joiner() as url:
        echoer.evaluate(ECHO, [url])
        return float(sender.evaluate(SEND, [url, size, MESSAGE]))


@contextmanager
def joiner() -> Iterator[str]:
    """Address of a WebSocket server whose first two connections are joined."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_join_sockets, args=(theirs,))
    process.start()
    try:
        yield f"ws://127.0.0.1:{ours.recv()}/"
    finally:
        ours.send(None)
        process.join()


class _Half(WSListener):  # type: ignore[misc]
    """One of two sockets; what it gets, the other one sends."""

    def __init__(self, halves: list[_Half]) -> None:
        self._halves = halves
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self._halves.append(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            other = self._halves[1 - self._halves.index(self)].transport
            if other is not None:
                other.send(WSMsgType.BINARY, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


def _join_sockets(control: Connection) -> None:
    async def serve() -> None:
        halves: list[_Half] = []
        server = await ws_create_server(lambda request: _Half(halves), "127.0.0.1", 0)
        control.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, control.recv)
        server.close()

    asyncio.run(serve())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...
