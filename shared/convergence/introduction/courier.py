"""One sealed offer on its way: carrier after carrier, until one of them brings the answer.

Does: give every carrier a head start before the next one is asked too, bound what each may bring back.
Does not: read what they bring (links.py), or choose them (ways.py).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from convergence.codes import RtcWhy
from convergence.errors import Why
from convergence.introduction.signalling import MAX_REPLIES, Carrier, Refused
from convergence.outbox import Outbox, Timer
from convergence.states import TIMEOUT, StateMachine, Table

HEAD_START = 1.5
"""Seconds that a carrier has before the next one is asked too. A carrier that cannot reach the node says so at once;
one that says nothing may still bring the answer."""
PATIENCE = 4.0
"""Seconds that silent carriers still have after the last one refused."""
LAST_RESORT = 6.0
"""Seconds after which the first of the last resorts (`Carriers.last`) is asked although there are others."""
ASKING_TIMEOUT = 18.0
"""Seconds that carriers have, all together, to bring the answer."""
MAX_CARRIERS = 8
"""Carriers that are asked for one offer, besides the last resorts."""


class State(Enum):
    """What is awaited."""

    ASKING = auto()  # the answer
    ANSWERED = auto()  # nothing: it carries what follows
    OVER = auto()


COURIER = Table(
    "courier",
    State.ASKING,
    {
        State.ASKING: {"settle": State.ANSWERED, "fail": State.OVER, "stop": State.OVER, TIMEOUT: State.OVER},
        State.ANSWERED: {"stop": State.OVER},
    },
    deadlines={State.ASKING: ASKING_TIMEOUT},
    standing={State.ANSWERED: "its session stops it"},
)


class Carriers(Protocol):
    """The carriers that may lead to one node."""

    def next(self, now: float) -> Carrier | None:
        """The best one that was not given yet."""
        ...

    def last(self, now: float) -> Carrier | None:
        """Whom to ask last, one after the other."""
        ...


class Courier:
    """An offer to one node.

    Args:
        carriers: asked for one after the other, as needed.
        to: the node's identity.
        sealed: the same bytes by every carrier, so that the node can tell a copy.
        heard: called with (sealed, carrier, now) for what comes back; calls `settle` when that is the answer.
        failed: called once with a reason and `now`: all carriers have refused, or none brought the answer in time.

    Attributes:
        carrier: the one that brought the answer, once there is one.
    """

    def __init__(
        self,
        outbox: Outbox,
        carriers: Carriers,
        to: bytes,
        sealed: bytes,
        *,
        heard: Callable[[bytes, Carrier, float], None],
        failed: Refused,
        now: float,
    ) -> None:
        self.carrier: Carrier | None = None
        self._outbox = outbox
        self._carriers = carriers
        self._to = to
        self._sealed = sealed
        self._on_heard = heard
        self._on_failed = failed
        self._machine = StateMachine(COURIER, outbox, self._timed_out, now)
        self._asked = 0
        self._begun = outbox.steady(now)
        self._resorted = False
        self._open: set[int] = set()  # numbers of those that were asked and have not refused
        self._next: Timer | None = None

    def start(self, now: float) -> None:
        self._go_on(Why(RtcWhy.NO_CARRIER), now)

    def settle(self, carrier: Carrier, now: float) -> None:
        """This one brought the answer: no other is asked."""
        self.carrier = carrier
        self._machine.move("settle", now)
        self._cancel()

    def stop(self, now: float) -> None:
        """Nothing is asked or heard any more."""
        if not self._machine.final:
            self._machine.move("stop", now)
        self._cancel()

    def follow_up(self, sealed: bytes, now: float) -> None:
        """Send another message by the carrier that brought the answer. It may get lost."""
        if self.carrier is not None and not self._machine.final:
            self.carrier.signal(self._to, sealed, lambda answer, now: None, lambda reason, now: None, now)

    @property
    def _asking(self) -> bool:
        return self._machine.state is State.ASKING

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def _go_on(self, why: Why | None, now: float) -> None:
        """Ask one more carrier. `why`: the reason that the one before gave for its refusal, if it gave one."""
        if not self._asking:
            return
        self._cancel()
        carrier = self._choose(now)
        if carrier is not None:
            self._ask(carrier, now)
        elif not self._open:
            self._fail(why or Why(RtcWhy.NO_ANSWER), now)
        elif why is not None:
            self._next = self._outbox.call_at(now + PATIENCE, lambda now: self._fail(why, now))

    def _choose(self, now: float) -> Carrier | None:
        carrier = None
        others = self._asked < MAX_CARRIERS
        if others and (self._resorted or self._outbox.steady(now) < self._begun + LAST_RESORT):
            carrier = self._carriers.next(now)
        if carrier is None:
            self._resorted = True
            carrier = self._carriers.last(now)
        if carrier is None and others:
            carrier = self._carriers.next(now)
        return carrier

    def _fail(self, why: Why, now: float) -> None:
        self._machine.move("fail", now)
        self._on_failed(why, now)

    def _ask(self, carrier: Carrier, now: float) -> None:
        self._asked += 1
        number, left = self._asked, MAX_REPLIES
        self._open.add(number)

        def refused(reason: Why, now: float) -> None:
            self._open.discard(number)
            if number == self._asked or not self._open:
                self._go_on(reason, now)

        def answered(sealed: bytes, now: float) -> None:
            nonlocal left
            if left and not self._machine.final:
                left -= 1
                self._on_heard(sealed, carrier, now)

        self._next = self._outbox.call_at(now + HEAD_START, lambda now: self._go_on(None, now))
        carrier.signal(self._to, self._sealed, answered, refused, now)

    def _timed_out(self, state: State, now: float) -> None:
        self._cancel()
        self._on_failed(Why(RtcWhy.NO_ANSWER), now)
