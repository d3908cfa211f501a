"""The points of a hash_name: which nodes they may be, and which of them one end works with.

Does: ask the View for the ring of a name, for more of it when points are silent, and anew when other nodes are known;
walk along it.
Does not: talk to points, or decide who is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from itertools import zip_longest
from typing import Any, TypeAlias

from convergence.netdir.view import Class, Known, View, together
from convergence.outbox import Outbox
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.target import RelayTarget

POINTS = 3  # k: points that a file is advertised at
MAX_WALK = 128  # places of the ring that one end tries, when earlier ones do not answer
MAX_AHEAD = 9  # of them tried at once, beyond those that are wanted
FIRST_ASKED = POINTS + MAX_AHEAD  # places that are asked for first; doubled up to MAX_WALK when these do not do
ASK_LIMIT = 30.0  # seconds until a View that gives no answer is asked again

Answers: TypeAlias = Callable[[RelayTarget], bool | None]
"""Whether a point answers; None while that is not known."""


class RingState(Enum):
    UNUSED = auto()
    ASKING = auto()
    KNOWN = auto()
    OVER = auto()


RING = Table(
    "ring of a name",
    RingState.UNUSED,
    {
        RingState.UNUSED: {"ask": RingState.ASKING, "stop": RingState.OVER},
        RingState.ASKING: {
            "ask": RingState.ASKING,
            "answered": RingState.KNOWN,
            "leave": RingState.UNUSED,
            "stop": RingState.OVER,
            TIMEOUT: RingState.KNOWN,  # so far; and then it asks again
        },
        RingState.KNOWN: {"ask": RingState.ASKING, "leave": RingState.UNUSED, "stop": RingState.OVER},
    },
    deadlines={RingState.ASKING: ASK_LIMIT},
    standing={
        RingState.UNUSED: "the node says where rendezvous points are (Node._set_points)",
        RingState.KNOWN: "other nodes are known, or more of the ring is wanted, or its user stops (`Ring.stop`)",
    },
)


class Ring:
    """Args:
    on_change: called with `now` when the View has answered late. What it answers at once is known when `use` returns.

    Attributes:
        but: identity of a node that is not to be chosen.
    """

    def __init__(self, view: View[Known], outbox: Outbox, name: bytes, on_change: Callable[[float], None]) -> None:
        self.but: bytes | None = None
        self._view = view
        self._name = name
        self._on_change = on_change
        self._machine = StateMachine(RING, outbox, lambda state, now: self._ask(now), 0.0)  # the first state has no end
        self._kind: Class | None = None
        self._count = FIRST_ASKED
        self._asked = self._answered = 0  # numbers of questions: an answer to an earlier one than the last is too late
        self._rings: list[list[RelayTarget]] = []  # one for each value of the ring that counts
        self._tor: list[list[RelayTarget]] = []  # the same of those whom relays of Tor reach

    def __len__(self) -> int:
        """How many places are known."""
        return max(map(len, self._rings), default=0)

    @property
    def usable(self) -> int:
        """How many of these may be chosen."""
        return max((sum(point.identity != self.but for point in ring) for ring in self._rings), default=0)

    def use(self, kind: Class | None, now: float) -> None:
        """Points are of this class; ask which there are now. None: there are none."""
        if kind is not self._kind:
            self._kind, self._answered, self._count = kind, self._asked, FIRST_ASKED
            self._rings = self._tor = []
        if kind is not None:
            self._ask(now)
        elif self._machine.state is not RingState.UNUSED:
            self._machine.move("leave", now)

    def stop(self, now: float) -> None:
        """Nobody wants it any more."""
        self._kind, self._rings, self._tor = None, [], []
        if not self._machine.final:
            self._machine.move("stop", now)

    def choose(self, answers: Answers, wanted: int, now: float) -> list[RelayTarget]:
        """The points to work with, as far as is known: see `walk`."""
        while True:
            rings, tor = (
                [[point for point in ring if point.identity != self.but] for ring in rings]
                for rings in (self._rings, self._tor)
            )
            chosen, ended = walk(rings, tor, answers, wanted)
            more = ended and len(self) >= self._count < MAX_WALK
            if not more or self._machine.state is not RingState.KNOWN:
                return chosen
            self._count = min(2 * self._count, MAX_WALK)
            self._ask(now)

    def _ask(self, now: float) -> None:
        kind = self._kind
        assert kind is not None
        if self._machine.state is not RingState.ASKING:
            self._machine.move("ask", now)
        self._asked += 1
        number, late = self._asked, False

        def answered(rings: list[Any], now: float) -> None:
            if number <= self._answered or kind is not self._kind:
                return
            self._answered = number
            self._rings, self._tor = ([[node.target for node in ring] for ring in found] for found in rings)
            if number == self._asked:
                self._machine.move("answered", now)
            if late:
                self._on_change(now)

        kinds = (kind, Class.TOR_POINTS)
        together([partial(self._view.closest, kind, self._name, self._count, now) for kind in kinds], answered, now)
        late = True


def walk(
    rings: Sequence[Sequence[RelayTarget]], tor: Sequence[Sequence[RelayTarget]], answers: Answers, wanted: int
) -> tuple[list[RelayTarget], bool]:
    """The points that one end of a rendezvous works with, and whether a ring came to its end before there were enough.
    Of each ring these are the first `wanted` that answer, and the silent ones before them, which may answer again. If
    relays of Tor reach none of these, the first that they do reach is one more: an end behind them goes there. Each end
    walks by itself; they meet at points that both reach.

    Args:
        tor: of each ring, the part that relays of Tor reach.
        wanted: how many are to answer, of each ring.
    """
    chosen: dict[bytes, RelayTarget] = {}
    ended = False
    for ring, reached in zip_longest(rings, tor, fillvalue=()):
        points, short = _walk(ring, answers, wanted)
        able = [point for point in reached if answers(point) is not False]
        if not any(point.tor_specifiers and answers(point) is not False for point in points):
            points += able[:1]
        chosen |= {point.identity: point for point in points}
        ended = ended or short
    return list(chosen.values()), ended


def _walk(ring: Sequence[RelayTarget], answers: Answers, wanted: int) -> tuple[list[RelayTarget], bool]:
    chosen: list[RelayTarget] = []
    standing = unknown = silent = 0
    for point in ring[:MAX_WALK]:
        # The more points were silent, the more are tried at once.
        if standing >= wanted or standing + unknown >= wanted + min(silent, MAX_AHEAD):
            return chosen, False
        chosen.append(point)
        answer = answers(point)
        standing += answer is True
        unknown += answer is None
        silent += answer is False
    return chosen, standing < wanted
