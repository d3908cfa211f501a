"""How fast a node's links may send what it relays, all together.

Does: count tokens, say how much a link may send now, wake links in turn when there are tokens again.
Does not: know what is relayed and what is the node's own; each link tells them apart.
"""

from __future__ import annotations

import math
from typing import Protocol as Shape

from convergence.limits import TokenBucket
from convergence.outbox import Outbox, Timer
from convergence.wire.cells import CELL_LEN

BURST = 1.0  # seconds of the rate that may be saved up
MIN_BURST = 64 * CELL_LEN  # bytes that may be saved up at any rate
WAKE = 0.02  # seconds at least between two times that waiting links are woken


class Waiting(Shape):
    """A link, as the throttle sees it."""

    def release(self) -> None:
        """There are tokens: try again."""
        ...


class Throttle:
    """One token bucket, of bytes. A link sends whole buffers, so it may take more than there is. Links then wait until
    the debt is paid back.

    Args:
        rate: bytes/s; None for no limit.
        burst: bytes that may be saved up; None for what comes in BURST seconds.
    """

    def __init__(self, outbox: Outbox, rate: int | None = None, burst: int | None = None) -> None:
        self.rate = rate
        self._burst = burst
        self._outbox = outbox
        self._bucket = self._bucket_of(rate)
        self._waiting: dict[Waiting, None] = {}  # in turn order: the first is next
        self._timer: Timer | None = None

    def set_rate(self, rate: int | None, now: float, burst: int | None = None) -> None:
        """Change the rate. Saved tokens beyond the new burst are lost; links that wait try again."""
        self._burst = burst
        before, self._bucket = self._bucket, self._bucket_of(rate)
        if before is not None and self._bucket is not None:
            before.refill(now)
            self._bucket.refill(now)
            self._bucket.left = min(before.left, self._bucket.left)
        self.rate = rate
        self._wake(now)

    def allowance(self, now: float) -> float:
        """How many bytes a link may send now; 0 if it has to wait. While other links wait, a new one gets 0 and goes
        behind them."""
        if self._bucket is None:
            return math.inf
        if self._timer is not None:
            return 0.0
        self._bucket.refill(now)
        return max(self._bucket.left, 0.0)

    def settle(self, link: Waiting, sent: int, more: bool, now: float) -> None:
        """A link has sent this many bytes of its allowance. If it has `more` to send, it waits; if it sent anything, it
        goes behind all others."""
        if self._bucket is not None:
            self._bucket.left -= sent
        if sent or not more:
            self._waiting.pop(link, None)
        if more:
            self._waiting.setdefault(link)
            self._wait(now)

    def forget(self, link: Waiting) -> None:
        """The link is closed."""
        self._waiting.pop(link, None)

    def _bucket_of(self, rate: int | None) -> TokenBucket | None:
        return None if rate is None else TokenBucket(self._outbox, rate, max(self._burst or rate * BURST, MIN_BURST))

    def _wait(self, now: float) -> None:
        if self._timer is None and self._bucket is not None and self.rate is not None:
            needed = max(self.rate * WAKE, CELL_LEN) - self._bucket.left
            self._timer = self._outbox.call_at(now + needed / self.rate, self._wake)

    def _wake(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for link in list(self._waiting):
            link.release()
