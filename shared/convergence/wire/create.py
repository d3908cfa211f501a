"""Cells that make and end a circuit: CREATE2, CREATED2, DESTROY (tor-spec "CREATE and CREATED cells").

Does: parse and encode their payloads; those of the older CREATE_FAST and CREATED_FAST have no fields. Bytes after the
last field of a payload are padding and ignored.
Does not: know what a handshake contains.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from convergence.errors import DestroyReason, LocalError
from convergence.ports import Buffer
from convergence.wire.cells import PAYLOAD_LEN
from convergence.wire.reader import Reader


class HandshakeType(IntEnum):
    """Circuit handshakes (HTYPE). TAP is named only to be refused."""

    FAST = -1  # no HTYPE: the onionskin goes in a cell of its own kind, CREATE_FAST
    TAP = 0
    NTOR = 2
    NTOR_V3 = 3


def read_handshake(reader: Reader) -> bytes:
    """HLEN (2 bytes) and HDATA."""
    return reader.take(reader.unsigned(2))


def encode_handshake(data: bytes, room: int) -> bytes:
    """HLEN and HDATA. Raises LocalError if they take more than `room` bytes."""
    if len(data) + 2 > room:
        raise LocalError(f"{len(data)} bytes of handshake data do not fit")
    return len(data).to_bytes(2, "big") + data


@dataclass(frozen=True, slots=True)
class Create2:
    """Client's half of a circuit handshake: type (2 bytes) and data (at most 505 bytes)."""

    handshake_type: int
    handshake_data: bytes

    def encode(self) -> bytes:
        return self.handshake_type.to_bytes(2, "big") + encode_handshake(self.handshake_data, PAYLOAD_LEN - 2)

    @classmethod
    def parse(cls, payload: Buffer) -> Create2:
        reader = Reader(payload, "CREATE2")
        return cls(reader.unsigned(2), read_handshake(reader))


@dataclass(frozen=True, slots=True)
class Created2:
    """Server's half of a circuit handshake: at most 507 bytes."""

    handshake_data: bytes

    def encode(self) -> bytes:
        return encode_handshake(self.handshake_data, PAYLOAD_LEN)

    @classmethod
    def parse(cls, payload: Buffer) -> Created2:
        return cls(read_handshake(Reader(payload, "CREATED2")))


FAST_LEN = 20
"""Bytes of key material in CREATE_FAST and CREATED_FAST, and of the derivative key data in the latter."""


def create_fast(payload: Buffer) -> Create2:
    """A CREATE_FAST, X (20 bytes), as a CREATE2. No CREATE2 that comes has this type, so no EXTEND2 leads to one."""
    return Create2(HandshakeType.FAST, bytes(payload[:FAST_LEN]))


@dataclass(frozen=True, slots=True)
class Destroy:
    """Ends a circuit. A reason outside `DestroyReason` is kept as received; a missing one is NONE."""

    reason: int

    def encode(self) -> bytes:
        return bytes([self.reason])

    @classmethod
    def parse(cls, payload: Buffer) -> Destroy:
        return cls(payload[0] if len(payload) else DestroyReason.NONE)
