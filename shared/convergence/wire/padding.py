"""PADDING_NEGOTIATE, by which a client says how its guard is to pad their link (tor-spec "Link padding").

Does: parse and encode it. Does not: pad (link/padding.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from convergence.errors import ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Reader

VERSION = 0


class PaddingCommand(IntEnum):
    STOP = 1
    START = 2


@dataclass(frozen=True, slots=True)
class PaddingNegotiate:
    """What the link's responder should do.

    Args:
        low, high: for START, milliseconds between which a link may be silent before it is padded; 0 for the usual ones.
    """

    command: PaddingCommand
    low: int = 0
    high: int = 0

    def encode(self) -> bytes:
        return bytes([VERSION, self.command]) + self.low.to_bytes(2, "big") + self.high.to_bytes(2, "big")

    @classmethod
    def parse(cls, payload: Buffer) -> PaddingNegotiate:
        """Bytes after it are padding."""
        reader = Reader(payload, "PADDING_NEGOTIATE")
        if reader.unsigned(1) != VERSION:
            raise ParseError("PADDING_NEGOTIATE of an unknown version")
        return cls(reader.member(PaddingCommand), reader.unsigned(2), reader.unsigned(2))
