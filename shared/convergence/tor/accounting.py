"""How much a relay may carry in a period, over restarts: it hibernates once that is used up.

Does: count what was relayed in this period, keep the count, say when the allowance is used up and when the next period
begins. Periods begin at whole multiples of their length since 1970, so that nothing has to be kept of them.
Does not: hibernate (relay.py), or limit the rate (link/throttle.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convergence.outbox import Outbox, Timer

LOOK = 10.0  # seconds between two looks at what was relayed; at most so much more than allowed passes
KEEP = 60.0  # seconds between two times that the count is kept
BUCKET, KEY = "tor-relay", b"accounting"
COUNT_LEN = 8


@dataclass(frozen=True, slots=True)
class Allowance:
    """So many bytes in each period of so many seconds."""

    size: int
    period: int


class Accounting:
    """Args:
    allowance: None for no limit: nothing happens then.
    relayed: gives the bytes relayed since the start.
    on_change: (over, now): the allowance is used up, or a new period has begun.
    """

    def __init__(
        self,
        outbox: Outbox,
        allowance: Allowance | None,
        relayed: Callable[[], int],
        on_change: Callable[[bool, float], None],
    ) -> None:
        self.over = False
        self._outbox = outbox
        self._allowance = allowance
        self._relayed = relayed
        self._on_change = on_change
        self._period = 0
        self._used = 0
        self._seen = 0  # of `relayed`, when it was looked at last
        self._kept_at = 0.0
        self._timer: Timer | None = None

    def start(self, now: float, ready: Callable[[float], None]) -> None:
        """Read what was used before, then call `ready`."""
        allowance = self._allowance
        if allowance is None:
            ready(now)
            return
        self._period = int(now) // allowance.period

        def loaded(value: Any, now: float) -> None:
            if isinstance(value, bytes) and len(value) == 2 * COUNT_LEN:
                period, used = (int.from_bytes(part, "big") for part in (value[:COUNT_LEN], value[COUNT_LEN:]))
                if period == self._period:
                    self._used = used
            if self._used >= allowance.size:
                self._set(True, now)
            else:
                ready(now)
            self._timer = self._outbox.call_at(now + LOOK, self._look)

        self._outbox.load(BUCKET, KEY, loaded)

    def stop(self, now: float) -> None:
        """Keep the count."""
        if self._timer is not None:
            self._timer.cancel()
            self._count()
            self._keep(now)

    def _look(self, now: float) -> None:
        allowance = self._allowance
        assert allowance is not None
        self._timer = self._outbox.call_at(now + LOOK, self._look)
        self._count()
        period = int(now) // allowance.period
        if period != self._period:
            self._period, self._used = period, 0
        if now >= self._kept_at + KEEP or now < self._kept_at:
            self._keep(now)
        over = self._used >= allowance.size
        if over is not self.over:
            self._keep(now)
            self._set(over, now)

    def _set(self, over: bool, now: float) -> None:
        self.over = over
        self._on_change(over, now)

    def _count(self) -> None:
        relayed = self._relayed()
        self._used += relayed - self._seen
        self._seen = relayed

    def _keep(self, now: float) -> None:
        """What cannot be kept is counted anew after a restart."""
        self._kept_at = now
        value = self._period.to_bytes(COUNT_LEN, "big") + self._used.to_bytes(COUNT_LEN, "big")
        self._outbox.store([(BUCKET, KEY, value)])
