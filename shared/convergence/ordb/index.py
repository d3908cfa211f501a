"""What a file is on the network: pieces, and the record a node keeps of a file it can serve.

Does: hash pieces into a tree (crypto/merkle.py), commit to a FileInfo, encode the stored record.
Does not: verify what a peer sent, read or write storage, know streams.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from convergence.codes import FileFlaw
from convergence.crypto.merkle import MerkleTree, leaf_hash
from convergence.errors import LocalError, ParseError, Problem
from convergence.wire.ordb import HASH_LEN, MAX_PIECES, MAX_SIZE, PIECE_SIZE, FileInfo, commitment

_RECORD = struct.Struct(">B32s32s32sH")  # version, hash_name, key, salt, length of the FileInfo
_OTHERS, _OWNERS = 1, 2  # versions: an owner's record has his secret before the FileInfo
_COUNT = struct.Struct(">I")


def piece_length(size: int, index: int, piece_size: int = PIECE_SIZE) -> int:
    """Bytes in piece `index` of a file of `size` bytes."""
    return min(piece_size, size - index * piece_size)


def piece_key(root: bytes, index: int) -> bytes:
    """Key of a piece in the bucket "piece": root (32 bytes) and index (4 bytes)."""
    return root + _COUNT.pack(index)


def file_key(root: bytes, hash_name: bytes) -> bytes:
    """Key of a shared file's record in the bucket "file": the same content may be shared under several links."""
    return root + hash_name


class FileBuilder:
    """Hashes a file, piece by piece.

    The caller stores each piece under `piece_key` once the root is known, or under a name of its own until then.
    """

    def __init__(self) -> None:
        self._size = 0
        self._leaves: list[bytes] = []

    @property
    def size(self) -> int:
        """Bytes added so far."""
        return self._size

    def add(self, piece: bytes) -> None:
        """The next piece. All but the last have PIECE_SIZE bytes; none is empty.

        Raises LocalError for any other length, and Problem past MAX_PIECES.
        """
        if not 0 < len(piece) <= PIECE_SIZE or self._size % PIECE_SIZE:
            raise LocalError(f"every piece but the last has {PIECE_SIZE} bytes")
        if len(self._leaves) == MAX_PIECES:
            raise Problem(FileFlaw.TOO_LARGE, most=MAX_SIZE)
        self._size += len(piece)
        self._leaves.append(leaf_hash(piece))

    def finish(self, name: str, media_type: str = "", manifest_size: int = 0) -> tuple[FileInfo, bytes]:
        """The FileInfo and the joined leaf hashes.

        Args:
            manifest_size: of a collection, whose manifest was added first (wire/manifest.py).
        """
        leaves = b"".join(self._leaves)
        root = MerkleTree.of(leaves).root
        return FileInfo(root, self._size, name, media_type, manifest_size=manifest_size), leaves


@dataclass(frozen=True, slots=True)
class SharedFile:
    """What a node keeps of a file it serves (bucket "file", `file_key`) or fetches (bucket "transfer", key hash_name).

    Args:
        leaves: the joined leaf hashes; a record of an unfinished transfer has none.
        secret: of its owner, who made the link: the X25519 secret, 32 bytes, whose public key is the hash_name.
    """

    hash_name: bytes
    key: bytes
    salt: bytes
    info: FileInfo
    leaves: bytes = b""
    secret: bytes | None = None

    @classmethod
    def share(
        cls, info: FileInfo, leaves: bytes, hash_name: bytes, salt: bytes, secret: bytes | None = None
    ) -> SharedFile:
        """The record of a file to be shared; salt and secret are 32 fresh random bytes each."""
        return cls(hash_name, commitment(salt, info.encode()), salt, info, leaves, secret)

    def __repr__(self) -> str:
        return f"SharedFile(size={self.info.size}, complete={self.complete})"

    @property
    def complete(self) -> bool:
        """Whether the node had every piece when it wrote the record."""
        return len(self.leaves) == HASH_LEN * self.info.pieces

    def encode(self) -> bytes:
        info = self.info.encode()
        version = _OTHERS if self.secret is None else _OWNERS
        head = _RECORD.pack(version, self.hash_name, self.key, self.salt, len(info)) + (self.secret or b"")
        return b"".join((head, info, _COUNT.pack(len(self.leaves) // HASH_LEN), self.leaves))

    @classmethod
    def parse(cls, data: bytes) -> SharedFile:
        """Raises ParseError for what `encode` did not write."""
        if len(data) < _RECORD.size:
            raise ParseError("file record: too short")
        version, hash_name, key, salt, info_length = _RECORD.unpack_from(data)
        if version not in (_OTHERS, _OWNERS):
            raise ParseError(f"file record: version {version} is not known")
        start = _RECORD.size + (HASH_LEN if version == _OWNERS else 0)
        at = start + info_length
        if len(data) < at + _COUNT.size:
            raise ParseError("file record: too short")
        secret = data[_RECORD.size : start] or None
        info = FileInfo.parse(data[start:at])
        (count,) = _COUNT.unpack_from(data, at)
        leaves = data[at + _COUNT.size :]
        if count > MAX_PIECES or count not in (0, info.pieces) or len(leaves) != count * HASH_LEN:
            raise ParseError("file record: wrong number of leaves")
        return cls(hash_name, key, salt, info, leaves, secret)
