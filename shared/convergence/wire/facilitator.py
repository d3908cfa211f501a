"""Records of facilitator channels and of the pipes between peers: the signed node list, registrations, signals.

Does: parse, encode, sign and verify (by callback), and cut a byte pipe into `length u32 | type u8 | body`.
Does not: judge dates, decide whom to trust (netdir/nodes.py), or know what a signal's sealed bytes hold (signals.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.buckets import MAX_BUCKET, MAX_HEADER, REQUEST_LEN
from convergence.wire.certs import SIGNATURE_LEN, Sign, Verify
from convergence.wire.descriptor import KEY_LEN, MAX_DESCRIPTOR
from convergence.wire.reader import Cutter, Reader, utf8
from convergence.wire.sharedrandom import MAX_DRAW

VERSION = 2
NODES_PREFIX = b"convergence:nodes:2"
REGISTER_PREFIX = b"convergence:register:1"
NONCE_LEN = 32
MAX_LISTED = 4096
"""Nodes in one list."""
MAX_NODE_LIST = 1 + 8 + 8 + 2 + MAX_LISTED * (2 + MAX_DESCRIPTOR + 8) + KEY_LEN + SIGNATURE_LEN
"""4.8 MB at the very worst; about 800 KB with usual descriptors."""
MAX_ERROR_TEXT = 255
MAX_SEALED = 2048
"""Bytes of one sealed message. Its carriers cannot read it."""
MAX_DESCRIPTORS = 32 * 1024
"""Bytes of one DESCRIPTORS record; an answer may take several."""
TAG_SIZE = 4
TOLD_LEN = 32
SEED_LEN = 16


@dataclass(frozen=True, slots=True)
class NodeList:
    """All nodes a facilitator knows, signed by it.

    Args:
        published, expires: Unix seconds.
        descriptors: encoded, as the nodes signed them. Whoever uses the list parses each by itself: one that it cannot
            read is left out, and the others still count.
        facilitator: Ed25519 identity.
        signature: over "convergence:nodes:2" and `body()`; empty while not signed.
        reached: for each descriptor, when the facilitator last found the node at its address (Unix seconds); 0 if
            never, as for nodes without an address.
    """

    published: int
    expires: int
    descriptors: tuple[bytes, ...]
    facilitator: bytes
    signature: bytes = b""
    reached: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.reached:
            object.__setattr__(self, "reached", (0,) * len(self.descriptors))

    def body(self) -> bytes:
        """All but the signature."""
        dates = self.published.to_bytes(8, "big") + self.expires.to_bytes(8, "big")
        parts = [bytes([VERSION]), dates, len(self.descriptors).to_bytes(2, "big")]
        for descriptor, reached in zip(self.descriptors, self.reached, strict=True):
            parts += (len(descriptor).to_bytes(2, "big"), descriptor, reached.to_bytes(8, "big"))
        return b"".join(parts) + self.facilitator

    def sign(self, sign: Sign) -> NodeList:
        """A signed copy. Raises LocalError for more than MAX_LISTED nodes."""
        if len(self.descriptors) > MAX_LISTED:
            raise LocalError(f"a list holds {MAX_LISTED} nodes at most")
        return replace(self, signature=sign(NODES_PREFIX + self.body()))

    def verify(self, verify: Verify) -> bool:
        """Whether the facilitator it names signed it."""
        return verify(self.facilitator, self.signature, NODES_PREFIX + self.body())

    def encode(self) -> bytes:
        return self.body() + self.signature

    @classmethod
    def parse(cls, data: Buffer) -> NodeList:
        """Raises ParseError. Does not look into the descriptors."""
        reader = Reader(data, "node list")
        if reader.unsigned(1) != VERSION:
            raise ParseError("node list of an unknown version")
        published, expires = reader.unsigned(8), reader.unsigned(8)
        if expires <= published:
            raise ParseError("node list expires before it is published")
        count = reader.unsigned(2)
        if count > MAX_LISTED:
            raise ParseError(f"list of {count} nodes, the limit is {MAX_LISTED}")
        entries = [(_read_descriptor(reader), reader.unsigned(8)) for _ in range(count)]
        facilitator, signature = reader.take(KEY_LEN), reader.take(SIGNATURE_LEN)
        reader.finish()
        descriptors, reached = tuple(item for item, _ in entries), tuple(when for _, when in entries)
        return cls(published, expires, descriptors, facilitator, signature, reached)


def _read_descriptor(reader: Reader) -> bytes:
    size = reader.unsigned(2)
    if size > MAX_DESCRIPTOR:
        raise ParseError(f"descriptor of {size} bytes, the limit is {MAX_DESCRIPTOR}")
    return reader.take(size)


class RecordType(IntEnum):
    """Types of record, on facilitator channels (all but 11 and 12) and on pipes between peers (all but 3, 4 and 13)."""

    REGISTER = 1  # Register
    REGISTERED = 2  # empty
    LIST = 3  # ListRequest
    NODES = 4  # NodeList
    ERROR = 5  # ErrorRecord
    SIGNAL = 6  # Signal: please pass this on
    HELLO = 7  # Hello: first record from the side that takes registrations
    DELIVER = 8  # Delivery, introducer to target, with the introducer's tag
    REPLY = 9  # Delivery, target to introducer (introducer's tag) to asker (asker's tag); several may follow one SIGNAL
    UNREACHABLE = 10  # Unreachable, introducer to asker
    ASK = 11  # Ask
    DESCRIPTORS = 12  # Descriptors; an empty one ends the answer
    REACHED = 13  # Reached, facilitator to node: after a registration, and when it changes
    HEADER = 14  # EpochHeader: the answer to LIST in a large network, empty for one that the asker has; and with ASK
    FETCH = 15  # BucketRequest
    BUCKET = 16  # Bucket, the answer to FETCH; empty if it cannot be had
    DRAW = 17  # DrawRequest, to a facilitator
    DRAWN = 18  # Draw, the answer to DRAW; empty if nothing is known of it
    PUZZLE = 20  # Puzzle: the answer to the REGISTER of a newcomer while there are too many
    SOLVED = 21  # Solved: REGISTER again, with what was asked for


RECORD_LIMITS: dict[int, int] = {
    RecordType.REGISTER: SIGNATURE_LEN + MAX_DESCRIPTOR,
    RecordType.REGISTERED: 0,
    RecordType.LIST: 4,
    RecordType.NODES: MAX_NODE_LIST,
    RecordType.ERROR: 1 + MAX_ERROR_TEXT,
    RecordType.SIGNAL: TAG_SIZE + KEY_LEN + MAX_SEALED,
    RecordType.HELLO: KEY_LEN + NONCE_LEN,
    RecordType.DELIVER: TAG_SIZE + MAX_SEALED,
    RecordType.REPLY: TAG_SIZE + MAX_SEALED,
    RecordType.UNREACHABLE: TAG_SIZE + 1,
    RecordType.ASK: 8 + TOLD_LEN,
    RecordType.DESCRIPTORS: MAX_DESCRIPTORS,
    RecordType.REACHED: 8,
    RecordType.HEADER: MAX_HEADER,
    RecordType.FETCH: REQUEST_LEN,
    RecordType.BUCKET: MAX_BUCKET,
    RecordType.DRAW: 4,
    RecordType.DRAWN: MAX_DRAW,
    RecordType.PUZZLE: SEED_LEN + 4 + 2,
    RecordType.SOLVED: 8 + SIGNATURE_LEN + MAX_DESCRIPTOR,
}
RECORD_HEADER_LEN = 5


class ErrorCode(IntEnum):
    """Why a facilitator refuses. Unknown codes are kept as they came."""

    BAD_RECORD = 1
    BAD_SIGNATURE = 2
    BAD_DATES = 3
    STALE = 4
    RATE_LIMIT = 5
    FULL = 6
    BUSY = 7
    OTHER_NODE = 8


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A refusal: a code, and at most 255 bytes of text for people. The text may be hostile: never show it as markup."""

    code: int
    text: str

    def encode(self) -> bytes:
        text = self.text.encode()[:MAX_ERROR_TEXT].decode("utf-8", "ignore")  # cut at a character boundary
        return bytes([self.code]) + text.encode()

    @classmethod
    def parse(cls, data: Buffer) -> ErrorRecord:
        reader = Reader(data, "error record")
        code, text = reader.unsigned(1), reader.rest()
        if len(text) > MAX_ERROR_TEXT:
            raise ParseError("error record's text is too long")
        return cls(code, utf8(text, "error record"))


