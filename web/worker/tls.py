"""TLS in the browser: BoringSSL in WebAssembly, over tls.js.

Does: clients as pipes/tls.py promises; load the module at the first of them, and wake those that came before it was
there.
Does not: compute anything itself. Whatever JavaScript throws ends the connection with UNAVAILABLE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyodide.ffi import JsException, to_js

from convergence.codes import TlsWhy
from convergence.pipes.tls import MAX_RECORDS, TlsError, check_host, explained
from convergence.ports import Buffer

# SSL_ERROR_* of openssl/ssl.h
_NONE, _SSL, _WANT_READ, _ZERO_RETURN = 0, 1, 2, 6

Run = Callable[[Callable[[float], None]], None]
T = TypeVar("T")


class BrowserTls:
    """pipes.tls.TlsFactory.

    Args:
        js: what createTls of tls.js made.
        run: Driver.run, by which connections that waited for the module go on.
    """

    def __init__(self, js: Any, run: Run) -> None:
        self._js = js
        self._run = run
        self._loaded = False
        self._loading = False
        self._waiting: list[_Engine] = []

    def client(self, host: str, protocols: Sequence[str], now: float, wake: Callable[[float], None], /) -> _Engine:
        check_host(host)
        engine = _Engine(self._js, host, protocols, now, wake)
        if self._loaded:
            engine.connect()
            return engine
        self._waiting.append(engine)
        if not self._loading:
            self._loading = True
            self._js.load().then(lambda count: self._answered(True), lambda error: self._answered(False))
        return engine

    def _answered(self, loaded: bool) -> None:
        self._loading, self._loaded = False, loaded  # a later client tries again
        waiting, self._waiting = self._waiting, []
        for engine in waiting:
            self._run(engine.loaded if loaded else engine.failed)


class _Engine:
    """pipes.tls.TlsEngine."""

    def __init__(self, js: Any, host: str, protocols: Sequence[str], now: float, wake: Callable[[float], None]) -> None:
        self.open = False
        self.ended = False
        self._js = js
        self._host = host.encode()
        self._protocols = b"".join(bytes([len(name)]) + name.encode() for name in protocols)
        self._now = now
        self._wake = wake
        self._connection = 0  # a pointer in the module's memory; 0 before it is loaded, and after `close`
        self._error: TlsError | None = None
        self._closed = False

    def connect(self) -> None:
        """The module is there. Raises TlsError."""
        self._connection = self._call(self._js.connect, to_js(self._host), to_js(self._protocols), self._now)
        if not self._connection:
            raise TlsError(TlsWhy.NO_HOST)
        self._call(self._js.handshake, self._connection)

    def loaded(self, now: float) -> None:
        if self._closed:
            return
        try:
            self.connect()
        except TlsError as error:
            self._error = error
        self._wake(now)

    def failed(self, now: float) -> None:
        self._error = TlsError(TlsWhy.UNAVAILABLE)
        if not self._closed:
            self._wake(now)

    @property
    def protocol(self) -> str | None:
        return self._call(self._js.protocol, self._connection).to_bytes().decode() or None if self._connection else None

    def receive(self, data: Buffer, /) -> None:
        if not self._connection:
            self._error = self._error or TlsError(TlsWhy.GARBAGE)  # the client speaks first, and it has not
        for start in range(0, len(data) if self._connection else 0, MAX_RECORDS):
            self._call(self._js.receive, self._connection, to_js(data[start : start + MAX_RECORDS]))

    def receive_end(self) -> None:
        if self._connection:
            self._call(self._js.receive, self._connection, to_js(b""))
        else:
            self._error = self._error or TlsError(TlsWhy.TRUNCATED)

    def read(self) -> bytes:
        if self._error is not None:
            raise self._error
        if self.ended or not self._connection:
            return b""
        if not self.open:
            self.open = self._went_on(self._call(self._js.handshake, self._connection))
            if not self.open:
                return b""
        plain = self._call(self._js.read, self._connection)
        if not isinstance(plain, int):
            return plain.to_bytes()
        self._went_on(-plain)
        return b""

    def write(self, data: Buffer, /) -> None:
        for start in range(0, len(data), MAX_RECORDS):
            written = self._call(self._js.write, self._connection, to_js(data[start : start + MAX_RECORDS]))
            if written <= 0:
                self._went_on(-written)

    def end(self) -> None:
        self._call(self._js.end, self._connection)

    def take(self) -> bytes:
        return self._call(self._js.take, self._connection).to_bytes() if self._connection else b""

    def close(self) -> None:
        self._closed = True
        connection, self._connection = self._connection, 0
        if connection:
            self._call(self._js.close, connection)

    def _went_on(self, result: int) -> bool:
        """Whether there was no error; False: it needs more of the far end's bytes, or has had its last."""
        if result == _NONE:
            return True
        if result == _WANT_READ:
            return False
        if result == _ZERO_RETURN:
            self.ended = True
            return False
        if result == _SSL:
            reason = self._call(self._js.reason).to_bytes().decode()
            unverified = reason == "CERTIFICATE_VERIFY_FAILED"
            self._error = explained(self._call(self._js.verdict, self._connection) if unverified else 0, reason)
        else:
            self._error = TlsError(TlsWhy.TRUNCATED)
        raise self._error

    def _call(self, call: Callable[..., T], *arguments: Any) -> T:
        try:
            return call(*arguments)
        except JsException as error:
            raise TlsError(TlsWhy.UNAVAILABLE, str(error)) from None
