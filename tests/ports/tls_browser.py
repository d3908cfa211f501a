"""The browser's side of test_tls_browser.py: the suite with the page's engine, and how fast that is."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import page
import tls_suite
from pyodide.ffi import to_js
from tls import BrowserTls

from convergence.codes import TlsWhy
from convergence.pipes.tls import TlsError

LARGE = 20_000_000  # bytes of the server "large" ...
REAL = 10_000_000  # ... and of the file of the real ones
SERVERS = ("nginx", "caddy", "openssl", "openssl -tls1_2", "openssl -tls1", "openssl AES")


def exchange_with(path: str) -> tls_suite.Exchange:
    def exchange(data: bytes) -> bytes | None:
        answer = page.exchange(path, to_js(data))
        return None if answer is None else answer.to_bytes()

    return exchange


async def started(tls: BrowserTls) -> Any:
    """An engine that was made before the module was there, once that is, or has failed to be."""
    woken = asyncio.Event()
    engine = tls.client("good.example", [], time.time(), lambda now: woken.set())
    assert engine.take() == b"" and engine.read() == b""
    await woken.wait()
    return engine


async def run() -> str:
    results: dict[str, str] = {}
    tls = BrowserTls(page.createTls(), lambda call: call(time.time()))
    began = time.perf_counter()
    engine = await started(tls)
    figures = {"load ms": (time.perf_counter() - began) * 1e3}
    assert engine.take(), "it speaks first"
    engine.close()

    lost = BrowserTls(page.broken(), lambda call: call(time.time()))
    engine = await started(lost)
    try:
        engine.read()
    except TlsError as error:
        assert error.why.code is TlsWhy.UNAVAILABLE
        results["not there"] = ""

    number = time.time_ns()  # no server of another run's
    for name in tls_suite.CASES:
        for cut in (tls_suite.whole, tls_suite.cuts(1)):
            number += 1
            try:
                tls_suite.check(tls, name, exchange_with(f"/tls/{name}/{number}"), cut)
                results.setdefault(name, "")
            except Exception as error:
                results[name] = f"{error!r}"
    for name in SERVERS:
        results[name] = real(tls, name, exchange_with(f"/tls/{name}/{number}"))
    tls_suite.check_no_host(tls)
    for cipher in ("chacha", "aes"):
        handshake, rate = large(tls, exchange_with(f"/tls/large {cipher}/{number}"))
        figures[f"{cipher} handshake ms"], figures[f"{cipher} MB/s"] = handshake * 1e3, rate
    return json.dumps({"results": results, "figures": figures})


def real(tls: BrowserTls, name: str, exchange: tls_suite.Exchange) -> str:
    """What is wrong with the answer of a real server."""
    got = bytearray()
    try:
        tls_suite.fetch(tls, exchange, "/large", got.extend).close()
    except TlsError as error:
        return "" if name == "openssl -tls1" and error.why.code is TlsWhy.OLD else str(error)
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    return "" if b" 200 " in head[:20] and body == bytes(REAL) else f"{head[:200]!r} and {len(body)} bytes"


def large(tls: BrowserTls, exchange: tls_suite.Exchange) -> tuple[float, float]:
    """Seconds of a handshake, and MB/s of what follows: of this side alone."""
    spent = time.perf_counter()
    engine = tls.client("good.example", ["http/1.1"], time.time(), lambda now: None)
    while not engine.open:
        out = b"".join(iter(engine.take, b""))
        waited = time.perf_counter()
        answer = exchange(out)
        spent += time.perf_counter() - waited
        engine.receive(answer or b"")
        engine.read()
    handshake = time.perf_counter() - spent
    engine.write(b"more")
    engine.end()
    data = exchange(b"".join(iter(engine.take, b""))) or b""
    view, got, spent = memoryview(data), 0, time.perf_counter()
    for start in range(0, len(data), 1 << 16):
        engine.receive(view[start : start + (1 << 16)])
        while plain := engine.read():
            got += len(plain)
    spent = time.perf_counter() - spent
    assert engine.ended and got == LARGE, got
    engine.close()
    return handshake, got / 1e6 / spent
