"""Merkle trees of RFC 6962's shape: many things under one hash, each of which can be proved alone.

Does: hash leaves into a tree, give proofs, check them.
Does not: know what the leaves are.

A tree is kept as levels of joined 32-byte hashes, level 0 holds the leaves. Each level pairs the hashes of the one
below; an odd last hash moves up as it is, which gives RFC 6962's shape (largest power of two on the left).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from convergence.crypto.kdf import HASH_LEN

EMPTY_ROOT = sha256(b"").digest()
UNKNOWN = bytes(HASH_LEN)  # marks an unknown hash in a level; no input hashes to it


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962 leaf: SHA-256(0x00 | data). The data is not copied."""
    digest = sha256(b"\0")
    digest.update(data)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 node: SHA-256(0x01 | left | right)."""
    return sha256(b"\1" + left + right).digest()


def verify_leaf(root: bytes, count: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `leaf` is the hash of number `index` of the `count` leaves under `root` (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < count:
        return False
    known, last, used = leaf, count - 1, 0
    while last:
        if index ^ 1 <= last:  # there is a neighbour; an odd last hash moves up alone
            if used == len(proof):
                return False
            other = proof[used]
            used += 1
            known = node_hash(other, known) if index & 1 else node_hash(known, other)
        index >>= 1
        last >>= 1
    return used == len(proof) and known == root


class MerkleTree:
    """A tree of `count` leaves, whole or with gaps.

    Whoever has only some leaves, each with the proof that came with it, can prove these to others.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._levels = [bytearray(HASH_LEN * count)]
        while count > 1:
            count = (count + 1) // 2
            self._levels.append(bytearray(HASH_LEN * count))

    @classmethod
    def of(cls, leaves: bytes) -> MerkleTree:
        """The whole tree over joined leaf hashes."""
        tree = cls(len(leaves) // HASH_LEN)
        tree._levels[0][:] = leaves
        for below, level in zip(tree._levels, tree._levels[1:], strict=False):
            hashes = [
                sha256(b"\1" + below[at : at + 64]).digest() if at + 64 <= len(below) else bytes(below[at:])
                for at in range(0, len(below), 64)
            ]
            level[:] = b"".join(hashes)
        return tree

    def copy(self) -> MerkleTree:
        """One that does not change with this one."""
        tree = MerkleTree(0)
        tree.count, tree._levels = self.count, [bytearray(level) for level in self._levels]
        return tree

    @property
    def root(self) -> bytes:
        """32 bytes; SHA-256 of nothing for a tree without leaves."""
        return bytes(self._levels[-1]) or EMPTY_ROOT

    @property
    def leaves(self) -> bytes:
        """The joined leaf hashes, UNKNOWN in the gaps."""
        return bytes(self._levels[0])

    def leaf(self, index: int) -> bytes | None:
        return self._get(0, index)

    def proof(self, index: int) -> list[bytes] | None:
        """The hashes beside the path from leaf to root, leaf's neighbour first; None if one is not known."""
        path = []
        for level in range(len(self._levels) - 1):
            sibling = index ^ 1
            if sibling * HASH_LEN < len(self._levels[level]):
                known = self._get(level, sibling)
                if known is None:
                    return None
                path.append(known)
            index >>= 1
        return path

    def learn(self, index: int, leaf: bytes, proof: Sequence[bytes]) -> None:
        """Keep the hashes of a proof that was verified; or, with the tree's own proof, change a leaf."""
        beside = iter(proof)
        known: bytes = leaf
        for level, hashes in enumerate(self._levels):
            at = index * HASH_LEN
            hashes[at : at + HASH_LEN] = known
            sibling = (index ^ 1) * HASH_LEN
            if level == len(self._levels) - 1:
                return
            if sibling < len(hashes):
                other = next(beside)
                hashes[sibling : sibling + HASH_LEN] = other
                known = node_hash(other, known) if index & 1 else node_hash(known, other)
            index >>= 1

    def _get(self, level: int, index: int) -> bytes | None:
        at = index * HASH_LEN
        known = bytes(self._levels[level][at : at + HASH_LEN])
        return None if known == UNKNOWN else known
