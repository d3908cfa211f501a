"""One sealed offer on its way: carrier after carrier, until one of them brings the answer.

Does: give every carrier its time, bound what each may bring back.
Does not: read what they bring (links.py), or choose them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from convergence.codes import RtcWhy
from convergence.errors import Why
from convergence.introduction.signalling import MAX_REPLIES, Carrier, Refused
from convergence.outbox import Outbox, Timer

ANSWER_TIMEOUT = 4.0  # seconds that a carrier has before the next one is asked too
MAX_CARRIERS = 8  # that are asked for one offer


class Carriers(Protocol):
    """The ways to one node."""

    def next(self, now: float) -> Carrier | None:
        """The best one that was not given yet."""
        ...


class Courier:
    """An offer to one node.

    Args:
        carriers: asked for one after the other, as needed.
        to: the node's identity.
        sealed: the same bytes by every carrier, so that the node can tell a copy.
        heard: called with (sealed, carrier, now) for what comes back; calls `settle` when that is the answer.
        failed: called once with a reason and `now`, when there is no carrier left to ask and the last one refused. One
            that says nothing is waited for, as long as the owner likes.

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
    ) -> None:
        self.carrier: Carrier | None = None
        self._outbox = outbox
        self._carriers = carriers
        self._to = to
        self._sealed = sealed
        self._on_heard = heard
        self._on_failed = failed
        self._asked = 0
        self._stopped = False
        self._timer: Timer | None = None

    def start(self, now: float) -> None:
        self._next(Why(RtcWhy.NO_CARRIER), now)

    def settle(self, carrier: Carrier) -> None:
        """This one brought the answer: no other is asked."""
        self.carrier = carrier
        self._cancel_timer()

    def stop(self) -> None:
        """Nothing is asked or heard any more."""
        self._stopped = True
        self._cancel_timer()

    def follow_up(self, sealed: bytes, now: float) -> None:
        """Send something after the answer, by the way it came. It may get lost."""
        if self.carrier is not None and not self._stopped:
            self.carrier.signal(self._to, sealed, lambda answer, now: None, lambda reason, now: None, now)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _next(self, why: Why, now: float) -> None:
        """Go on to the next carrier; `why` the one before did not do."""
        if not self._ask_another(now):
            self._on_failed(why, now)

    def _ask_another(self, now: float) -> bool:
        """Whether there is one more to ask."""
        self._cancel_timer()
        carrier = self._carriers.next(now) if self._asked < MAX_CARRIERS else None
        if carrier is None:
            return False
        self._asked += 1
        number = self._asked

        def refused(reason: Why, now: float) -> None:
            if number == self._asked and self.carrier is None and not self._stopped:
                self._next(reason, now)

        left = MAX_REPLIES

        def answered(sealed: bytes, now: float) -> None:
            nonlocal left
            if left and not self._stopped:
                left -= 1
                self._on_heard(sealed, carrier, now)

        def late(now: float) -> None:
            if self.carrier is None and not self._stopped:
                self._ask_another(now)

        self._timer = self._outbox.call_at(now + ANSWER_TIMEOUT, late)
        carrier.signal(self._to, self._sealed, answered, refused, now)
        return True
