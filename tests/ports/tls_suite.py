"""What every TLS engine has to do, whatever platform it is for.

Does: talk, as a client, to servers of tls_servers.py; each check gives the bytes that came or the code that ended it.
Does not: know how bytes reach the server: `Exchange` carries them. Runs in CPython and in Pyodide.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator

from convergence.codes import TlsWhy
from convergence.pipes.tls import TlsEngine, TlsError, TlsFactory

Exchange = Callable[[bytes], bytes | None]
"""Gives bytes to the server, and takes what it answers; None: it sends no more."""

MESSAGE = bytes(range(256)) * 400
DIGEST = hashlib.sha256(MESSAGE).digest()  # what the servers answer once they have read the message and its end
ROUNDS = 2000

# name of a server -> host to ask it for, and what has to come of it.
CASES: dict[str, tuple[str, TlsWhy | None]] = {
    "good": ("good.example", None),
    "tls 1.2": ("good.example", None),
    "tls 1.2 aes": ("good.example", None),
    "rsa": ("good.example", None),
    "wildcard": ("any.wild.example", None),
    "address": ("192.0.2.7", None),
    "expired": ("good.example", TlsWhy.EXPIRED),
    "not yet": ("good.example", TlsWhy.NOT_YET),
    "wrong host": ("good.example", TlsWhy.WRONG_HOST),
    "wildcard too deep": ("one.two.wild.example", TlsWhy.WRONG_HOST),
    "wrong address": ("192.0.2.8", TlsWhy.WRONG_HOST),
    "common name": ("good.example", TlsWhy.WRONG_HOST),
    "self-signed": ("good.example", TlsWhy.SELF_SIGNED),
    "unknown root": ("good.example", TlsWhy.UNKNOWN_ROOT),
    "no intermediate": ("good.example", TlsWhy.UNKNOWN_ROOT),
    "leaf as authority": ("good.example", TlsWhy.BAD_CERTIFICATE),
    "constrained": ("good.example", TlsWhy.BAD_CERTIFICATE),
    "for clients": ("good.example", TlsWhy.BAD_CERTIFICATE),
    "bad signature": ("good.example", TlsWhy.BAD_CERTIFICATE),
    "revoked": ("good.example", TlsWhy.REVOKED),
    "revoked key": ("good.example", TlsWhy.REVOKED),
    "weak key": ("good.example", TlsWhy.WEAK),
    "weak digest": ("good.example", TlsWhy.WEAK),
    "tls 1.0": ("good.example", TlsWhy.OLD),
    "tls 1.1": ("good.example", TlsWhy.OLD),
    "no common cipher": ("good.example", TlsWhy.REFUSED),
    "http": ("good.example", TlsWhy.GARBAGE),
    "altered": ("good.example", TlsWhy.GARBAGE),
    "cut": ("good.example", TlsWhy.TRUNCATED),
    "cut in the handshake": ("good.example", TlsWhy.TRUNCATED),
}


def converse(engine: TlsEngine, exchange: Exchange, cut: Callable[[bytes], Iterator[bytes]]) -> bytes:
    """Send the message and its end; returns what came until the far end's. Raises TlsError."""
    got, sent = b"", False
    for _ in range(ROUNDS):
        answer = exchange(b"".join(iter(engine.take, b"")))
        if answer is None:
            engine.receive_end()
            while plain := engine.read():
                got += plain
        for piece in cut(answer or b""):
            engine.receive(piece)
            while plain := engine.read():
                got += plain
        if engine.open and not sent:
            engine.write(MESSAGE)
            engine.end()
            sent = True
        if engine.ended:
            return got
    raise AssertionError("the conversation never ends")


def whole(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def cuts(size: int) -> Callable[[bytes], Iterator[bytes]]:
    return lambda data: (data[at : at + size] for at in range(0, len(data), size))


def check(factory: TlsFactory, name: str, exchange: Exchange, cut: Callable[[bytes], Iterator[bytes]] = whole) -> None:
    """One of CASES."""
    host, why = CASES[name]
    engine = factory.client(host, ["never/1", "http/1.1"], time.time(), lambda now: None)
    try:
        got = converse(engine, exchange, cut)
    except TlsError as error:
        assert error.why.code is why, f"{error} instead of {why or 'an answer'}"
    else:
        assert why is None, f"no error instead of {why}"
        assert got == DIGEST, f"{len(got)} bytes that are not the answer"
        assert engine.protocol == "http/1.1", engine.protocol
    finally:
        engine.close()


def check_no_host(factory: TlsFactory) -> None:
    """Names that no certificate can be for."""
    for host in ("", "a b", "a\0b.example", "x" * 300):
        try:
            factory.client(host, [], time.time(), lambda now: None)
        except TlsError as error:
            assert error.why.code is TlsWhy.NO_HOST
        else:
            raise AssertionError(f"{host!r} was taken")


def fetch(factory: TlsFactory, exchange: Exchange, path: str, on_data: Callable[[bytes], None]) -> TlsEngine:
    """Ask a web server for good.example for this path; `on_data` is called with its whole answer. Returns the engine,
    once the server has ended. Raises TlsError."""
    engine = factory.client("good.example", ["http/1.1"], time.time(), lambda now: None)
    asked = False
    while not engine.ended:
        answer = exchange(b"".join(iter(engine.take, b"")))
        if answer is None:
            engine.receive_end()
        else:
            engine.receive(answer)
        while plain := engine.read():
            on_data(plain)
        if engine.open and not asked:
            engine.write(f"GET {path} HTTP/1.1\r\nHost: good.example\r\nConnection: close\r\n\r\n".encode())
            asked = True
    return engine