@dataclass(frozen=True, slots=True)
class Hello:
    """The identity (32 bytes) of the side that takes registrations, and a nonce (32 bytes) that binds each proof to
    this channel."""

    identity: bytes
    nonce: bytes

    def encode(self) -> bytes:
        return self.identity + self.nonce

    @classmethod
    def parse(cls, data: Buffer) -> Hello:
        reader = Reader(data, "HELLO")
        hello = cls(reader.take(KEY_LEN), reader.take(NONCE_LEN))
        reader.finish()
        return hello


def register_statement(hello: Hello) -> bytes:
    """The bytes that a node signs with its identity to register with the sender of `hello`."""
    return REGISTER_PREFIX + hello.encode()


@dataclass(frozen=True, slots=True)
class Register:
    """A node's proof (64 bytes: its signature of `register_statement`) and its encoded descriptor."""

    proof: bytes
    descriptor: bytes

    def encode(self) -> bytes:
        return self.proof + self.descriptor

    @classmethod
    def parse(cls, data: Buffer) -> Register:
        """Does not look into the descriptor."""
        reader = Reader(data, "REGISTER")
        return cls(reader.take(SIGNATURE_LEN), reader.rest())


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Work for one newcomer on one channel (crypto/puzzle.py): a fresh seed (16 bytes), how many tries it takes on
    average (u32, at least 1), and for how many seconds an answer counts (u16)."""

    seed: bytes
    effort: int
    lifetime: int

    def encode(self) -> bytes:
        return self.seed + self.effort.to_bytes(4, "big") + self.lifetime.to_bytes(2, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Puzzle:
        reader = Reader(data, "PUZZLE")
        puzzle = cls(reader.take(SEED_LEN), reader.unsigned(4), reader.unsigned(2))
        reader.finish()
        if not puzzle.effort:
            raise ParseError("PUZZLE that asks for nothing")
        return puzzle


@dataclass(frozen=True, slots=True)
class Solved:
    """A registration, and the number (u64) that solves the channel's puzzle."""

    number: int
    register: Register

    def encode(self) -> bytes:
        return self.number.to_bytes(8, "big") + self.register.encode()

    @classmethod
    def parse(cls, data: Buffer) -> Solved:
        reader = Reader(data, "SOLVED")
        return cls(reader.unsigned(8), Register.parse(reader.rest()))


