"""The shared random values as one facilitator has them: of today, of the day before, and the draw of the next one.

Does: take part in each draw, take what others contribute, go over to what was drawn when a day begins, keep all that
over restarts, and tell everybody who asks.
Does not: run a draw (drawing.py), ask others (partners.py), or store anything (publisher.py).
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256

from convergence.errors import ParseError, RemoteError
from convergence.facilitator.drawing import Drawing
from convergence.netdir.draw import COMMIT_PHASE, NOTHING, commitment_of, number_of, value_of
from convergence.outbox import Outbox
from convergence.ports import Crypto
from convergence.wire.buckets import DAY, SharedValue
from convergence.wire.reader import Reader
from convergence.wire.sharedrandom import Commit, Draw

MAX_MISSED = 30
"""Days without a facilitator, or by which its clock may be behind what it stored, after which the chain of values
begins anew."""


class Draws:
    """Args:
    seed: Ed25519 seed of the facilitator's identity, 32 bytes.
    others: identities of the other facilitators that take part.
    """

    def __init__(self, outbox: Outbox, crypto: Crypto, seed: bytes, others: Collection[bytes]) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._seed = seed
        self._identity = crypto.ed25519_public(seed)
        self._facilitators = {self._identity, *others}
        self.day = 0  # of the value in use; 0 until there is one
        self.value = self.before = SharedValue(bytes(32), 0)
        self._drawn = NOTHING  # which gave the value
        self._drawing: Drawing | None = None  # of the next day's value

    def turn(self, now: float) -> bool:
        """Take over what was drawn when a day begins; say what is due of the next draw. Returns whether anything
        changed. A clock that was set back changes nothing."""
        today, before = int(now // DAY), self.encode()
        if abs(today - self.day) > MAX_MISSED:
            self.day, self._drawing = today, None
            # Everybody may know this value ahead: no node is old enough for it.
            self.value = SharedValue(sha256(b"convergence:first value" + self._identity).digest(), 0)
            self.before = SharedValue(bytes(32), 0)
        while self.day < today:
            self.day += 1
            self._drawn = NOTHING if self._drawing is None else self._drawing.draw
            self.value, self.before = value_of(self._drawn, self.day, self.value), self.value
            self._drawing = None
        if self._drawing is None:
            self._draw(NOTHING)
        if today == self.day:
            self._say(now)
        return before != self.encode()

    def hear(self, draw: Draw, now: float) -> bool:
        """What somebody says of the next draw. Each part of it proves itself, or changes nothing. Returns whether
        anything changed."""
        drawing, before = self._drawing, self.encode()
        if drawing is None:
            return False
        for commit, number in draw.parts:
            with suppress(RemoteError):
                drawing.commit(commit, now)
            if number is not None:
                with suppress(RemoteError):
                    drawing.reveal(commit.facilitator, number, now)
        return before != self.encode()

    def committed(self, now: float) -> bytes | None:
        """What a header says of the commitments to the next value."""
        return None if self._drawing is None else self._drawing.committed(now)

    def draw(self, day: int) -> Draw:
        """What is known of the draw that gave today's value, or of the one of tomorrow's."""
        if self._drawing is not None and day == self._drawing.day:
            return self._drawing.draw
        return self._drawn if day == self.day else NOTHING

    def heard_from(self, facilitator: bytes, now: float) -> bool:
        """Whether all is known that this one can say by now of the next draw."""
        said = {commit.facilitator: number for commit, number in self.draw(self.day + 1).parts}
        return said.get(facilitator) is not None if now % DAY >= COMMIT_PHASE else facilitator in said

    def encode(self) -> bytes:
        """day u32 | value | value before | its draw, length u16 before it | draw of the next one."""
        drawn, drawing = self._drawn.encode(), NOTHING if self._drawing is None else self._drawing.draw
        values = self.day.to_bytes(4, "big") + self.value.encode() + self.before.encode()
        return values + len(drawn).to_bytes(2, "big") + drawn + drawing.encode()

    def restore(self, data: bytes, now: float) -> None:
        """Go on from what was kept, or agreed on with others. What was heard besides of the same draw stays. Raises
        ParseError."""
        reader = Reader(data, "kept draw")
        day, value, before = reader.unsigned(4), SharedValue.read(reader), SharedValue.read(reader)
        drawn, kept = Draw.parse(reader.take(reader.unsigned(2))), Draw.parse(reader.rest())
        if not day:
            raise ParseError("kept draw of no day")
        heard = self._drawing
        self.day, self.value, self.before, self._drawn = day, value, before, drawn
        self._draw(kept)
        if heard is not None and heard.day == day + 1:
            self.hear(heard.draw, now)

    def _draw(self, kept: Draw) -> None:
        self._drawing = Drawing(self._outbox, self._crypto, self.day + 1, self._facilitators, kept)

    def _say(self, now: float) -> None:
        """Commit until noon, reveal afterwards."""
        drawing = self._drawing
        assert drawing is not None
        number = number_of(self._seed, drawing.day)
        commit = Commit(drawing.day, self._identity, commitment_of(self._identity, drawing.day, number))
        with suppress(RemoteError):  # another one with our key has said something else
            if now % DAY < COMMIT_PHASE:
                drawing.commit(commit.sign(lambda message: self._crypto.ed25519_sign(self._seed, message)), now)
            elif any(other.facilitator == self._identity for other, _ in drawing.draw.parts):
                drawing.reveal(self._identity, number, now)
