"""The page by itself, for tests: served with a stand-in for the node's worker, which does as it is told.

Does: bundle and serve web/ under the strictest policy; talk to the stand-in (page/worker.js) over a BroadcastChannel;
make what states are made of.
Does not: open the page.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from pynode.published.manifest import Manifest

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "web"
# The strictest policy under which the page must work; sites may send a laxer one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types convergence"
)
UNKEPT = "Object.defineProperty(Navigator.prototype, 'serviceWorker', { value: undefined })"
"""A browser without service workers: for tests that are not about them, as those of test_service_worker.py are."""
LINK = "A" * 43 + "." + "B" * 42 + "A"
HOSTILE = '../../<img src=x onerror="document.title=1">\u202egnp.exe\n' + "x" * 5000 + ".txt"
CIRCUITS = [
    {
        "id": number,
        "state": "ready",
        "purpose": "ready",
        "hops": [{"identity": f"{number}a" * 32, "roles": ["relay"], "built": True} for _ in range(2)],
    }
    for number in range(5)
]
READY = {"ready": True, "seconds": 2.9, "phase": {"percent": 100, "text": "Ready"}, "circuits": CIRCUITS}
SETTINGS = {
    "relay": True,
    "rdv": True,
    "direct": False,
    "metered": False,
    "group": False,
    "tor": False,
    "circuits": 1024,
    "streams": 1024,
    "upload": 20,
    "share": 50,
    "volume": 0,
    "hops": 2,
}


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.path = self.path.partition("%23")[0]  # as our sites do
        super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the page, which is put into `folder`."""
    for path in WEB.iterdir():
        if path.suffix in (".html", ".css", ".svg"):
            shutil.copy(path, folder)
    bundler = [ROOT / "node_modules/.bin/esbuild", WEB / "main.js", "--bundle", "--format=esm", "--log-level=warning"]
    subprocess.run([*map(str, bundler), f"--outfile={folder / 'main.js'}"], check=True)
    (folder / "worker").mkdir()
    shutil.copy(Path(__file__).parent / "page" / "worker.js", folder / "worker")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "manifest.json").write_bytes(Manifest.of(files, "0.1.0").encode())
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def tell(page: Page, **message: Any) -> None:
    """Tell the stand-in worker something."""
    page.evaluate("message => new BroadcastChannel('test-control').postMessage(message)", message)


def said(page: Page) -> list[dict[str, Any]]:
    """The commands that the stand-in worker has had."""
    commands: list[dict[str, Any]] = _heard(page)["said"]
    return commands


def started(page: Page) -> dict[str, Any]:
    """What the page told the stand-in worker when it started it."""
    start: dict[str, Any] = _heard(page)["start"]
    return start


def _heard(page: Page) -> dict[str, Any]:
    heard: dict[str, Any] = page.evaluate(
        """() => new Promise((resolve, reject) => {
            const control = new BroadcastChannel("test-control");
            const ask = () => control.postMessage({ ask: true });
            const asking = setInterval(ask, 100); // a page that was just opened may have no worker yet
            const late = setTimeout(() => reject(new Error("no worker was started")), 30000);
            control.onmessage = ({ data }) => {
                if (!data.start) return;
                clearInterval(asking);
                clearTimeout(late);
                resolve(data);
            };
            ask();
        })"""
    )
    return heard


def transfer(**values: Any) -> dict[str, Any]:
    return {
        "id": "t",
        "name": "a.pdf",
        "size": 1048576,
        "have": 0,
        "pieces": 4,
        "sources": 1,
        "state": "running",
        "why": None,
    } | values


def share(**values: Any) -> dict[str, Any]:
    empty = {"id": "s", "name": "a.pdf", "size": 1048576, "have": 0, "stage": "reading", "points": 0}
    return empty | {"link": "", "why": None} | values


def link(peer: str = "0123456789abcdef", **values: Any) -> dict[str, Any]:
    empty = {"peer": peer, "kind": "rtc", "state": "open", "dialled": True, "circuits": 0, "sent": 0, "received": 0}
    return empty | {"why": None} | values


def relay(**values: Any) -> dict[str, Any]:
    none = {"on": True, "why": "", "reachable": True, "circuits": 0, "circuitsTotal": 0, "streams": 0, "bytes": 0}
    return none | values
