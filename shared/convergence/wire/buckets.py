"""Signed buckets: which nodes exist, in parts that each can be fetched and checked alone.

Does: parse and encode epoch headers, buckets and requests for them; sign and verify headers (by callback).
Does not: order nodes or check buckets against a header (netdir/rings.py), or decide which header to believe
(netdir/headers.py).

A *ring* is the nodes of one kind in the order of their places, SHA-256 hashes. It is cut into 2^depth *buckets* of
equal parts of the range of places, so that a header of half a kilobyte tells which bucket holds a place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.certs import SIGNATURE_LEN, Sign, Verify
from convergence.wire.descriptor import KEY_LEN, MAX_DESCRIPTOR
from convergence.wire.reader import Reader

VERSION = 1
HEADER_PREFIX = b"convergence:epoch:1"
HASH_LEN = 32
DAY = 86400
"""Seconds that a shared random value is in use: from one midnight (UTC) to the next."""
MAX_RINGS = 16
MAX_DEPTH = 16
"""65,536 buckets: six million nodes in rings of usual fill."""
MAX_IN_BUCKET = 256
"""Nodes in one bucket; usual are 64 to 128."""
REFERENCE_LEN = 8
REQUEST_LEN = 4 + 1 + 4 + 4
MAX_HEADER = 1 + 4 + 8 + 8 + 2 * (HASH_LEN + 8) + HASH_LEN + 1 + MAX_RINGS * (6 + HASH_LEN) + KEY_LEN + SIGNATURE_LEN
"""838 bytes; one with ten rings takes 610."""
MAX_BUCKET = 4 + 1 + 4 + 1 + MAX_DEPTH * HASH_LEN + MAX_IN_BUCKET * (2 + MAX_DESCRIPTOR + 8)
"""305 KB at the very worst; usual are 15 to 25 KB."""


class RingKind(IntEnum):
    """What the nodes of a ring have in common. Unknown kinds are kept and not used."""

    ALL = 1  # who works for others at all
    RELAYS = 2
    DIALLED = 3  # relays with an address that others can dial
    EXITS = 4
    TOR = 5  # lead into the Tor network
    POINTS = 6  # rendezvous points that are older than the value
    TOR_POINTS = 7  # of these, who takes links from relays of the Tor network
    STABLE = 8  # relays that were there long before the epoch: paths lead over these
    POINTS_BEFORE = 9  # rendezvous points that are older than the value before, in its order
    TOR_POINTS_BEFORE = 10


@dataclass(frozen=True, slots=True)
class SharedValue:
    """A shared random value (32 bytes), and from when on somebody may have known it (Unix seconds): whatever was made
    earlier was not made for it."""

    value: bytes
    fixed: int

    def encode(self) -> bytes:
        return self.value + self.fixed.to_bytes(8, "big")

    @classmethod
    def read(cls, reader: Reader) -> SharedValue:
        return cls(reader.take(HASH_LEN), reader.unsigned(8))


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring of a header: its kind, how many nodes it has, log2 of its number of buckets, and their Merkle root."""

    kind: int
    depth: int
    count: int
    root: bytes

    def encode(self) -> bytes:
        return bytes((self.kind, self.depth)) + self.count.to_bytes(4, "big") + self.root

    @classmethod
    def read(cls, reader: Reader) -> Ring:
        ring = cls(reader.unsigned(1), reader.unsigned(1), reader.unsigned(4), reader.take(HASH_LEN))
        if ring.depth > MAX_DEPTH or ring.count > MAX_IN_BUCKET << ring.depth:
            raise ParseError(f"ring of {ring.count} nodes in 2^{ring.depth} buckets")
        return ring