@dataclass(frozen=True, slots=True)
class Signal:
    """Asks its receiver to pass `sealed` (at most 2,048 bytes) on to node `to`. The asker chooses the tag (u32)."""

    tag: int
    to: bytes
    sealed: bytes = field(repr=False)

    def encode(self) -> bytes:
        return self.tag.to_bytes(TAG_SIZE, "big") + self.to + self.sealed

    @classmethod
    def parse(cls, data: Buffer) -> Signal:
        reader = Reader(data, "SIGNAL")
        return cls(reader.unsigned(TAG_SIZE), reader.take(KEY_LEN), _read_sealed(reader))


@dataclass(frozen=True, slots=True)
class Delivery:
    """What DELIVER and REPLY carry: a tag (u32) and at most 2,048 sealed bytes."""

    tag: int
    sealed: bytes = field(repr=False)

    def encode(self) -> bytes:
        return self.tag.to_bytes(TAG_SIZE, "big") + self.sealed

    @classmethod
    def parse(cls, data: Buffer) -> Delivery:
        reader = Reader(data, "DELIVER or REPLY")
        return cls(reader.unsigned(TAG_SIZE), _read_sealed(reader))


def _read_sealed(reader: Reader) -> bytes:
    if reader.left > MAX_SEALED:
        raise ParseError(f"sealed message of {reader.left} bytes, the limit is {MAX_SEALED}")
    return reader.rest()


