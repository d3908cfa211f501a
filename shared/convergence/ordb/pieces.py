"""Which pieces of a file are there.

Does: keep a set of pieces as a bitmap.
Does not: verify pieces (crypto/merkle.py), fetch, store, or choose them.
"""

from __future__ import annotations

from collections.abc import Iterable

from convergence.errors import LocalError
from convergence.wire.ordb import HASH_LEN


class PieceSet:
    """Which of `count` pieces are there. A bitmap in one integer: bit i is piece i."""

    __slots__ = ("bits", "count")

    def __init__(self, count: int, bits: int = 0) -> None:
        self.count = count
        self.bits = bits

    @classmethod
    def full(cls, count: int) -> PieceSet:
        return cls(count, (1 << count) - 1)

    @classmethod
    def of_keys(cls, count: int, keys: Iterable[bytes]) -> PieceSet:
        """From the keys that a scan of the bucket "piece" gave (root | index); other keys are left out."""
        present = bytearray(-(-count // 8))
        for key in keys:
            index = int.from_bytes(key[HASH_LEN:], "big")
            if len(key) == HASH_LEN + 4 and index < count:
                present[index >> 3] |= 1 << (index & 7)
        return cls(count, int.from_bytes(present, "little"))

    def __contains__(self, index: int) -> bool:
        return bool(self.bits >> index & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    @property
    def complete(self) -> bool:
        return len(self) == self.count

    def add(self, index: int) -> None:
        self.bits |= 1 << index

    def discard(self, index: int) -> None:
        self.bits &= ~(1 << index)

    def add_range(self, first: int, count: int) -> None:
        """Raises LocalError when the range does not lie within the set."""
        if not 0 <= first <= first + count <= self.count:
            raise LocalError("pieces past the end of the file")
        self.bits |= ((1 << count) - 1) << first

    def missing(self) -> PieceSet:
        """The pieces that are not there."""
        return PieceSet(self.count, PieceSet.full(self.count).bits & ~self.bits)

    def first(self) -> int | None:
        """The lowest piece that is there."""
        return (self.bits & -self.bits).bit_length() - 1 if self.bits else None

    def indexes(self) -> list[int]:
        return [index for first, count in self.ranges() for index in range(first, first + count)]

    def ranges(self) -> list[tuple[int, int]]:
        """Runs of pieces that are there, as (first, count)."""
        text = f"{self.bits:b}"[::-1] + "0"  # character i is piece i; str.find runs in C
        ranges = []
        first = text.find("1")
        while first >= 0:
            end = text.find("0", first)
            ranges.append((first, end - first))
            first = text.find("1", end)
        return ranges
