"""DER (X.690), the little of it that RSA keys and X.509 certificates are made of.

Does: read elements one after the other; refuse any form but the shortest.
Does not: know what they mean.
"""

from __future__ import annotations

from convergence.errors import ParseError
from convergence.wire.reader import Reader

INTEGER, BIT_STRING, SEQUENCE = 0x02, 0x03, 0x30


class Der(Reader):
    """Reads DER elements in order; of each, only the shortest form of its length is taken, up to 65,535 bytes."""

    def element(self) -> tuple[int, bytes, bytes]:
        """The next one: its tag, its content, and all of it."""
        tag, size = self.unsigned(1), self.unsigned(1)
        head = bytes([tag, size])
        if size >= 0x80:
            more = size & 0x7F
            if more not in (1, 2):
                raise ParseError("DER with a length that is too long")
            size = self.unsigned(more)
            if size < (0x80, 0x100)[more - 1]:
                raise ParseError("DER with a length that could be shorter")
            head += size.to_bytes(more, "big")
        content = self.take(size)
        return tag, content, head + content

    def content(self, tag: int) -> bytes:
        """The content of the next element, which has this tag."""
        found, content, _ = self.element()
        if found != tag:
            raise ParseError(f"DER element {found:#x} in place of {tag:#x}")
        return content

    def expect(self, whole: bytes) -> None:
        """Read one known element."""
        if self.element()[2] != whole:
            raise ParseError("DER element of an unknown algorithm")

    def natural(self) -> int:
        """An INTEGER of at least 1."""
        content = self.content(INTEGER)
        if not any(content) or content[0] >= 0x80 or (content[0] == 0 and content[1] < 0x80):
            raise ParseError("DER integer that is not positive or not minimal")
        return int.from_bytes(content, "big")

    def bits(self) -> bytes:
        """A BIT STRING of whole bytes."""
        content = self.content(BIT_STRING)
        if not content or content[0] != 0:
            raise ParseError("DER bit string that is not whole bytes")
        return content[1:]
