"""A newcomer at work on a puzzle, so that a facilitator under a flood lets it in.

Does: one try at a time, with pauses in which the node does all else; tell people how far it is.
Does not: know records (client.py), or compute (crypto/puzzle.py).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from convergence.crypto.puzzle import solves
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.facilitator import Puzzle

PAUSE = 0.02
"""Seconds between two tries, which take 0.5 ms in a program, 6 in a page, and about 20 in one on a phone."""
MAX_EFFORT = 4096
"""Tries that a facilitator may ask for: more than an honest one does."""
MAX_TIME = 600.0
"""Seconds until it is given up, whatever the facilitator says."""
TOLD_AFTER = 1.0
"""Seconds after which people are told..."""
TOLD_EVERY = 5.0
"""...and how often."""


class State(Enum):
    """Of one puzzle."""

    WORKING = auto()
    OVER = auto()


WORK = Table(
    "work of a newcomer",
    State.WORKING,
    {State.WORKING: {"end": State.OVER, TIMEOUT: State.OVER}},
    deadlines={State.WORKING: MAX_TIME},
)


class Solver:
    """Args:
    facilitator, identity: who asks, and whose work it is.
    on_solved: called with the number, and `now`; with None if no answer counts any more.
    on_progress: called with how far the work is (percent, as a guess: chance decides), and `now`.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        puzzle: Puzzle,
        facilitator: bytes,
        identity: bytes,
        on_solved: Callable[[int | None, float], None],
        on_progress: Callable[[int, float], None],
        now: float,
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._puzzle = puzzle
        self._facilitator = facilitator
        self._identity = identity
        self._on_solved = on_solved
        self._on_progress = on_progress
        self._number = int.from_bytes(rng.random(7), "big")
        self._tried = 0
        self._until = outbox.steady(now) + puzzle.lifetime
        self._tell_at = outbox.steady(now) + TOLD_AFTER
        self._machine = StateMachine(WORK, outbox, lambda state, now: on_solved(None, now), now)
        self._next: Timer = outbox.call_at(now, self._try)

    def stop(self, now: float) -> None:
        """The answer is of no use any more."""
        self._next.cancel()
        if not self._machine.final:
            self._machine.move("end", now)

    def _try(self, now: float) -> None:
        if self._machine.final:
            return
        steady = self._outbox.steady(now)
        if steady >= self._until:
            self._end(None, now)
        elif solves(self._crypto, self._puzzle, self._facilitator, self._identity, self._number):
            self._end(self._number, now)
        else:
            self._number += 1
            self._tried += 1
            if steady >= self._tell_at:
                self._tell_at = steady + TOLD_EVERY
                self._on_progress(min(100 * self._tried // self._puzzle.effort, 99), now)
            self._next = self._outbox.call_at(now + PAUSE, self._try)

    def _end(self, number: int | None, now: float) -> None:
        self._machine.move("end", now)
        self._on_solved(number, now)
