"""The log of releases: a list that only grows, and the Merkle tree over it (RFC 9162, section 2.1).

Does: read the log's text; compute the root over its first lines; make and verify proofs that a line is in it.
Does not: sign anything, or decide which root to trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pynode.published.manifest import Refused, is_digest, is_version, version_order

MAX_LINES = 100_000
MAX_LINE = 128
"""Bytes: a version, a space, 64 hex digits."""
MAX_LOG = 8 << 20
"""Bytes of releases.txt."""
MAX_PROOF = 17
"""Hashes of an inclusion proof: the depth of a tree over MAX_LINES."""


class Head(NamedTuple):
    """The log at some time: how many lines it had, and the root over them (32 bytes)."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Log:
    """Args:
    lines: `<version> <root hash>` of each release, the oldest first.
    """

    lines: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Log:
        """Read releases.txt from untrusted bytes. Raises Refused."""
        if len(data) > MAX_LOG or data.count(b"\n") > MAX_LINES:
            raise Refused("the log of releases is too long")
        if data and not data.endswith(b"\n"):
            raise Refused("the log of releases ends within a line")
        lines = tuple(data.split(b"\n")[:-1])
        versions, roots = set(), set()
        for number, line in enumerate(lines, 1):
            version, _, root = line.decode("ascii", "replace").partition(" ")
            if len(line) > MAX_LINE or not is_version(version) or not is_digest(root):
                raise Refused(f"line {number} of the log of releases is not a version with its root hash")
            versions.add(version)
            roots.add(root)
        # A version with two roots would be two programs under one name.
        if not len(versions) == len(roots) == len(lines):
            raise Refused("the log of releases has a version or a root hash twice")
        return cls(lines)

    def encode(self) -> bytes:
        """releases.txt."""
        return b"".join(line + b"\n" for line in self.lines)

    def head(self, size: int | None = None) -> Head:
        """The head of the first `size` lines, or of all lines. Raises Refused when there are fewer than `size`."""
        if size is None:
            size = len(self.lines)
        if size > len(self.lines):
            raise Refused(f"the log of releases has only {len(self.lines)} of {size} lines")
        return Head(size, tree_root(self.lines[:size]))

    def find(self, version: str, root: str) -> int | None:
        """The index of a release's line, from 0. Raises Refused when the log gives this version another root hash, or
        this root hash another version."""
        for index, line in enumerate(self.lines):
            there, _, digest = line.decode().partition(" ")
            if (there == version) != (digest == root):
                raise Refused(f"the log of releases has version {there} with root hash {digest}")
            if there == version:
                return index
        return None

    def with_release(self, version: str, root: str) -> Log:
        """The log with this release in it. If it is not there yet, it goes to the end.

        Raises:
            Refused: as `find` does, or the log has a version that is as new: then everybody would take this release for
                a roll-back.
        """
        if self.find(version, root) is not None:
            return self
        if len(self.lines) >= MAX_LINES:
            raise Refused("the log of releases is full")
        newest = max((line.decode().partition(" ")[0] for line in self.lines), key=version_order, default="")
        if newest and version_order(version) <= version_order(newest):
            raise Refused(f"the log of releases has version {newest} already, and {version} is no later one")
        return Log((*self.lines, release_line(version, root)))


def release_line(version: str, root: str) -> bytes:
    """A line of the log, without its end: the data of the tree's leaf."""
    return f"{version} {root}".encode()


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1: 32 bytes."""
    level = [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        level = _next_level(level)
    return level[0] if level else hashlib.sha256().digest()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1: the hashes beside the way from a leaf to the root, lowest first."""
    proof, level = [], [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        if (beside := index ^ 1) < len(level):
            proof.append(level[beside])
        level, index = _next_level(level), index // 2
    return proof


def root_by_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root of the tree of `size` leaves that has `leaf` at `index`, if the proof is right (RFC 9162, section
    2.1.3.2). Raises Refused when no such tree has a proof of this shape."""
    if not 0 <= index < size:
        raise Refused("the release is not within its log")
    last, found = size - 1, leaf_hash(leaf)
    hashes = iter(proof)
    try:
        while last:
            if index % 2:
                found = node_hash(next(hashes), found)
            elif index < last:
                found = node_hash(found, next(hashes))
            index, last = index // 2, last // 2
    except StopIteration:
        raise Refused("the proof that the release is in the log is too short") from None
    if next(hashes, None) is not None:
        raise Refused("the proof that the release is in the log is too long")
    return found


def _next_level(level: Sequence[bytes]) -> list[bytes]:
    """A hash without a neighbour goes up as it is. This splits at the largest power of two, as the RFC does."""
    above = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return above + [level[-1]] if len(level) % 2 else above
