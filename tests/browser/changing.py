"""A site that changes: what a service worker has to cope with.

Does: serve files below a folder of a loopback server, as mirrors often do; change, forget, stop and start again at the
same address; make a small version of the page, with a stand-in for the node's worker, in place of all of Pyodide.
Does not: know service workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import build
from pynode.published.log import Log
from pynode.published.manifest import Manifest
from pynode.published.minisign import SecretKey
from pynode.published.release import Release, sign
from pynode.site import BOOKMARK_PAGE, BOOKMARK_POLICY, HEADERS, TYPES

FOLDER = "/some/mirror/"
HELD = 60.0
"""Seconds until a request that waits is answered after all."""
STARTED = "Ready, 1 circuit"
"""What the small page says once the stand-in for its node runs."""
CIRCUIT = b'{ id: 1, state: "ready", purpose: "ready", hops: [] }'
NETWORK = b'{"facilitator":{"identity":"' + b"00" * 32 + b'","path":"/facilitator"},"site":"Changing"}'


class Held(NamedTuple):
    """A request that waits."""

    asked: threading.Event
    go: threading.Event


class ChangingSite:
    """The running server. `files` may be changed at any time; `asked` holds the names of all requests so far."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files: dict[str, bytes] = {"network.json": NETWORK, **(files or {})}
        self.asked: list[str] = []
        self.lax = False  # all is a web page, and may run what it likes
        self._held: dict[str, Held] = {}
        self._port = 0
        self.start()

    def start(self) -> None:
        """At the same address as before, if there was a before."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site._answer(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None: ...

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        self.address = f"http://127.0.0.1:{self._port}{FOLDER}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nobody answers at its address."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, files: Mapping[str, bytes]) -> None:
        """These files and no others."""
        self.files = {"network.json": NETWORK, **files}

    def hold(self, name: str) -> Held:
        """The next request for this file is not answered before `go` is set."""
        self._held[name] = Held(threading.Event(), threading.Event())
        return self._held[name]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        name = path.removeprefix(FOLDER) or "index.html"
        data = self.files.get(name) if path.startswith(FOLDER) else None
        self.asked.append(name)
        if held := self._held.pop(name, None):
            held.asked.set()
            held.go.wait(HELD)
        request.send_response(404 if data is None else 200)
        kind = "text/html" if self.lax else TYPES.get(Path(name).suffix, "application/octet-stream")
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data or b"")))
        request.send_header("Cache-Control", "no-cache")
        request.send_header("Connection", "close")  # or it would be answered after `stop` as well
        for header, value in HEADERS.items():
            if header != "Server" and not self.lax:
                request.send_header(header, BOOKMARK_POLICY if (header, f"/{name}") == _OPEN_POLICY else value)
        request.end_headers()
        with contextlib.suppress(ConnectionError):  # who has read enough hangs up
            request.wfile.write(data or b"")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers hang up when a test is over, or when they have seen enough."""


_OPEN_POLICY = ("Content-Security-Policy", BOOKMARK_PAGE)


@cache
def small_page() -> dict[str, bytes]:
    """The page as it is built, with the tests' stand-in for the node's worker and nothing that it would load."""
    page = (".html", ".css", ".svg", "main.js")
    built = build.bundle()
    files = {name: data for name, data in built.items() if name.endswith(page) or name.startswith("sw-")}
    stand_in = (Path(__file__).parent / "page" / "worker.js").read_bytes()
    return files | {"worker/worker.js": stand_in}


def ready(stand_in: bytes) -> bytes:
    """The stand-in, as a node whose circuits stand from the beginning."""
    changes = {
        b"percent: 5,": b"percent: 100,",
        b"ready: false": b"ready: true",
        b"circuits: []": b"circuits: [%b]" % CIRCUIT,
    }
    for before, after in changes.items():
        assert before in stand_in
        stand_in = stand_in.replace(before, after)
    return stand_in


def with_other_worker(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """With another service worker, which does the same."""
    others = {name: data for name, data in files.items() if not name.startswith("sw-")}
    [worker] = [data for name, data in files.items() if name.startswith("sw-")]
    changed = worker + b"\n// another\n"
    return others | {f"sw-{hashlib.sha256(changed).hexdigest()[:16]}.js": changed}


class Publisher:
    """Makes versions of the small page, and keeps the log of them."""

    def __init__(self, keys: Sequence[SecretKey] = (), threshold: int = 0) -> None:
        self.keys = keys
        self.threshold = threshold
        self.log = Log()

    def version(self, number: str, *, other_worker: bool = False, mark: str = "", slow: bool = False) -> Version:
        """A version with this publisher's present keys, not yet released. `mark`: what makes its bytes others; `slow`:
        its node never runs."""
        files = small_page() | {"icon.svg": small_page()["icon.svg"] + f"<!-- {number} {mark} -->".encode()}
        if not slow:
            files["worker/worker.js"] = ready(files["worker/worker.js"])
        if other_worker:
            files = with_other_worker(files)
        keys = [key.public.text for key in self.keys]
        return Version(files, Manifest.of(files, number, keys, self.threshold))

    def release(self, version: Version, signers: Sequence[SecretKey] | None = None) -> Version:
        """The version with signatures (of all keys if not said) and with the log that now has it."""
        release: Release | None = None
        for key in self.keys if signers is None else signers:
            self.log, release = sign(version.manifest, self.log, release, key)
        assert release is not None
        version.records = {"release.json": release.encode(), "releases.txt": self.log.encode()}
        return version


class Version:
    """A page, its manifest, and what was published beside it."""

    def __init__(self, files: Mapping[str, bytes], manifest: Manifest) -> None:
        self.files = files
        self.manifest = manifest
        self.records: dict[str, bytes] = {}

    @property
    def root(self) -> str:
        return self.manifest.root

    def served(self) -> dict[str, bytes]:
        """All that a mirror has of it."""
        return {**self.files, "manifest.json": self.manifest.encode(), **self.records}
