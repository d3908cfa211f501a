"""File transfer records: what a file's description and the messages inside the Noise channel look like.

Does: parse and encode them, and bind a description to a share link (sharelink.py) by its commitment.
Does not: hash pieces or check proofs (ordb/pieces.py). Received names and types are hostile: no paths, no HTML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import TypeAlias

from convergence.codes import FileFlaw
from convergence.errors import LocalError, ParseError, Problem
from convergence.ports import Buffer
from convergence.wire.reader import Cutter, Reader

HASH_LEN = 32
PIECE_SIZE = 256 * 1024
MIN_PIECE_SIZE = 1024
"""A piece size is a power of two from this to PIECE_SIZE. This program shares every file with PIECE_SIZE."""
MAX_PIECES = 1 << 18
"""Pieces of one file: 64 GiB at the usual piece size. Bounds a tree at 16 MiB: a link's maker chooses its size."""
MAX_SIZE = MAX_PIECES * PIECE_SIZE
MAX_NAME = 1024
"""Bytes of UTF-8 in a file's name."""
MAX_EXTENSION = 32
"""Bytes after a name's last dot that are kept when the name is cut."""
MAX_TYPE = 127
MAX_MANIFEST = 8 << 20
"""Bytes of a collection's manifest: some 160 for each of its 50,000 entries (manifest.py)."""
MAX_PROOF = 64
"""Hashes in a Merkle proof."""
MAX_RANGES = 4096
"""Ranges in one HAVE."""
_COLLECTION = 1  # a kind of file; a single file's description has none
COMMITMENT_PREFIX = b"convergence:key"


def commitment(salt: bytes, info: bytes) -> bytes:
    """The share link's key: a hiding commitment to an encoded FileInfo.

    Args:
        salt: 32 random bytes, kept with the file.
    """
    return sha256(COMMITMENT_PREFIX + salt + info).digest()