class UnreachableReason(IntEnum):
    """Why a signal was not passed on. Unknown ones are kept as they came."""

    UNKNOWN = 1  # no such node is registered here
    BUSY = 2  # too many signals


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The signal of this tag (u32, the asker's) was not passed on."""

    tag: int
    reason: int

    def encode(self) -> bytes:
        return self.tag.to_bytes(TAG_SIZE, "big") + bytes([self.reason])

    @classmethod
    def parse(cls, data: Buffer) -> Unreachable:
        reader = Reader(data, "UNREACHABLE")
        unreachable = cls(reader.unsigned(TAG_SIZE), reader.unsigned(1))
        reader.finish()
        return unreachable


@dataclass(frozen=True, slots=True)
class Reached:
    """When the facilitator last found the node at its registered address (Unix seconds); the node is listed. 0: nobody
    answers there as this node, and it is not listed."""

    when: int

    def encode(self) -> bytes:
        return self.when.to_bytes(8, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Reached:
        reader = Reader(data, "REACHED")
        reached = cls(reader.unsigned(8))
        reader.finish()
        return reached


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Asks which nodes there are. `have`: the epoch of the newest header that the asker has; 0 for none."""

    have: int = 0

    def encode(self) -> bytes:
        return self.have.to_bytes(4, "big") if self.have else b""

    @classmethod
    def parse(cls, data: Buffer) -> ListRequest:
        reader = Reader(data, "LIST")
        request = cls(reader.unsigned(4) if reader.left else 0)
        reader.finish()
        return request


def told_hash(headers: Iterable[bytes]) -> bytes:
    """SHA-256 of all headers that an ASK or its answer would bring, one after the other; nothing if there are none."""
    told = b"".join(headers)
    return sha256(told).digest() if told else b""


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks for the descriptors published at `since` (Unix seconds) or later, and for epoch headers, unless their
    `told_hash` is `known`."""

    since: int
    known: bytes = b""

    def encode(self) -> bytes:
        return self.since.to_bytes(8, "big") + self.known

    @classmethod
    def parse(cls, data: Buffer) -> Ask:
        reader = Reader(data, "ASK")
        ask = cls(reader.unsigned(8), reader.take(TOLD_LEN) if reader.left else b"")
        reader.finish()
        return ask


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Encoded descriptors, at most 32 KiB with a 2-byte length before each. The last record of an answer has none."""

    items: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        return b"".join(len(item).to_bytes(2, "big") + item for item in self.items)

    @classmethod
    def parse(cls, data: Buffer) -> Descriptors:
        """Does not look into the descriptors."""
        reader = Reader(data, "DESCRIPTORS")
        items = []
        while reader.left:
            items.append(_read_descriptor(reader))
        return cls(tuple(items))


def encode_record(kind: int, body: bytes = b"") -> bytes:
    """One framed record: length of the body, type, body. Raises LocalError for a body over the type's limit."""
    if len(body) > RECORD_LIMITS[kind]:
        raise LocalError(f"record of type {kind} does not hold {len(body)} bytes")
    return len(body).to_bytes(4, "big") + bytes([kind]) + body


@lru_cache
def _limits_of(kinds: frozenset[RecordType]) -> dict[int, int]:
    return {int(kind): RECORD_LIMITS[kind] for kind in kinds}


class RecordCutter(Cutter[tuple[RecordType, bytes]]):
    """Cuts a channel into (type, body).

    Args:
        accepts: the types that this side takes. The header is enough to refuse another type, or a body over its limit.
    """

    def __init__(self, accepts: Collection[RecordType]) -> None:
        super().__init__()
        self._limits = _limits_of(frozenset(accepts))

    def _measure(self, buffer: bytearray, position: int) -> tuple[int, bool]:
        if len(buffer) - position < RECORD_HEADER_LEN:
            return RECORD_HEADER_LEN, False
        size = int.from_bytes(buffer[position : position + 4], "big")
        kind = buffer[position + 4]
        limit = self._limits.get(kind)
        if limit is None:
            raise ParseError(f"unexpected record of type {kind}")
        if size > limit:
            raise ParseError(f"record of type {kind} with {size} bytes, the limit is {limit}")
        return RECORD_HEADER_LEN + size, True

    def _parse(self, frame: bytes) -> tuple[RecordType, bytes]:
        return RecordType(frame[4]), frame[RECORD_HEADER_LEN:]
