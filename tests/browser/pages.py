"""Pages of anybody's: small documents at an origin of their own, on loopback.

Does: serve documents with the policy that each is given; open one in a new profile of a browser and note what goes
wrong there.
Does not: know what the documents do.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from playwright.sync_api import Browser, Page

from pynode.headers import TYPES
from tests.browser.harness import CONFIG, LOST


class Pages:
    """Documents by path, which may be changed at any time; `policies` has the Content-Security-Policy of each."""

    def __init__(self, port: int) -> None:
        self.documents: dict[str, bytes] = {}
        self.policies: dict[str, str] = {}
        self.origin = f"http://127.0.0.1:{port}/"

    def put(self, documents: Mapping[str, bytes], policy: str = "") -> None:
        self.documents |= documents
        self.policies |= dict.fromkeys(documents, policy)


@contextlib.contextmanager
def pages() -> Iterator[Pages]:
    """Serve until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removeprefix("/")
            data = running.documents.get(name)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", TYPES.get("." + name.rpartition(".")[2], "text/html"))
            self.send_header("Content-Length", str(len(data or b"")))
            if policy := running.policies.get(name):
                self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data or b"")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Pages(server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def integrity(data: bytes) -> str:
    """Of a script, as browsers compare it."""
    return "sha384-" + base64.b64encode(hashlib.sha384(data).digest()).decode()


class Visitor:
    """A page in a profile of its own. `wrong` has what it threw, and what its policy forbade."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.name = browser.browser_type.name
        self.wrong: list[str] = []
        self.context = browser.new_context(**{**CONFIG.context_options(self.name), **options})
        self.context.on("weberror", lambda error: self._note(str(error.error)))
        self.context.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.page: Page = self.context.new_page()
        self.page.goto(address)

    def _note(self, text: str) -> None:
        if not text.startswith(LOST) and "/favicon.ico" not in text:  # which Firefox asks for
            self.wrong.append(text)

    def do(self, body: str, argument: Any = None) -> Any:
        """What an async function (of `argument` and the globals) returns."""
        return self.page.evaluate(f"async (argument) => {{ {body} }}", argument)

    def close(self) -> None:
        self.context.close()
