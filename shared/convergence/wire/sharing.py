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
from convergence.wire.sharedrandom import Draw

VERSION = 1
NAME_LEN = 16
"""Bytes of the name of a facilitator's process, and of what stands for a source."""
NOBODY = bytes(NAME_LEN)
MAX_IN_PART = 256
"""Nodes in one part of a cut: 70 KB as a rule, 314 KB at the very worst..."""
MAX_PARTS = 1 << 16
"""...and how many parts a cut has: 16 million nodes."""
MAX_PASSED = 256
"""Signals that are told in one piece: 220 KB as a rule, 540 KB at worst."""
MAX_VERSION = 64
"""Bytes of the release that a facilitator names."""


class SharedType(IntEnum):
    RECORD = 1  # NodeRecord: of a node that is registered, in the store and to all
    DROPPED = 2  # Dropped, to all
    BEAT = 3  # Beat, to all
    FORWARD = 4  # Forward, in a Passed to the one that has the node's channel
    BACK = 5  # Back, in a Passed to the one that has the asker's channel
    DECISION = 6  # Decision, in the store
    DECIDED = 7  # Decided, to all
    CUT_PART = 8  # CutPart, in the store
    DRAWN = 9  # Drawn, to all
    PASSED = 10  # Passed, to one


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


@dataclass(frozen=True, slots=True)
class Passed:
    """Signals and answers for one facilitator, in their order. Of each: type u8 | length u16 | body."""

    items: tuple[Forward | Back, ...]

    def encode(self) -> bytes:
        parts: list[bytes] = []
        for item in self.items:
            kind, body = SharedType.FORWARD if isinstance(item, Forward) else SharedType.BACK, item.encode()
            parts += (bytes([kind]), len(body).to_bytes(2, "big"), body)
        return b"".join(parts)

    @classmethod
    def parse(cls, data: Buffer) -> Passed:
        reader = Reader(data, "signals that are passed")
        items: list[Forward | Back] = []
        while reader.left:
            kind, body = reader.unsigned(1), reader.take(reader.unsigned(2))
            if kind not in (SharedType.FORWARD, SharedType.BACK) or len(items) == MAX_PASSED:
                raise ParseError("signals of an unknown form, or too many")
            items.append(Forward.parse(body) if kind == SharedType.FORWARD else Back.parse(body))
        return cls(tuple(items))


@dataclass(frozen=True, slots=True)
class Decision:
    """What facilitators have agreed on for an epoch: the header that each of them signs, and what it is made of.

    Args:
        header: body of the EpochHeader; not signed, since all have the key and sign alike.
        large: whether nodes are told the header, and no list.
        cut, parts: name (16 bytes) of what its buckets are made of, and in how many CutParts the store has that.
        draws: values and draws (facilitator/draws.py) as of this header.
    """

    header: bytes
    large: bool
    cut: bytes
    parts: int
    draws: bytes

    def encode(self) -> bytes:
        head = bytes([self.large]) + self.cut + self.parts.to_bytes(4, "big")
        return head + len(self.header).to_bytes(2, "big") + self.header + self.draws

    @classmethod
    def parse(cls, data: Buffer) -> Decision:
        """Does not look into the header, nor into the draws."""
        reader = Reader(data, "decision")
        large, cut, parts = reader.unsigned(1), reader.take(NAME_LEN), reader.unsigned(4)
        if large > 1 or parts > MAX_PARTS:
            raise ParseError("decision of an unknown form")
        return cls(reader.take(reader.unsigned(2)), large == 1, cut, parts, reader.rest())


@dataclass(frozen=True, slots=True)
class Decided:
    """There is a decision for this epoch in the store."""

    epoch: int

    def encode(self) -> bytes:
        return self.epoch.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Decided:
        reader = Reader(data, "epoch that is decided")
        decided = cls(reader.unsigned(4))
        reader.finish()
        return decided


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one facilitator knows of the draw of the next day's value."""

    draw: Draw

    def encode(self) -> bytes:
        return self.draw.encode()

    @classmethod
    def parse(cls, data: Buffer) -> Drawn:
        return cls(Draw.parse(data))


@dataclass(frozen=True, slots=True)
class CutNode:
    """A node of a cut: identity (32 bytes), since when it is known (Unix seconds), the rings that it is in once it is
    old enough (bit 1 << kind), its encoded descriptor. One without a descriptor is gone, and remembered."""

    identity: bytes
    since: int
    classes: int = 0
    descriptor: bytes = b""


@dataclass(frozen=True, slots=True)
class CutPart:
    """Some of the nodes of a cut."""

    nodes: tuple[CutNode, ...]

    def encode(self) -> bytes:
        return b"".join(
            node.identity
            + node.since.to_bytes(8, "big")
            + node.classes.to_bytes(2, "big")
            + len(node.descriptor).to_bytes(2, "big")
            + node.descriptor
            for node in self.nodes
        )

    @classmethod
    def parse(cls, data: Buffer) -> CutPart:
        """Does not look into the descriptors."""
        reader = Reader(data, "part of a cut")
        nodes: list[CutNode] = []
        while reader.left:
            identity, since, classes = reader.take(KEY_LEN), reader.unsigned(8), reader.unsigned(2)
            size = reader.unsigned(2)
            if size > MAX_DESCRIPTOR or len(nodes) == MAX_IN_PART:
                raise ParseError("part of a cut that is too long")
            nodes.append(CutNode(identity, since, classes, reader.take(size)))
        return cls(tuple(nodes))


Shared = NodeRecord | Dropped | Beat | Passed | Decision | Decided | CutPart | Drawn
_TYPES: dict[int, type[Shared]] = {
    SharedType.RECORD: NodeRecord,
    SharedType.DROPPED: Dropped,
    SharedType.BEAT: Beat,
    SharedType.PASSED: Passed,
    SharedType.DECISION: Decision,
    SharedType.DECIDED: Decided,
    SharedType.CUT_PART: CutPart,
    SharedType.DRAWN: Drawn,
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
