"""Padding of the link between a client and its guard (padding-spec "Connection-level padding").

Whoever records the flows of a line sees one end where it is silent for 10 seconds or more. Both ends of a link see to
it that it never is: then only the sum of half an hour is recorded.

Does: send a PADDING cell when our side was silent for a random time; do as PADDING_NEGOTIATE asks.
Does not: pad links between relays, which carry the traffic of many, or follow the parameters of a consensus.
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.outbox import Outbox, Timer
from convergence.ports import Rng
from convergence.wire.padding import PaddingCommand, PaddingNegotiate

LOW, HIGH = 1.5, 9.5
"""Seconds of silence after which a link is padded, at least and at most: nf_ito_low and nf_ito_high of the consensus,
by their default."""


class Padding:
    """One side's.

    Args:
        send: sends one PADDING cell.
    """

    def __init__(self, outbox: Outbox, rng: Rng, send: Callable[[float], None], now: float) -> None:
        self._outbox = outbox
        self._rng = rng
        self._send = send
        self._low, self._high = LOW, HIGH
        self._silent_since = 0.0
        self._timer: Timer | None = None
        self.sent(now)
        self._wait(now)

    @property
    def pads(self) -> bool:
        """Whether the other side wants it."""
        return self._timer is not None

    def sent(self, now: float) -> None:
        """Cells were handed to the transport. Cheap: the timer looks again when it fires."""
        self._silent_since = self._outbox.steady(now)

    def negotiate(self, wish: PaddingNegotiate, now: float) -> None:
        """Do as a client asks. Times out of range are taken as the nearest that is in it (tor-spec "Link padding")."""
        self.stop()
        if wish.command is PaddingCommand.START:
            self._low = max(wish.low / 1000, LOW)
            self._high = max(wish.high / 1000 or HIGH, self._low)
            self._wait(now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, now: float) -> None:
        """The longer of two random times, as the specification has it (padding-spec section 2.3)."""
        drawn = self._rng.random(8)
        part = max(int.from_bytes(drawn[:4], "big"), int.from_bytes(drawn[4:], "big")) / 2**32
        self._silence = self._low + (self._high - self._low) * part
        self._timer = self._outbox.call_at(now + self._silence, self._look)

    def _look(self, now: float) -> None:
        due = self._silent_since + self._outbox.shifted + self._silence
        if now < due:
            self._timer = self._outbox.call_at(due, self._look)
            return
        self._send(now)
        self.sent(now)
        self._wait(now)