def fit_name(name: str) -> str:
    """`name` cut to MAX_NAME bytes, at a character boundary and before its extension. Characters that UTF-8 cannot
    encode become "?"."""
    data = name.encode("utf-8", "replace")
    if len(data) <= MAX_NAME:
        return data.decode()
    stem, dot, extension = data.rpartition(b".")
    if not stem or len(extension) > MAX_EXTENSION:
        stem, dot, extension = data, b"", b""
    room = MAX_NAME - len(dot) - len(extension)
    return stem[:room].decode("utf-8", "ignore") + (dot + extension).decode()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file is.

    Args:
        root: Merkle root, 32 bytes.
        size: bytes.
        name: at most 1,024 bytes of UTF-8.
        media_type: at most 127 printable ASCII characters; may be empty.
        piece_size: bytes of every piece but the last.
        manifest_size: of a collection: the first so many bytes are its manifest (manifest.py). 0 for a single file.
    """

    root: bytes
    size: int
    name: str
    media_type: str = ""
    piece_size: int = PIECE_SIZE
    manifest_size: int = 0

    @property
    def pieces(self) -> int:
        """How many pieces the file has; an empty file has none."""
        return -(-self.size // self.piece_size)

    def encode(self) -> bytes:
        """Raises Problem if the result would not parse."""
        try:
            name, media_type = self.name.encode(), self.media_type.encode("ascii")
            data = self.root + self.size.to_bytes(8, "big") + self.piece_size.to_bytes(4, "big")
            data += len(name).to_bytes(2, "big") + name + bytes([len(media_type)]) + media_type
            if self.manifest_size:
                data += bytes([_COLLECTION]) + self.manifest_size.to_bytes(4, "big")
            FileInfo.parse(data)
        except (ParseError, UnicodeEncodeError, OverflowError, ValueError) as error:
            raise Problem(FileFlaw.NOT_DESCRIBED, detail=str(error)) from None
        return data

    @classmethod
    def parse(cls, data: Buffer) -> FileInfo:
        reader = Reader(data, "file description")
        info = cls._read(reader)
        reader.finish()
        return info

    @classmethod
    def _read(cls, reader: Reader) -> FileInfo:
        root, size, piece_size = reader.take(HASH_LEN), reader.unsigned(8), reader.unsigned(4)
        if not MIN_PIECE_SIZE <= piece_size <= PIECE_SIZE or piece_size & (piece_size - 1):
            raise ParseError("a file's piece size is out of range")
        if size > MAX_PIECES * piece_size:
            raise ParseError("a file's size is out of range")
        name_len = reader.unsigned(2)
        if name_len > MAX_NAME:
            raise ParseError("a file's name is too long")
        try:
            name = reader.take(name_len).decode()
            media_type = reader.take(reader.unsigned(1)).decode("ascii")
        except UnicodeDecodeError:
            raise ParseError("a file's name or type is not text") from None
        if len(media_type) > MAX_TYPE or (media_type and not media_type.isprintable()):
            raise ParseError("a file's type is no media type")
        return cls(root, size, name, media_type, piece_size, cls._read_kind(reader, size) if reader.left else 0)

    @staticmethod
    def _read_kind(reader: Reader, size: int) -> int:
        kind, manifest_size = reader.unsigned(1), reader.unsigned(4)
        if kind != _COLLECTION or not 4 <= manifest_size <= min(size, MAX_MANIFEST):
            raise ParseError("a file is of an unknown kind, or its manifest's size is out of range")
        return manifest_size


class MessageType(IntEnum):
    """Messages inside the Noise channel."""

    INFO = 1
    REQUEST = 2
    PIECE = 3
    REFUSE = 4
    HAVE = 5
    DONE = 6
    QUEUED = 7


class RefuseReason(IntEnum):
    """Why a piece is not sent. Unknown ones are kept as they came."""

    NOT_HERE = 1
    NO_SUCH_PIECE = 2
    BUSY = 3
    STORAGE = 4


@dataclass(frozen=True, slots=True)
class Info:
    """Provider's first message: the salt (32 bytes) and the file's description."""

    salt: bytes = field(repr=False)
    info: FileInfo = field(repr=False)

    def encode(self) -> bytes:
        return self.salt + self.info.encode()

    @classmethod
    def parse(cls, data: Buffer) -> Info:
        reader = Reader(data, "INFO")
        return cls(reader.take(HASH_LEN), FileInfo.parse(reader.rest()))

    def commitment(self) -> bytes:
        """What the share link's key must be."""
        return commitment(self.salt, self.info.encode())


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for one piece."""

    index: int

    def encode(self) -> bytes:
        return self.index.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Request:
        reader = Reader(data, "REQUEST")
        index = _read_index(reader)
        reader.finish()
        return cls(index)


@dataclass(frozen=True, slots=True, repr=False)
class Piece:
    """One piece with its Merkle proof: hashes of 32 bytes from the leaf's sibling upwards."""

    index: int
    proof: tuple[bytes, ...]
    data: bytes

    def encode(self) -> bytes:
        if not 1 <= len(self.data) <= PIECE_SIZE or len(self.proof) > MAX_PROOF:
            raise LocalError("the piece or its proof is too long")
        return self.index.to_bytes(4, "big") + bytes([len(self.proof)]) + b"".join(self.proof) + self.data

    @classmethod
    def parse(cls, data: Buffer) -> Piece:
        """A piece is never empty."""
        reader = Reader(data, "PIECE")
        index, count = _read_index(reader), reader.unsigned(1)
        if count > MAX_PROOF:
            raise ParseError("PIECE's proof is too long")
        proof = tuple(reader.take(HASH_LEN) for _ in range(count))
        if not 1 <= reader.left <= PIECE_SIZE:
            raise ParseError("PIECE is empty or too long")
        return cls(index, proof, reader.rest())


@dataclass(frozen=True, slots=True)
class Refuse:
    """This piece will not come: index and `RefuseReason`."""

    index: int
    reason: int

    def encode(self) -> bytes:
        return self.index.to_bytes(4, "big") + bytes([self.reason])

    @classmethod
    def parse(cls, data: Buffer) -> Refuse:
        reader = Reader(data, "REFUSE")
        index, reason = _read_index(reader), reader.unsigned(1)
        reader.finish()
        return cls(index, reason)


