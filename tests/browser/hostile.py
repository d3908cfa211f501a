"""Mirrors of which each has one fault, on one loopback server.

Does: serve files below /<fault>-<number>/, where the file with that number (in `names`) is as the fault says, and all
below any other folder as they are; note what was asked for.
Does not: know what the files are for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pynode.site import BOOKMARK_POLICY

TYPES = {"html": "text/html", "js": "text/javascript", "mjs": "text/javascript", "txt": "text/plain"}
STRICT = "default-src 'none'; script-src 'self'; style-src 'self'"
"""The policy of /strict/, for a page that lets no bookmark run."""

FAULTS = ("flipped", "short", "long", "swapped", "missing", "redirected", "half", "silent")
"""What makes a file useless: one bit flipped, cut, with a byte too many, another file's bytes, 404, a redirect to
another origin with a bit flipped, half of it and then nothing more, no answer at all."""

HARMLESS = ("mistyped", "moved")
"""What changes no byte: the type of a web page, a redirect to another origin that has the file."""

some_or_each_file = pytest.mark.parametrize(
    "some",
    [
        pytest.param({"index.html", "main.js", "worker/worker.js", "app.zip", "pyodide/pyodide.asm.wasm"}, id="some"),
        pytest.param(None, id="each", marks=pytest.mark.long),
    ],
)
"""For tests that do the same with each file of dist/. A quick run takes one of each way in which files are loaded."""


def flipped(data: bytes) -> bytes:
    """With the lowest bit of the middle byte changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


class Mirrors:
    """The running server. `asked` holds the paths of all requests so far."""

    def __init__(self, files: Mapping[str, bytes], port: int) -> None:
        self.files = files
        self.names = sorted(files)
        self.asked: list[str] = []
        self.over = threading.Event()
        self._port = port

    def address(self, folder: str, name: str = "", host: str = "127.0.0.1") -> str:
        """Of a mirror, a folder such as "good", or of a file of it; by the name "localhost": of another origin."""
        return f"http://{host}:{self._port}/{folder}/{name}"

    def faulty(self, fault: str, name: str) -> str:
        """The folder where that file has that fault."""
        return f"{fault}-{self.names.index(name)}"


def _answer(request: BaseHTTPRequestHandler, mirrors: Mirrors) -> None:
    mirrors.asked.append(request.path)
    folder, _, name = request.path.removeprefix("/").partition("/")
    fault, _, number = folder.partition("-")
    data = mirrors.files.get(name)
    if number and mirrors.names[int(number)] != name:
        fault = "good"
    if data is None or fault == "missing":
        request.send_error(404)
        return
    if fault in ("redirected", "moved"):
        target = f"flipped-{number}" if fault == "redirected" else "good"
        request.send_response(302)
        request.send_header("Location", mirrors.address(target, name, "localhost"))
        request.send_header("Access-Control-Allow-Origin", "*")
        request.end_headers()
        return
    if fault == "silent":
        mirrors.over.wait()
        return
    kind = "text/html" if fault == "mistyped" else TYPES.get(name.rpartition(".")[2], "application/octet-stream")
    if fault == "flipped":
        data = flipped(data)
    elif fault == "short":
        data = data[:-1]
    elif fault == "long":
        data += b"\n"
    elif fault == "swapped":
        data = mirrors.files[mirrors.names[(mirrors.names.index(name) + 1) % len(mirrors.names)]]
    request.send_response(200)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(data)))
    request.send_header("Access-Control-Allow-Origin", "*")
    if name == "open.html":
        request.send_header("Content-Security-Policy", STRICT if folder == "strict" else BOOKMARK_POLICY)
        request.send_header("Cross-Origin-Opener-Policy", "same-origin")
        request.send_header("Cross-Origin-Embedder-Policy", "require-corp")
    request.end_headers()
    if fault == "half":
        request.wfile.write(data[: len(data) // 2])
        request.wfile.flush()
        mirrors.over.wait()
        return
    with contextlib.suppress(ConnectionError):  # who has read enough hangs up
        request.wfile.write(data)


@contextlib.contextmanager
def mirrors(files: Mapping[str, bytes]) -> Iterator[Mirrors]:
    """Serve these files, by name, until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, running)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Mirrors(files, server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield running
    finally:
        running.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
