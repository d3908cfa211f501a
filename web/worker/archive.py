"""A ZIP archive around bytes that are elsewhere: what comes before each file, and what ends the archive.

Does: write headers (PKWARE's APPNOTE 6.3) for files that are stored as they are, of any size.
Does not: hold, compress or read files.
"""

from __future__ import annotations

import struct

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_UTF8 = 1 << 11
_UNIX = 3 << 8  # made by: attributes are Unix's
_FILE, _FOLDER = 0o100644 << 16, 0o040755 << 16 | 0x10
_FIRST_DAY = 1 << 5 | 1  # of 1980, when time begins: nothing is said of when files changed
_MOST = 0xFFFFFFFF  # in a field of 32 bits; this means that the number is in the extra field
_VERSION, _VERSION_64 = 20, 45


class Archive:
    """Headers, to be asked for in the order of the files: fewer than 65,535, as a collection has (wire/manifest.py)."""

    def __init__(self) -> None:
        self._at = 0
        self._central: list[bytes] = []

    def file(self, path: str, size: int, crc: int) -> bytes:
        """What comes before the file's bytes."""
        return self._add(path, size, crc, _FILE)

    def folder(self, path: str) -> bytes:
        """A folder with nothing in it."""
        return self._add(f"{path}/", 0, 0, _FOLDER)

    def end(self) -> bytes:
        """What comes after the last file's bytes."""
        central = b"".join(self._central)
        begins, ends = self._at, self._at + len(central)
        parts = [central]
        count = (len(self._central), len(self._central))
        if ends >= _MOST:
            numbers = (*count, len(central), begins)
            parts.append(_END_64.pack(b"PK\6\6", _END_64.size - 12, _UNIX | _VERSION_64, _VERSION_64, 0, 0, *numbers))
            parts.append(_LOCATOR.pack(b"PK\6\7", 0, ends, 1))
        parts.append(_END.pack(b"PK\5\6", 0, 0, *count, len(central), min(begins, _MOST), 0))
        return b"".join(parts)

    def _add(self, path: str, size: int, crc: int, attributes: int) -> bytes:
        name = path.encode()
        large, far = size >= _MOST, self._at >= _MOST
        version = _VERSION_64 if large or far else _VERSION
        small = _MOST if large else size
        sizes = [size, size] * large
        extra, central_extra = _extra(sizes), _extra(sizes + [self._at] * far)
        common = (_UTF8, 0, 0, _FIRST_DAY, crc, small, small, len(name))
        head = _LOCAL.pack(b"PK\3\4", version, *common, len(extra)) + name + extra
        offset = min(self._at, _MOST)
        about = _CENTRAL.pack(
            b"PK\1\2", _UNIX | version, version, *common, len(central_extra), 0, 0, 0, attributes, offset
        )
        self._central.append(about + name + central_extra)
        self._at += len(head) + size
        return head


def _extra(numbers: list[int]) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
