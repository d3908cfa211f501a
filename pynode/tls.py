"""TLS in CPython: the standard library's, over memory.

Does: clients as pipes/tls.py promises, and servers with a certificate and key from files.
Does not: read a socket, or trust the system's roots: they are certifi's, which the lock file pins.
"""

from __future__ import annotations

import hashlib
import ssl
import sys
from collections import deque
from collections.abc import Callable, Container, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import certifi

from convergence.codes import TlsWhy
from convergence.pipes.tls import MAX_RECORDS, TlsEngine, TlsError, check_host, explained
from convergence.ports import Buffer

REVOKED = Path(__file__).with_name("revoked.txt")
NAMED = 8  # bytes of the digest that names a certificate there
MAX_CONTEXTS = 8  # one for each list of protocols; making one parses all roots, which takes 10 ms or so
CIPHERS = "DEFAULT:@SECLEVEL=2"  # RSA from 2048 bits, curves from 224, no SHA-1; whatever the system's settings say


T = TypeVar("T")


class CPythonTls:
    """pipes.tls.TlsFactory. Certificates have to be valid by the system's clock: the library knows no other.

    Args:
        roots: certificates in PEM.
        revoked: names of certificates (`names_of`) that no chain may have.
    """

    def __init__(self, roots: str | None = None, revoked: Container[bytes] | None = None) -> None:
        self._roots = roots or certifi.contents()
        self._revoked = revoked_by_mozilla() if revoked is None else revoked
        self._context = lru_cache(MAX_CONTEXTS)(self._new_context)

    def client(self, host: str, protocols: Sequence[str], now: float, wake: Callable[[float], None], /) -> TlsEngine:
        check_host(host)
        return _Engine(self._context(tuple(protocols)), host, self._revoked)

    def _new_context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        context = _restricted(ssl.PROTOCOL_TLS_CLIENT, protocols)
        context.load_verify_locations(cadata=self._roots)
        context.hostname_checks_common_name = False
        return context


class CPythonTlsServer:
    """Servers with one certificate.

    Args:
        certificate: a file in PEM, the server's own first, then those that lead to a root.
        key: the file of its private key in PEM.
        protocols: for ALPN, the best first; where the client offers others only, none is agreed on.

    Raises:
        OSError: a file cannot be read, or does not hold what it should (ssl.SSLError).
    """

    def __init__(self, certificate: Path, key: Path, protocols: Sequence[str] = ()) -> None:
        self._context = _restricted(ssl.PROTOCOL_TLS_SERVER, protocols)
        self._context.load_cert_chain(certificate, key)

    def server(self, wake: Callable[[float], None] | None = None, /) -> TlsEngine:
        """A connection that a client has opened."""
        return _Engine(self._context, None, ())


def _restricted(role: int, protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(role)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@cache
def revoked_by_mozilla() -> frozenset[bytes]:
    """The names in revoked.txt, which says where they come from."""
    lines = REVOKED.read_text(encoding="ascii").splitlines()
    return frozenset(bytes.fromhex(line) for line in lines if not line.startswith("#"))


def names_of(certificate: bytes) -> list[bytes]:
    """What revoked.txt may call a certificate (DER, known to be well-formed): the first 8 bytes of the SHA-256 of its
    issuer and serial number, or of its subject and the SHA-256 of its key."""
    fields = _parts(_parts(certificate)[0])
    if fields[0][0] == 0xA0:  # the version, which may be left out
        del fields[0]
    serial, _, issuer, _, subject, key = fields[:6]
    named = (issuer + serial, subject + hashlib.sha256(key).digest())
    return [hashlib.sha256(each).digest()[:NAMED] for each in named]


def _parts(element: bytes) -> list[bytes]:
    """The DER elements in one, each with its header."""
    parts, at = [], _header(element, 0)[0]
    while at < len(element):
        start, size = _header(element, at)
        parts.append(element[at : start + size])
        at = start + size
    return parts


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the DER element at `at` begins, and its size."""
    size, start = data[at + 1], at + 2
    if size & 0x80:
        more = size & 0x7F
        size, start = int.from_bytes(data[start : start + more]), start + more
    return start, size


class _Engine:
    """pipes.tls.TlsEngine. Without `host`, a server."""

    def __init__(self, context: ssl.SSLContext, host: str | None, revoked: Container[bytes]) -> None:
        self.open = False
        self.ended = False
        self._revoked = revoked
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._early: deque[bytes] = deque()  # what was read ahead of `end`
        self._tls = context.wrap_bio(self._in, self._out, server_side=host is None, server_hostname=host)
        self._handshake()

    @property
    def protocol(self) -> str | None:
        return self._tls.selected_alpn_protocol()

    def receive(self, data: Buffer, /) -> None:
        self._in.write(data)

    def receive_end(self) -> None:
        self._in.write_eof()

    def read(self) -> bytes:
        if self._early:
            return self._early.popleft()
        if self.ended or not (self.open or self._handshake()):
            return b""
        plain = self._call(self._tls.read, MAX_RECORDS)
        if plain == b"":  # the library's word for close_notify, before we have sent ours
            self.ended = True
        return plain or b""

    def write(self, data: Buffer, /) -> None:
        self._call(self._tls.write, data)

    def end(self) -> None:
        while plain := self.read():  # else the library would take it for something that comes too late
            self._early.append(plain)
        self._call(self._tls.unwrap)

    def take(self) -> bytes:
        return self._out.read(MAX_RECORDS)

    def close(self) -> None:
        """Memory goes with the object."""

    def _handshake(self) -> bool:
        """Go on with it; whether it is done."""
        if self._call(self._shake) is None:
            return False
        for der in self._chain():
            if any(name in self._revoked for name in names_of(der)):
                raise TlsError(TlsWhy.REVOKED)
        self.open = True
        return True

    def _chain(self) -> Sequence[bytes]:
        """The certificates of the far end, from its own to a root, as they were verified; a server asks for none."""
        tls: Any = self._tls
        if sys.version_info >= (3, 13):
            chain: Sequence[bytes] = tls.get_verified_chain()
            return chain
        binary = 2  # _ssl.ENCODING_DER
        return [part.public_bytes(binary) for part in tls._sslobj.get_verified_chain() or ()]

    def _shake(self) -> bool:
        self._tls.do_handshake()
        return True

    def _call(self, call: Callable[..., T], *arguments: Any) -> T | None:
        """None: it needs more of the far end's bytes first."""
        try:
            return call(*arguments)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:  # and after
            self.ended = True
            return None
        except ssl.SSLCertVerificationError as error:
            raise explained(error.verify_code, "") from None
        except ssl.SSLEOFError:
            raise TlsError(TlsWhy.TRUNCATED) from None
        except ssl.SSLError as error:
            raise explained(0, error.reason or "") from None
