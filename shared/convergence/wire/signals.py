"""What is inside a sealed signal: one side's description of an RTC channel, signed.

Does: parse, encode, sign and verify (by callback) it, and give the `info` that it is sealed with.
Does not: seal (crypto/hpke.py), or judge dates and replays (introduction/links.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from convergence.effects import DescriptionKind
from convergence.errors import ParseError
from convergence.ports import Buffer
from convergence.wire.certs import SIGNATURE_LEN, Sign, Verify
from convergence.wire.reader import Reader
from convergence.wire.sdp import MAX_DESCRIPTION, Candidates, Description, Setup

VERSION = 1
KEY_LEN = 32
SESSION_LEN = 16
PREFIX = b"convergence:introduction:1"
MAX_INTRODUCTION = 1 + 1 + SESSION_LEN + 2 * KEY_LEN + 8 + MAX_DESCRIPTION + SIGNATURE_LEN
"""1,152 bytes; sealing adds 48, well below facilitator.MAX_SEALED."""


def sealing_info(to: bytes) -> bytes:
    """The `info` that an introduction to this identity (32 bytes) is sealed with (RFC 9180)."""
    return PREFIX + to


@dataclass(frozen=True, slots=True)
class Introduction:
    """One side of an RTC channel to the other.

    Args:
        kind: what the description is.
        session: 16 random bytes of the offerer; names the channel to both sides.
        sender: Ed25519 identity of the side that sends it.
        reply_key: X25519 key to seal answers to.
        sent: Unix seconds.
        description: a Description for OFFER and ANSWER, else Candidates.
        signature: over "convergence:introduction:1", the receiver's identity and `body()`; empty while not signed.
    """

    kind: DescriptionKind
    session: bytes
    sender: bytes
    reply_key: bytes
    sent: int
    description: Description | Candidates
    signature: bytes = field(default=b"", repr=False)

    def body(self) -> bytes:
        """All but the signature."""
        head = bytes([VERSION, self.kind]) + self.session + self.sender + self.reply_key
        return head + self.sent.to_bytes(8, "big") + self.description.encode()

    def sign(self, sign: Sign, to: bytes) -> Introduction:
        """A copy, signed for the node of identity `to`."""
        return replace(self, signature=sign(PREFIX + to + self.body()))

    def verify(self, verify: Verify, to: bytes) -> bool:
        """Whether the sender it names signed it for `to`."""
        return verify(self.sender, self.signature, PREFIX + to + self.body())

    def encode(self) -> bytes:
        return self.body() + self.signature

    @classmethod
    def parse(cls, data: Buffer) -> Introduction:
        """Checks neither signature nor date. Raises ParseError."""
        reader = Reader(data, "introduction")
        if reader.unsigned(1) != VERSION:
            raise ParseError("introduction of an unknown version")
        kind = reader.member(DescriptionKind)
        session, sender, reply_key = reader.take(SESSION_LEN), reader.take(KEY_LEN), reader.take(KEY_LEN)
        sent = reader.unsigned(8)
        description = _parse_description(kind, reader.take(max(0, reader.left - SIGNATURE_LEN)))
        return cls(kind, session, sender, reply_key, sent, description, reader.take(SIGNATURE_LEN))


def _parse_description(kind: DescriptionKind, data: bytes) -> Description | Candidates:
    if kind == DescriptionKind.CANDIDATES:
        return Candidates.parse(data)
    description = Description.parse(data)
    if kind == DescriptionKind.ANSWER and description.setup == Setup.ACTPASS:
        raise ParseError("an answer that does not decide who begins")
    return description
