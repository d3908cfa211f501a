"""What strangers may cost a node: so many events a second or a minute, each of them once, and a fair part of what all
of them share.

Does: count events, and remember keys, within named limits of memory; say who gives way when all is taken. Times are
Unix seconds; a clock that jumps neither gives nor takes anything, because all of them are compared on the outbox's
steady clock.
Does not: know what is counted. A *source* is whoever limits count by; None is this node itself.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable
from typing import Protocol as Shape
from typing import TypeVar

from convergence.outbox import Outbox

MINUTE = 60.0
MAX_KEYS = 4096
"""Keys that one `PerMinute` counts at once; beyond them a new key gets nothing."""


class Held(Shape):
    """One of the places that all sources share."""

    @property
    def source(self) -> Hashable:
        """Who has it."""
        ...


H = TypeVar("H", bound=Held)


def gives_way(places: Collection[H], source: Hashable) -> H | None:
    """Which place `source` gets when all are taken: the first one of the source that has most. None if `source` would
    then have as many. So whoever has less than its equal part always gets one."""
    counts = Counter(place.source for place in places)
    crowded = max(counts, key=lambda source: counts[source], default=source)
    if counts[source] + 1 >= counts[crowded]:
        return None
    return next(place for place in places if place.source == crowded)


def below_its_part(sources: Iterable[Hashable], source: Hashable, limit: int) -> bool:
    """Whether `source` has less than its equal part of `limit`, for what nobody can give up. `sources` names the holder
    of each that is taken, or counts what each holds. If whoever is below its part may go beyond `limit`, nobody shuts
    out others, and there are `most_in_parts(limit)` at most."""
    counts = sources if isinstance(sources, Counter) else Counter(sources)
    return counts[source] < limit // (len(counts) + (source not in counts))


def most_in_parts(limit: int) -> int:
    """How many there can be if sources come one by one and each takes its equal part: 207 for 50."""
    return sum(limit // sources for sources in range(1, limit + 1))


class TokenBucket:
    """So many events a second, and so many at once after a pause.

    Args:
        rate: events a second.
        burst: events at once.
    """

    __slots__ = ("left", "_outbox", "_rate", "_burst", "_counted")

    def __init__(self, outbox: Outbox, rate: float, burst: float) -> None:
        self.left = burst
        """Events that are allowed now, as of the last `refill`. Below zero it is a debt, which time pays back."""
        self._outbox = outbox
        self._rate = rate
        self._burst = burst
        self._counted = float("-inf")

    def refill(self, now: float) -> None:
        steady = self._outbox.steady(now)
        self.left = min(self.left + max(steady - self._counted, 0.0) * self._rate, self._burst)
        self._counted = steady

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Whether one more is allowed now. If so, it is counted as so many."""
        self.refill(now)
        allowed = self.left >= cost
        self.left -= cost * allowed
        return allowed

    def is_full(self, now: float) -> bool:
        """Whether it is as if nothing had ever come."""
        self.refill(now)
        return self.left == self._burst

    @property
    def debt(self) -> float:
        """Seconds until the debt is paid back."""
        return max(-self.left / self._rate, 0.0)


class PerMinute:
    """At most `limit` events a key in any minute."""

    def __init__(self, outbox: Outbox, limit: int) -> None:
        self._outbox = outbox
        self._limit = limit
        self._spent: dict[Hashable, deque[float]] = {}  # times of events; the key with the oldest latest one first

    def allows(self, key: Hashable, now: float) -> bool:
        """Whether one more is within the limit."""
        steady = self._outbox.steady(now)
        while self._spent:
            oldest = next(iter(self._spent))
            if steady - self._spent[oldest][-1] < MINUTE:
                break
            del self._spent[oldest]
        times = self._spent.get(key)
        if times is None:
            return len(self._spent) < MAX_KEYS
        while steady - times[0] >= MINUTE:
            times.popleft()
        return len(times) < self._limit

    def spend(self, key: Hashable, now: float) -> bool:
        """Count one more, unless it is over the limit: then nothing is counted and the answer is False."""
        if not self.allows(key, now):
            return False
        times = self._spent.pop(key, None) or deque()
        times.append(self._outbox.steady(now))
        self._spent[key] = times
        return True


class SharedPerMinute:
    """At most `limit` events in any minute. Beyond them, sources below their equal part still get theirs."""

    def __init__(self, outbox: Outbox, limit: int) -> None:
        self._outbox = outbox
        self._limit = limit
        self._spent: deque[tuple[float, Hashable]] = deque()  # when, and whose; `most_in_parts` of the limit at most

    def allows(self, source: Hashable, now: float) -> bool:
        """Whether one more of this source is within the limit."""
        steady = self._outbox.steady(now)
        while self._spent and steady - self._spent[0][0] >= MINUTE:
            self._spent.popleft()
        return len(self._spent) < self._limit or below_its_part(
            (spender for _, spender in self._spent), source, self._limit
        )

    def spend(self, source: Hashable, now: float) -> bool:
        """Count one more, unless it is over the limit: then nothing is counted and the answer is False."""
        allowed = self.allows(source, now)
        if allowed:
            self._spent.append((self._outbox.steady(now), source))
        return allowed


class Once:
    """Tells the first time from any later one.

    Args:
        lifetime: seconds a key is remembered; afterwards it has to be refused for its age, elsewhere.
        limit: keys remembered at once. Beyond it every new key is refused: a key forgotten early could be used again.
    """

    def __init__(self, outbox: Outbox, lifetime: float, limit: int) -> None:
        self._outbox = outbox
        self._lifetime = lifetime
        self._limit = limit
        self._seen: dict[Hashable, float] = {}  # key -> when it came; the oldest first

    def seen(self, key: Hashable, now: float) -> bool:
        """Whether the key is remembered."""
        steady = self._outbox.steady(now)
        while self._seen:
            oldest = next(iter(self._seen))
            if steady - self._seen[oldest] <= self._lifetime:
                break
            del self._seen[oldest]
        return key in self._seen

    def first(self, key: Hashable, now: float) -> bool:
        """Whether this is the first time; it is remembered then."""
        if self.seen(key, now) or len(self._seen) >= self._limit:
            return False
        self._seen[key] = self._outbox.steady(now)
        return True
