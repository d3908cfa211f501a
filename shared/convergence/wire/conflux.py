"""What the ends of a conflux set tell each other besides the messages of streams (proposal 329 sections 2.2 and 2.6).

Does: parse and encode the bodies of LINK, LINKED and SWITCH; say which relay messages a set numbers. A version other
than 1 is refused; bytes after the last field are ignored. LINKED_ACK has no body.
Does not: link anything, or judge the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Reader
from convergence.wire.relay import RelayCommand

NONCE_LEN = 32
MAX_GAP = 2**32 - 1
"""The largest number that one SWITCH holds."""

NUMBERED = frozenset(
    (
        *(RelayCommand.BEGIN, RelayCommand.DATA, RelayCommand.END, RelayCommand.CONNECTED),
        *(RelayCommand.RESOLVE, RelayCommand.RESOLVED, RelayCommand.XOFF, RelayCommand.XON),
    )
)
"""The messages that may take any leg, so that their order has to be told (section 2.8). All others belong to the
circuit that they come on."""

_VERSION = 1


class Wish(IntEnum):
    """What an end wishes of those who send to it (DESIRED_UX)."""

    NO_OPINION = 0
    MIN_LATENCY = 1
    LOW_MEM_LATENCY = 2
    HIGH_THROUGHPUT = 3
    LOW_MEM_THROUGHPUT = 4


@dataclass(frozen=True, slots=True)
class Link:
    """LINK, and LINKED in answer to it: this circuit is a leg of a set.

    Args:
        nonce: names the set, 32 bytes. A secret: whoever knows it can add legs.
        sent, received: of all messages that the set numbers, how many its sender has sent, and how many have come to
            it without a gap; 64 bits each.
    """

    nonce: bytes = field(repr=False)
    sent: int = 0
    received: int = 0
    wish: Wish = Wish.NO_OPINION

    def encode(self) -> bytes:
        numbers = self.sent.to_bytes(8, "big") + self.received.to_bytes(8, "big")
        return bytes([_VERSION]) + self.nonce + numbers + bytes([self.wish])

    @classmethod
    def parse(cls, data: Buffer) -> Link:
        reader = Reader(data, "LINK")
        if reader.unsigned(1) != _VERSION:
            raise ParseError("LINK of an unknown version")
        return cls(reader.take(NONCE_LEN), reader.unsigned(8), reader.unsigned(8), reader.member(Wish))


@dataclass(frozen=True, slots=True)
class Switch:
    """What follows on this leg comes after so many messages that took other legs since the last one here."""

    gap: int

    def encode(self) -> bytes:
        """Raises LocalError for a gap of none, or above MAX_GAP."""
        if not 0 < self.gap <= MAX_GAP:
            raise LocalError("the gap of a SWITCH has 32 bits")
        return self.gap.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Switch:
        """One without a gap tells nothing but its pattern, to whoever watches (section 4.2.1)."""
        gap = Reader(data, "SWITCH").unsigned(4)
        if not gap:
            raise ParseError("SWITCH without a gap")
        return cls(gap)
