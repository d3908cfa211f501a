"""What facilitators of one identity leave in the store that they share, and tell each other.

Does: parse and encode. Everything here travels sealed (facilitator/sharing.py).
Does not: decide anything.

    version u8 | type u8 | body

A facilitator ignores versions and types that it does not know: those of different releases work side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.descriptor import KEY_LEN, MAX_DESCRIPTOR
from convergence.wire.facilitator import MAX_SEALED, TAG_SIZE
from convergence.wire.reader import Reader, utf8

VERSION = 1
NAME_LEN = 16
"""Bytes of the name of a facilitator's process, and of what stands for a source."""
NOBODY = bytes(NAME_LEN)
MAX_VERSION = 64
"""Bytes of the release that a facilitator names."""


class SharedType(IntEnum):
    RECORD = 1  # NodeRecord: of a node that is registered, in the store and to all
    DROPPED = 2  # Dropped, to all
    BEAT = 3  # Beat, to all
    FORWARD = 4  # Forward, to the one that has the node's channel
    BACK = 5  # Back, to the one that has the asker's channel


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A registered node.

    Args:
        holder: the facilitator that has the node's newest channel, 16 bytes; NOBODY when it is closed.
        reached, first: Unix seconds: when it was found at its address (0: not there), when it registered first.
        source: keyed hash of where it registered from, 16 bytes; NOBODY where that is unknown.
        descriptor: encoded.
    """

    holder: bytes
    reached: int
    first: int
    source: bytes
    descriptor: bytes

    def encode(self) -> bytes:
        dates = self.reached.to_bytes(8, "big") + self.first.to_bytes(8, "big")
        return self.holder + dates + self.source + self.descriptor

    @classmethod
    def parse(cls, data: Buffer) -> NodeRecord:
        """Does not look into the descriptor."""
        reader = Reader(data, "node record")
        holder, reached, first = reader.take(NAME_LEN), reader.unsigned(8), reader.unsigned(8)
        source, descriptor = reader.take(NAME_LEN), reader.rest()
        if len(descriptor) > MAX_DESCRIPTOR:
            raise ParseError("node record with too long a descriptor")
        return cls(holder, reached, first, source, descriptor)


@dataclass(frozen=True, slots=True)
class Dropped:
    """The node of this identity (32 bytes) is no longer registered, nor any descriptor of it that was published then
    (Unix seconds) or before."""

    identity: bytes
    published: int

    def encode(self) -> bytes:
        return self.identity + self.published.to_bytes(8, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Dropped:
        reader = Reader(data, "dropped node")
        dropped = cls(reader.take(KEY_LEN), reader.unsigned(8))
        reader.finish()
        return dropped


@dataclass(frozen=True, slots=True)
class Beat:
    """A facilitator is there: open channels, those of registered nodes, its clock and since when (Unix seconds), its
    release. One that `leaves` says so with its last beat. It `hears` these others, at most 255: names are random, so
    whoever is named knows that the beat is no older than he is."""

    channels: int
    nodes: int
    clock: int
    since: int
    version: str
    leaves: bool = False
    hears: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        numbers = self.channels.to_bytes(4, "big") + self.nodes.to_bytes(4, "big")
        dates = self.clock.to_bytes(8, "big") + self.since.to_bytes(8, "big")
        names = bytes([len(self.hears)]) + b"".join(self.hears)
        return numbers + dates + bytes([self.leaves]) + names + self.version.encode()[:MAX_VERSION]

    @classmethod
    def parse(cls, data: Buffer) -> Beat:
        reader = Reader(data, "beat")
        channels, nodes, clock, since = (reader.unsigned(size) for size in (4, 4, 8, 8))
        leaves = reader.unsigned(1)
        hears = tuple(reader.take(NAME_LEN) for _ in range(reader.unsigned(1)))
        version = reader.rest()
        if len(version) > MAX_VERSION or leaves > 1:
            raise ParseError("beat of an unknown form")
        return cls(channels, nodes, clock, since, utf8(version, "beat"), leaves == 1, hears)


@dataclass(frozen=True, slots=True)
class Forward:
    """A signal for node `to` (32 bytes), from the sender's channel number `asker`, of source `source` (16 bytes, as in
    NodeRecord), with the tag that the sender gave it (u32)."""

    asker: int
    to: bytes
    tag: int
    source: bytes
    sealed: bytes = field(repr=False)

    def encode(self) -> bytes:
        if len(self.sealed) > MAX_SEALED:
            raise LocalError(f"a sealed message is at most {MAX_SEALED} bytes")
        asker, tag = self.asker.to_bytes(8, "big"), self.tag.to_bytes(TAG_SIZE, "big")
        return asker + self.to + tag + self.source + self.sealed

    @classmethod
    def parse(cls, data: Buffer) -> Forward:
        reader = Reader(data, "forwarded signal")
        asker, to, tag = reader.unsigned(8), reader.take(KEY_LEN), reader.unsigned(TAG_SIZE)
        source, sealed = reader.take(NAME_LEN), reader.rest()
        if len(sealed) > MAX_SEALED:
            raise ParseError("forwarded signal that is too long")
        return cls(asker, to, tag, source, sealed)


@dataclass(frozen=True, slots=True)
class Back:
    """What answers a Forward of the same asker and `to`: the type and body of a REPLY or UNREACHABLE record, with the
    Forward's tag."""

    asker: int
    to: bytes
    kind: int
    body: bytes = field(repr=False)

    def encode(self) -> bytes:
        return self.asker.to_bytes(8, "big") + self.to + bytes([self.kind]) + self.body

    @classmethod
    def parse(cls, data: Buffer) -> Back:
        reader = Reader(data, "answer to a forwarded signal")
        back = cls(reader.unsigned(8), reader.take(KEY_LEN), reader.unsigned(1), reader.rest())
        if len(back.body) > TAG_SIZE + MAX_SEALED:
            raise ParseError("answer to a forwarded signal that is too long")
        return back


Shared = NodeRecord | Dropped | Beat | Forward | Back
_TYPES: dict[int, type[Shared]] = {
    SharedType.RECORD: NodeRecord,
    SharedType.DROPPED: Dropped,
    SharedType.BEAT: Beat,
    SharedType.FORWARD: Forward,
    SharedType.BACK: Back,
}
_NUMBERS = {kind: number for number, kind in _TYPES.items()}


def encode_shared(item: Shared) -> bytes:
    return bytes([VERSION, _NUMBERS[type(item)]]) + item.encode()


def parse_shared(data: Buffer) -> Shared:
    """Raises ParseError, also for a version or type that is not known here."""
    reader = Reader(data, "shared item")
    version, kind = reader.unsigned(1), reader.unsigned(1)
    if version != VERSION or kind not in _TYPES:
        raise ParseError("shared item of an unknown form")
    return _TYPES[kind].parse(reader.rest())