@dataclass(frozen=True, slots=True)
class EpochHeader:
    """All that a facilitator says of one epoch.

    Args:
        epoch: its number.
        published, expires: Unix seconds.
        value: the shared random value of the day; before: that of the day before.
        committed: hash of the commitments to the next day's value; zeros until they are complete.
        rings: in order of kind.
        signer: the facilitator's Ed25519 identity.
        signature: over "convergence:epoch:1" and `body()`; empty while not signed.
    """

    epoch: int
    published: int
    expires: int
    value: SharedValue
    before: SharedValue
    committed: bytes
    rings: tuple[Ring, ...]
    signer: bytes
    signature: bytes = b""

    def ring(self, kind: int) -> Ring | None:
        return next((ring for ring in self.rings if ring.kind == kind), None)

    def body(self) -> bytes:
        """All but the signature."""
        dates = self.epoch.to_bytes(4, "big") + self.published.to_bytes(8, "big") + self.expires.to_bytes(8, "big")
        values = self.value.encode() + self.before.encode() + self.committed
        rings = bytes([len(self.rings)]) + b"".join(ring.encode() for ring in self.rings)
        return bytes([VERSION]) + dates + values + rings + self.signer

    def sign(self, sign: Sign) -> EpochHeader:
        """A signed copy. Raises LocalError if it would not parse."""
        signed = replace(self, signature=sign(HEADER_PREFIX + self.body()))
        try:
            EpochHeader.parse(signed.encode())
        except ParseError as error:
            raise LocalError(f"not a valid header: {error}") from None
        return signed

    def verify(self, verify: Verify) -> bool:
        """Whether the facilitator it names signed it."""
        return verify(self.signer, self.signature, HEADER_PREFIX + self.body())

    def encode(self) -> bytes:
        return self.body() + self.signature

    @classmethod
    def parse(cls, data: Buffer) -> EpochHeader:
        """Checks neither signature nor dates against a clock. Raises ParseError."""
        reader = Reader(data, "epoch header")
        if reader.unsigned(1) != VERSION:
            raise ParseError("epoch header of an unknown version")
        epoch, published, expires = reader.unsigned(4), reader.unsigned(8), reader.unsigned(8)
        if expires <= published:
            raise ParseError("epoch header expires before it is published")
        value, before, committed = SharedValue.read(reader), SharedValue.read(reader), reader.take(HASH_LEN)
        count = reader.unsigned(1)
        if count > MAX_RINGS:
            raise ParseError(f"epoch header with {count} rings, the limit is {MAX_RINGS}")
        rings = tuple(Ring.read(reader) for _ in range(count))
        kinds = [ring.kind for ring in rings]
        if kinds != sorted(set(kinds)):
            raise ParseError("epoch header's rings are not in order")
        signer, signature = reader.take(KEY_LEN), reader.take(SIGNATURE_LEN)
        reader.finish()
        return cls(epoch, published, expires, value, before, committed, rings, signer, signature)


@dataclass(frozen=True, slots=True)
class Entry:
    """One node of a bucket: its encoded descriptor, and since when the facilitator has known it (Unix seconds)."""

    descriptor: bytes
    since: int

    def encode(self) -> bytes:
        return len(self.descriptor).to_bytes(2, "big") + self.descriptor + self.since.to_bytes(8, "big")

    @property
    def reference(self) -> bytes:
        """8 bytes that stand for it where the other side has it. The root tells whether they stood for another one."""
        return sha256(self.encode()).digest()[:REFERENCE_LEN]


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket, or what is new in it.

    Args:
        epoch, kind, index: which one.
        proof: hashes of 32 bytes from its neighbour upwards, `depth` of them.
        items: its nodes in order of place; references to those that the asker has from an earlier epoch.
    """

    epoch: int
    kind: int
    index: int
    proof: tuple[bytes, ...]
    items: tuple[Entry | bytes, ...]

    def encode(self) -> bytes:
        """Raises LocalError past a limit."""
        if len(self.proof) > MAX_DEPTH or len(self.items) > MAX_IN_BUCKET:
            raise LocalError("the bucket or its proof is too long")
        head = self.epoch.to_bytes(4, "big") + bytes([self.kind]) + self.index.to_bytes(4, "big")
        items = [bytes(2) + item if isinstance(item, bytes) else item.encode() for item in self.items]
        return b"".join((head, bytes([len(self.proof)]), *self.proof, *items))

    @classmethod
    def parse(cls, data: Buffer) -> Bucket:
        """Does not look into the descriptors. Raises ParseError."""
        reader = Reader(data, "bucket")
        epoch, kind, index = reader.unsigned(4), reader.unsigned(1), reader.unsigned(4)
        depth = reader.unsigned(1)
        if depth > MAX_DEPTH:
            raise ParseError(f"bucket with a proof of {depth} hashes, the limit is {MAX_DEPTH}")
        proof = tuple(reader.take(HASH_LEN) for _ in range(depth))
        items: list[Entry | bytes] = []
        while reader.left:
            if len(items) == MAX_IN_BUCKET:
                raise ParseError(f"bucket of more than {MAX_IN_BUCKET} nodes")
            items.append(_read_item(reader))
        return cls(epoch, kind, index, proof, tuple(items))


def _read_item(reader: Reader) -> Entry | bytes:
    size = reader.unsigned(2)
    if size > MAX_DESCRIPTOR:
        raise ParseError(f"descriptor of {size} bytes, the limit is {MAX_DESCRIPTOR}")
    return Entry(reader.take(size), reader.unsigned(8)) if size else reader.take(REFERENCE_LEN)


@dataclass(frozen=True, slots=True)
class BucketRequest:
    """Asks for one bucket of an epoch. `have`: the epoch that the asker has it of; 0 if of none."""

    epoch: int
    kind: int
    index: int
    have: int = 0

    def encode(self) -> bytes:
        head = self.epoch.to_bytes(4, "big") + bytes([self.kind])
        return head + self.index.to_bytes(4, "big") + self.have.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> BucketRequest:
        reader = Reader(data, "bucket request")
        request = cls(reader.unsigned(4), reader.unsigned(1), reader.unsigned(4), reader.unsigned(4))
        reader.finish()
        return request
