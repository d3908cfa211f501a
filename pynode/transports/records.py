"""TLS over memory: what comes becomes plain text, what goes becomes records, a whole read or write at a time.

Does: what pyOpenSSL's recv, send, bio_read and bio_write do together, without memory of its own, copies and an
exception for each record: C tor's are often of six cells, and a read brings twenty of them.
Does not: hold anything between two calls: one `Records` serves all connections of an event loop. Nor shake hands.
"""

from __future__ import annotations

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from pynode.transports.slices import READ_SLICE

RECORD = 1 << 14
"""Bytes of plain text in one record, at most."""

PORTION = 1 << 16
"""Bytes that are given to the library at once. It keeps memory for what it was ever given."""

OVERHEAD = 1 << 12
"""Bytes that TLS adds to a portion at most, and room for what the library says of its own."""

_lib, _ffi = Binding().lib, Binding().ffi
_ROOM = PORTION + RECORD + OVERHEAD  # for a portion, after a record that began before it


class Records:
    """Buffers, used anew by each call.

    Attributes:
        incoming: where to put what was read, before `open`.
    """

    def __init__(self) -> None:
        self._incoming = _ffi.new("char[]", READ_SLICE)
        self._buffer = _ffi.new("char[]", _ROOM)
        self.incoming = memoryview(_ffi.buffer(self._incoming))

    def open(self, tls: SSL.Connection, start: int, size: int) -> tuple[bytes, bool]:
        """The plain text that these bytes of `incoming` complete, a PORTION at most, and whether more may come. If not,
        `tls.recv` says why."""
        if size:
            _lib.BIO_write(tls._into_ssl, self._incoming + start, size)
        ssl, buffer, at = tls._ssl, self._buffer, 0
        while (got := _lib.SSL_read(ssl, buffer + at, _ROOM - at)) > 0:
            at += got
        return bytes(_ffi.buffer(buffer, at)), _lib.SSL_get_error(ssl, got) == _lib.SSL_ERROR_WANT_READ

    def seal(self, tls: SSL.Connection, portion: memoryview) -> bytes:
        """A PORTION at most, as records. Raises SSL.Error."""
        with _ffi.from_buffer(portion) as data:
            sent = _lib.SSL_write(tls._ssl, data, len(data))
        if sent <= 0:
            tls._raise_ssl_error(tls._ssl, sent)
        return self.waiting(tls)

    def waiting(self, tls: SSL.Connection) -> bytes:
        """What the library wants to send."""
        return bytes(_ffi.buffer(self._buffer, max(_lib.BIO_read(tls._from_ssl, self._buffer, _ROOM), 0)))
