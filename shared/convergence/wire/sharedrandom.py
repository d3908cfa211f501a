"""What facilitators tell each other, and everybody later, when they draw the shared random value of a day.

Does: parse and encode commitments and whole draws; sign and verify commitments (by callback).
Does not: decide who takes part, or when (netdir/draw.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.certs import SIGNATURE_LEN, Sign, Verify
from convergence.wire.descriptor import KEY_LEN
from convergence.wire.reader import Reader

COMMIT_PREFIX = b"convergence:commit:1"
NUMBER_LEN = 32
MAX_FACILITATORS = 16
"""That take part in one draw."""
MAX_DRAW = MAX_FACILITATORS * (4 + KEY_LEN + NUMBER_LEN + SIGNATURE_LEN + 1 + NUMBER_LEN)
"""2,640 bytes."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A facilitator binds itself to a number that nobody else knows yet.

    Args:
        day: on which the value is in use: days since 1970, UTC.
        facilitator: Ed25519 identity.
        commitment: hides the number (32 bytes; netdir/draw.py).
        signature: over "convergence:commit:1" and `body()`; empty while not signed.
    """

    day: int
    facilitator: bytes
    commitment: bytes
    signature: bytes = b""

    def body(self) -> bytes:
        """All but the signature."""
        return self.day.to_bytes(4, "big") + self.facilitator + self.commitment

    def sign(self, sign: Sign) -> Commit:
        return replace(self, signature=sign(COMMIT_PREFIX + self.body()))

    def verify(self, verify: Verify) -> bool:
        """Whether the facilitator it names signed it."""
        return verify(self.facilitator, self.signature, COMMIT_PREFIX + self.body())

    def encode(self) -> bytes:
        return self.body() + self.signature

    @classmethod
    def parse(cls, data: Buffer) -> Commit:
        reader = Reader(data, "commit")
        commit = cls.read(reader)
        reader.finish()
        return commit

    @classmethod
    def read(cls, reader: Reader) -> Commit:
        return cls(reader.unsigned(4), reader.take(KEY_LEN), reader.take(NUMBER_LEN), reader.take(SIGNATURE_LEN))


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """Asks for the draw of a day's value."""

    day: int

    def encode(self) -> bytes:
        return self.day.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> DrawRequest:
        reader = Reader(data, "request for a draw")
        request = cls(reader.unsigned(4))
        reader.finish()
        return request


@dataclass(frozen=True, slots=True)
class Draw:
    """A day's commitments in order of facilitator, and the numbers of those that revealed theirs; None for the others.
    Anybody can compute the value from it, and the value before."""

    parts: tuple[tuple[Commit, bytes | None], ...] = ()

    def encode(self) -> bytes:
        """Raises LocalError for more than MAX_FACILITATORS."""
        if len(self.parts) > MAX_FACILITATORS:
            raise LocalError(f"{MAX_FACILITATORS} facilitators draw at most")
        return b"".join(
            commit.encode() + (b"\0" if number is None else b"\1" + number) for commit, number in self.parts
        )

    @classmethod
    def parse(cls, data: Buffer) -> Draw:
        """Raises ParseError unless all parts are for one day, and each of another facilitator."""
        reader = Reader(data, "draw")
        parts: list[tuple[Commit, bytes | None]] = []
        while reader.left:
            if len(parts) == MAX_FACILITATORS:
                raise ParseError(f"draw of more than {MAX_FACILITATORS} facilitators")
            commit, revealed = Commit.read(reader), reader.unsigned(1)
            if revealed > 1:
                raise ParseError("draw with a part that is neither revealed nor not")
            parts.append((commit, reader.take(NUMBER_LEN) if revealed else None))
        names = [commit.facilitator for commit, _ in parts]
        if names != sorted(set(names)) or len({commit.day for commit, _ in parts}) > 1:
            raise ParseError("draw whose parts do not belong together")
        return cls(tuple(parts))