@dataclass(frozen=True, slots=True)
class Have:
    """All pieces the provider has, as (first, count) ranges: ascending, apart, none empty, 4,096 at most."""

    ranges: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        data = b"".join(first.to_bytes(4, "big") + count.to_bytes(4, "big") for first, count in self.ranges)
        try:
            Have.parse(data)
        except ParseError as error:
            raise LocalError(str(error)) from None
        return data

    @classmethod
    def parse(cls, data: Buffer) -> Have:
        if len(data) > 8 * MAX_RANGES:
            raise ParseError("HAVE holds too many ranges")
        reader = Reader(data, "HAVE")
        ranges: list[tuple[int, int]] = []
        end = 0
        while reader.left:
            first, count = reader.unsigned(4), reader.unsigned(4)
            if not count or first + count > MAX_PIECES or first < end or (ranges and first == end):
                raise ParseError("HAVE's ranges are empty, out of order or out of range")
            end = first + count
            ranges.append((first, count))
        return cls(tuple(ranges))


@dataclass(frozen=True, slots=True)
class Done:
    """The client wants nothing more."""

    def encode(self) -> bytes:
        return b""

    @classmethod
    def parse(cls, data: Buffer) -> Done:
        Reader(data, "DONE").finish()
        return cls()


@dataclass(frozen=True, slots=True)
class Queued:
    """The provider is busy: the receiver has this place in its queue, 1 for the next. INFO follows in its turn."""

    position: int

    def encode(self) -> bytes:
        return self.position.to_bytes(2, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Queued:
        reader = Reader(data, "QUEUED")
        position = reader.unsigned(2)
        reader.finish()
        if not position:
            raise ParseError("QUEUED without a place")
        return cls(position)


def _read_index(reader: Reader) -> int:
    index = reader.unsigned(4)
    if index >= MAX_PIECES:
        raise ParseError("piece index out of range")
    return index


Message: TypeAlias = Info | Request | Piece | Refuse | Have | Done | Queued

MESSAGE_CLASSES: dict[int, type[Message]] = {
    MessageType.INFO: Info,
    MessageType.REQUEST: Request,
    MessageType.PIECE: Piece,
    MessageType.REFUSE: Refuse,
    MessageType.HAVE: Have,
    MessageType.DONE: Done,
    MessageType.QUEUED: Queued,
}
MESSAGE_TYPES: dict[type[Message], int] = {cls: kind for kind, cls in MESSAGE_CLASSES.items()}
MESSAGE_LIMITS: dict[int, int] = {
    MessageType.INFO: HASH_LEN + HASH_LEN + 8 + 4 + 2 + MAX_NAME + 1 + MAX_TYPE + 5,
    MessageType.REQUEST: 4,
    MessageType.PIECE: 4 + 1 + MAX_PROOF * HASH_LEN + PIECE_SIZE,
    MessageType.REFUSE: 5,
    MessageType.HAVE: 8 * MAX_RANGES,
    MessageType.DONE: 0,
    MessageType.QUEUED: 2,
}
MESSAGE_HEADER_LEN = 4


def encode_message(message: Message) -> bytes:
    """One framed message: type, length of the body (3 bytes), body."""
    body = message.encode()
    return bytes([MESSAGE_TYPES[type(message)]]) + len(body).to_bytes(3, "big") + body


class MessageCutter(Cutter[Message]):
    """Cuts the decrypted byte stream into messages. Holds at most one incomplete PIECE (258 KiB)."""

    def _measure(self, buffer: bytearray, position: int) -> tuple[int, bool]:
        if len(buffer) - position < MESSAGE_HEADER_LEN:
            return MESSAGE_HEADER_LEN, False
        kind = buffer[position]
        size = int.from_bytes(buffer[position + 1 : position + MESSAGE_HEADER_LEN], "big")
        limit = MESSAGE_LIMITS.get(kind)
        if limit is None:
            raise ParseError(f"unknown message of type {kind}")
        if size > limit:
            raise ParseError(f"message of type {kind} with {size} bytes, the limit is {limit}")
        return MESSAGE_HEADER_LEN + size, True

    def _parse(self, frame: bytes) -> Message:
        return MESSAGE_CLASSES[frame[0]].parse(memoryview(frame)[MESSAGE_HEADER_LEN:])
