"""The browser's TLS engine under the suite that every engine has to pass: in real browsers, in a worker, in Pyodide.

Its servers are the test's own. The worker gives what it has for one to the site by a request, and gets the answer.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.harness import CONFIG
from tests.ports.test_browser import NODE_MODULES, PAGE, ROOT, START_WORKER, TYPES
from tests.ports.tls_servers import Authority
from tests.ports.tls_suite import CASES, Exchange
from tests.ports.web_servers import SERVERS, TcpExchange, serving
from web.bundling import tls

HERE = Path(__file__).parent
LARGE = 10_000_000  # bytes


def bundled_worker() -> bytes:
    esbuild = next(NODE_MODULES.glob("@esbuild/*/bin/esbuild"))
    command = [esbuild, HERE / "tls_worker.js", "--bundle", "--format=esm", "--target=es2022", "--external:/pyodide/*"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout


def code_archive() -> bytes:
    files = {path.relative_to(ROOT / "shared"): path for path in (ROOT / "shared").rglob("*.py")}
    files[Path("tls.py")] = ROOT / "web" / "worker" / "tls.py"
    files |= {path.relative_to(ROOT): path for path in (HERE / "tls_suite.py", HERE / "tls_browser.py")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in files.items():
            archive.write(path, str(name))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def real(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Ports of real servers."""
    folder = tmp_path_factory.mktemp("servers")
    (folder / "files").mkdir()
    (folder / "files" / "large").write_bytes(bytes(LARGE))
    chain, key = authority.good.files(folder)
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(name, folder / "files", chain, key, folder)) for name in SERVERS}


@pytest.fixture
def site(authority: Authority, real: dict[str, int]) -> Iterator[str]:
    """Address of a loopback server with the page, and behind /tls/CASE/NUMBER the servers."""
    files = {"/": PAGE, "/worker.js": bundled_worker(), "/code.zip": code_archive()}
    files |= {
        "/tls/tls.wasm": tls.engine(),
        "/tls/roots.der": authority.roots_der,
        "/tls/revoked.bin": b"".join(sorted(authority.revoked)),
    }
    for name in ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"):
        files[f"/pyodide/{name}"] = (NODE_MODULES / "pyodide" / name).read_bytes()
    servers: dict[str, Exchange] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind = "text/html" if self.path == "/" else TYPES.get(Path(self.path).suffix, "application/octet-stream")
            body = files.get(self.path)
            self.answer(200 if body is not None else 404, kind, body or b"")

        def do_POST(self) -> None:
            _, _, case, _ = unquote(self.path).split("/")
            server = servers.get(self.path)
            if server is None:
                server = TcpExchange(real[case]) if case in real else authority.server(case)
                servers[self.path] = server
            reply = server(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(200 if reply is not None else 410, "application/octet-stream", reply or b"")

        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    for exchange in servers.values():
        if isinstance(exchange, TcpExchange):
            exchange.close()


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_engine(site: str, browser: str) -> None:
    with sync_playwright() as playwright:
        launched = getattr(playwright, browser).launch(**CONFIG.launch_options(browser))
        try:
            page = launched.new_context(**CONFIG.context_options(browser)).new_page()
            page.goto(site)
            told = page.evaluate(START_WORKER)
        finally:
            launched.close()
    print(told["figures"])
    assert set(told["results"]) == {*CASES, *SERVERS, "not there"}
    assert {name: flaw for name, flaw in told["results"].items() if flaw} == {}
