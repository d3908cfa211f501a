"""What newcomers pay while too many come: work, so that a flood of made-up nodes is dear.

Does: set the price by how many come, give puzzles, check answers within a budget.
Does not: know records or who is no newcomer (service.py), or compute (crypto/puzzle.py).

Nobody pays while no more come than the network bears. Each time as many as a period bears have come before it is over,
the price doubles; after each period with less than half as many it falls by a third (as in Tor's proposal 327, which
controls effort by additive increase and multiplicative decrease). Only who was admitted counts, so nobody makes others
pay for nothing. Those who are known, and renewals, pay nothing.

A puzzle is for one channel, which registers one node, and has a fresh random seed: no answer can be computed before,
used twice, or used by another node. Checking an answer costs as much as one try at it. So all answers together have a
budget, of which each source gets its equal part, and a wrong answer ends its channel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from convergence.crypto.puzzle import solves
from convergence.events import PriceChanged
from convergence.limits import SharedPerMinute
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.wire.facilitator import SEED_LEN, Puzzle

PERIOD = 10.0
"""Seconds for which newcomers are counted."""
FREE_A_MINUTE = 120
"""Newcomers that a network of any size bears..."""
PART_A_MINUTE = 10
"""...and one for so many nodes that there are: browsers stay for minutes, so that 7 % of them come anew each minute if
half are gone after ten."""
FIRST_EFFORT = 16
"""Tries: less is not worth a round trip."""
MAX_EFFORT = 1024
"""Tries: half a second of one processor core with libsodium, and with the pauses of an honest node (solving.py) 20 s of
a program, half a minute of a page, 40 s of a phone."""
LIFETIME = 180
"""Seconds in which an answer counts, whatever the price becomes meanwhile. Whoever needs longer gets another puzzle."""
CHECKS_A_MINUTE = 12_000
"""Answers that are checked: a tenth of a processor core."""


class Newcomers:
    """Args:
    identity: the facilitator's.
    count: how many nodes there are.
    """

    def __init__(self, outbox: Outbox, crypto: Crypto, rng: Rng, identity: bytes, count: Callable[[], int]) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._identity = identity
        self._count = count
        self._checks = SharedPerMinute(outbox, CHECKS_A_MINUTE)
        self._new: set[int] = set()  # channels on which newcomers register
        self._asked: dict[int, tuple[Puzzle, float]] = {}  # by channel: and until when (steady time)
        self._began = float("-inf")  # the present period, in steady time
        self._came = 0  # since then
        self.effort = 0
        """The price, in tries."""

    def puzzle(self, channel: int, now: float) -> Puzzle | None:
        """What a newcomer on this channel has to solve: the same for as long as it counts. None while nobody pays."""
        self._turn(now)
        self._new.add(channel)
        steady = self._outbox.steady(now)
        puzzle, until = self._asked.get(channel, (None, steady))
        if puzzle is not None and steady < until:
            return puzzle
        self._asked.pop(channel, None)
        if not self.effort:
            return None
        puzzle = Puzzle(self._rng.random(SEED_LEN), self.effort, LIFETIME)
        self._asked[channel] = puzzle, steady + LIFETIME
        return puzzle

    def may_check(self, source: Hashable, now: float) -> bool:
        """Whether one more answer of this source is checked now. If so, it is counted."""
        return self._checks.spend(source, now)

    def check(self, puzzle: Puzzle, identity: bytes, number: int) -> bool:
        """Whether the node solved this puzzle."""
        return solves(self._crypto, puzzle, self._identity, identity, number)

    def admitted(self, channel: int, now: float) -> None:
        """The node of this channel is registered. Does nothing if it is no newcomer."""
        if channel not in self._new:
            return
        self.forget(channel)
        self._turn(now)
        self._came += 1
        if self._came > self._bears():
            self._begin(now)
            self._set(min(max(2 * self.effort, FIRST_EFFORT), MAX_EFFORT))

    def forget(self, channel: int) -> None:
        """The channel is closed, or its newcomer is one no more."""
        self._new.discard(channel)
        self._asked.pop(channel, None)

    def _bears(self) -> float:
        """Newcomers that a period bears."""
        return max(FREE_A_MINUTE, self._count() / PART_A_MINUTE) * PERIOD / 60

    def _turn(self, now: float) -> None:
        """Periods that are over lower the price."""
        steady = self._outbox.steady(now)
        while steady >= self._began + PERIOD and self.effort:
            if 2 * self._came < self._bears():
                lower = self.effort * 2 // 3
                self._set(lower if lower >= FIRST_EFFORT else 0)
            self._began += PERIOD
            self._came = 0
        if steady >= self._began + PERIOD:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._began = self._outbox.steady(now)
        self._came = 0

    def _set(self, effort: int) -> None:
        if effort != self.effort:
            self.effort = effort
            self._outbox.emit(PriceChanged(effort))
