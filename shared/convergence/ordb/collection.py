"""A collection that is being fetched: where its files lie, and which pieces some of them need.

Does: hold the manifest to the collection's size, and lay its files out.
Does not: parse entries (wire/manifest.py), fetch, or save.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convergence.errors import ParseError
from convergence.ordb.pieces import PieceSet
from convergence.wire.manifest import Entry, parse_manifest
from convergence.wire.ordb import FileInfo


class Collection:
    """Files and empty folders, in the order of their bytes.

    Raises ParseError if the sizes do not sum up.
    """

    def __init__(self, info: FileInfo, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.starts: list[int] = []  # where each entry's bytes begin
        self._info = info
        end = info.manifest_size
        for entry in entries:
            self.starts.append(end)
            end += entry.size or 0
        if end != info.size:
            raise ParseError("a manifest's sizes do not sum up")

    @classmethod
    def parse(cls, info: FileInfo, manifest: bytes) -> Collection:
        """Raises ParseError."""
        return cls(info, parse_manifest(manifest))

    def size(self, chosen: Iterable[int]) -> int:
        """Bytes of these entries."""
        return sum(self.entries[number].size or 0 for number in chosen)

    def span(self, number: int) -> tuple[int, int]:
        """The first piece that an entry has bytes in, and how many."""
        size = self.entries[number].size
        return _span(self._info, self.starts[number], size) if size else (0, 0)

    def has(self, number: int, present: PieceSet) -> bool:
        """Whether all pieces of an entry are there."""
        first, count = self.span(number)
        return not ~(present.bits >> first) & ((1 << count) - 1)

    def pieces(self, chosen: Iterable[int]) -> PieceSet:
        """What has to be fetched for these entries; the manifest too."""
        pieces = manifest_pieces(self._info)
        first = end = 0  # a run of pieces that is not added yet: entries are many, and a large set is slow to change
        for number in sorted(chosen):
            start, count = self.span(number)
            if start > end:
                pieces.add_range(first, end - first)
                first = start
            end = max(end, start + count)
        pieces.add_range(first, end - first)
        return pieces


def manifest_pieces(info: FileInfo) -> PieceSet:
    """Those that the manifest has bytes in; none for a single file."""
    pieces = PieceSet(info.pieces)
    if info.manifest_size:
        pieces.add_range(*_span(info, 0, info.manifest_size))
    return pieces


def _span(info: FileInfo, start: int, size: int) -> tuple[int, int]:
    first = start // info.piece_size
    return first, (start + size - 1) // info.piece_size + 1 - first
