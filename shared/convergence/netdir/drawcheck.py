"""Whether the shared random value of a day was drawn as it was announced on the day before.

Does: ask the facilitator for the draw when a day begins, and judge it by what headers said; tell of a lie, of a draw
that is not shown, and of one that cannot be judged because the announcement was not seen.
Does not: carry the question (facilitator/client.py), or judge itself (draw.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from convergence.chance import fraction
from convergence.codes import FacilitatorWhy
from convergence.errors import ParseError, Why
from convergence.events import DrawChecked, Trouble
from convergence.netdir.draw import Verdict, judge
from convergence.netdir.headers import Headers
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.wire.buckets import DAY, HASH_LEN, EpochHeader
from convergence.wire.sharedrandom import Draw

WITHIN = 1800.0
"""Seconds after the first header of a day within which the facilitator is asked: not by all nodes at once."""
RETRY = 600.0
"""Seconds until it is asked again..."""
ATTEMPTS = 3
"""...if it does not show the draw; so many answers are enough."""

Ask: TypeAlias = Callable[[int, Callable[[bytes | None, float], None], float], None]
"""ask(day, then, now): then(an encoded Draw, now) follows, with None if nobody can be asked."""


class DrawCheck:
    """Call `header` when there is a newer header."""

    def __init__(self, outbox: Outbox, crypto: Crypto, rng: Rng, headers: Headers, ask: Ask) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._headers = headers
        self._ask = ask
        self._day = 0  # whose value was looked at last
        self.said: DrawChecked | None = None
        """What was found of that; None while nothing is."""

    def header(self, now: float) -> None:
        newest, before = self._headers.newest, self._headers.yesterday
        if newest is None or newest.published // DAY <= self._day:
            return
        self._day = newest.published // DAY
        self.said = None
        if before is None or before.published // DAY != self._day - 1 or before.committed == bytes(HASH_LEN):
            self._say(DrawChecked(self._day, announced=False))
        else:
            self._later(before, newest, ATTEMPTS, WITHIN * fraction(self._rng), now)

    def _say(self, said: DrawChecked) -> None:
        self.said = said
        self._outbox.emit(said)

    def _later(self, before: EpochHeader, header: EpochHeader, left: int, pause: float, now: float) -> None:
        self._outbox.call_at(now + pause, lambda now: self._go(before, header, left, now))

    def _go(self, before: EpochHeader, header: EpochHeader, left: int, now: float) -> None:
        day = header.published // DAY

        def answered(raw: bytes | None, now: float) -> None:
            try:
                draw = Draw.parse(raw or b"")
            except ParseError:
                draw = Draw()
            value, verify = header.value, self._crypto.ed25519_verify
            verdict = judge(draw, day, before.committed, header.before, value, verify)
            if verdict is Verdict.HOLDS:
                counted = sum(number is not None for _, number in draw.parts)
                self._say(DrawChecked(day, announced=True, committed=len(draw.parts), counted=counted))
            elif verdict is Verdict.FALSE:
                proof = {"first": before.encode().hex(), "second": header.encode().hex(), "draw": draw.encode().hex()}
                self._outbox.emit(Trouble(Why(FacilitatorWhy.FALSE_VALUE, proof)))
            elif raw is not None and left == 1:
                self._outbox.emit(Trouble(Why(FacilitatorWhy.HIDES_DRAW)))
            else:
                self._later(before, header, left - (raw is not None), RETRY, now)

        if self._day == day:  # else another day has begun
            self._ask(day, answered, now)
