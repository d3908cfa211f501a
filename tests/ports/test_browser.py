"""The browser's backend under the suite that every backend has to pass: in real browsers, in a worker, in Pyodide."""

from __future__ import annotations

import io
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.harness import CONFIG

ROOT = Path(__file__).parents[2]
NODE_MODULES = ROOT / "node_modules"

TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

PAGE = b"<!doctype html><meta charset=utf-8><title>ports</title><link rel=icon href=data:,>"

START_WORKER = """() => new Promise((resolve, reject) => {
    const worker = new Worker("/worker.js", { type: "module" });
    worker.onerror = (event) => reject(new Error(event.message));
    worker.onmessage = ({ data }) => data.error ? reject(new Error(data.error)) : resolve(data.results);
})"""


def bundled_worker() -> bytes:
    esbuild = next(NODE_MODULES.glob("@esbuild/*/bin/esbuild"))
    entry = ROOT / "tests" / "ports" / "browser_worker.js"
    command = [esbuild, entry, "--bundle", "--format=esm", "--target=es2022", "--external:/pyodide/*"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout


def code_archive() -> bytes:
    """The core, the backend and the suite, laid out as their imports and paths expect."""
    files = {path.relative_to(ROOT / "shared"): path for path in (ROOT / "shared").rglob("*.py")}
    files[Path("crypto.py")] = ROOT / "web" / "worker" / "crypto.py"
    for path in (ROOT / "tests" / "ports" / "suite.py", *(ROOT / "tests" / "vectors").glob("*.json")):
        files[path.relative_to(ROOT)] = path
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in files.items():
            archive.write(path, str(name))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Address of a loopback server, isolated as the real page is: all from one origin."""
    files = {"/": PAGE, "/worker.js": bundled_worker(), "/code.zip": code_archive()}
    pyodide = NODE_MODULES / "pyodide"
    for name in ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"):
        files[f"/pyodide/{name}"] = (pyodide / name).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            kind = "text/html" if self.path == "/" else TYPES.get(Path(self.path).suffix, "application/octet-stream")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_backend(site: str, browser: str) -> None:
    with sync_playwright() as playwright:
        launched = getattr(playwright, browser).launch(**CONFIG.launch_options(browser))
        try:
            page = launched.new_context(**CONFIG.context_options(browser)).new_page()
            page.goto(site)
            results = page.evaluate(START_WORKER)
        finally:
            launched.close()
    assert len(results) > 20
    assert [(name, detail) for name, passed, detail in results if not passed] == []
