"""XOFF and XON: how the ends of a stream under congestion control stop and pace each other (proposal 324 section 4.1).

Does: parse and encode their bodies. A version other than 0 is refused; bytes after the last field are ignored.
Does not: measure rates, or know when to send either.
"""

from __future__ import annotations

from dataclasses import dataclass

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Reader

XOFF_COMMAND = 43
XON_COMMAND = 44
"""Relay commands (tor-spec, "Relay messages")."""

UNLIMITED = 0
"""As a rate: send as fast as you like. It never means "do not send"."""

_VERSION = 0


def _reader(data: Buffer, what: str) -> Reader:
    reader = Reader(data, what)
    if reader.unsigned(1) != _VERSION:
        raise ParseError(f"{what} of an unknown version")
    return reader


@dataclass(frozen=True, slots=True)
class Xoff:
    """Send no more on this stream until an XON comes."""

    def encode(self) -> bytes:
        return bytes([_VERSION])

    @classmethod
    def parse(cls, data: Buffer) -> Xoff:
        _reader(data, "XOFF")
        return cls()


@dataclass(frozen=True, slots=True)
class Xon:
    """Send again on this stream, at this rate.

    Args:
        kbps_ewma: the rate at which the sender of this message drains the stream, in kilobytes (1000 bytes) a second,
            32 bits, averaged (N_EWMA); or UNLIMITED.
    """

    kbps_ewma: int = UNLIMITED

    def encode(self) -> bytes:
        """Raises LocalError for a rate that does not fit 32 bits."""
        if not 0 <= self.kbps_ewma < 2**32:
            raise LocalError("the rate of an XON has 32 bits")
        return bytes([_VERSION]) + self.kbps_ewma.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Xon:
        return cls(_reader(data, "XON").unsigned(4))
