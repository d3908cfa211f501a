"""Limits on what strangers may cost a node that answers introductions: so many messages, and each of them once.

Does: count events per key in a sliding minute, remember which messages were taken, within named limits of memory.
Does not: know what is counted, or read messages (links.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

MINUTE = 60.0
MAX_KEYS = 4096
"""Keys that one budget counts at once; beyond them a new key gets nothing."""


class Budget:
    """At most `limit` events a key in any minute. `now` goes backwards only by what `shift` is told."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._spent: dict[Hashable, deque[float]] = {}  # times of events; the key with the oldest latest one first

    def allows(self, key: Hashable, now: float) -> bool:
        """Whether one more is within the budget."""
        while self._spent:
            oldest = next(iter(self._spent))
            if now - self._spent[oldest][-1] < MINUTE:
                break
            del self._spent[oldest]
        times = self._spent.get(key)
        if times is None:
            return len(self._spent) < MAX_KEYS
        while now - times[0] >= MINUTE:
            times.popleft()
        return len(times) < self._limit

    def spend(self, key: Hashable, now: float) -> bool:
        """Count one more, unless it is over the budget: then nothing is counted and the answer is False."""
        if not self.allows(key, now):
            return False
        times = self._spent.pop(key, None) or deque()
        times.append(now)
        self._spent[key] = times
        return True

    def shift(self, by: float) -> None:
        """The clock jumped."""
        self._spent = {key: deque(when + by for when in times) for key, times in self._spent.items()}


class Once:
    """Tells the first time from any later one.

    Args:
        lifetime: seconds a key is remembered; afterwards it has to be refused for its age, elsewhere.
        limit: keys remembered at once. Beyond it every new key is refused: a key forgotten early could be used again.
    """

    def __init__(self, lifetime: float, limit: int) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._seen: dict[Hashable, float] = {}  # key -> when it came; the oldest first

    def seen(self, key: Hashable, now: float) -> bool:
        """Whether the key is remembered. `now` goes backwards only by what `shift` is told."""
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] <= self._lifetime:
                break
            del self._seen[oldest]
        return key in self._seen

    def first(self, key: Hashable, now: float) -> bool:
        """Whether this is the first time; it is remembered then."""
        if self.seen(key, now) or len(self._seen) >= self._limit:
            return False
        self._seen[key] = now
        return True

    def shift(self, by: float) -> None:
        """The clock jumped."""
        self._seen = {key: when + by for key, when in self._seen.items()}
