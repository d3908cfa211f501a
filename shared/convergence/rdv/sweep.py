"""When a node looks for the points of its names again: part by part of the ring, so that names which stand close
together are found by one look-up, each part at times of its own.

Does: put names in an order in which those of one bucket follow each other; say when each part of the ring is due.
Does not: look (ring.py), or know what the names are for.

Amino, the DHT of IPFS, sweeps the range of keys from one end to the other ("Provide Sweep" of Kubo 0.39). Here that
would tell relays in many buckets which look-ups are of one node. So each part is swept at random, again and again, its
names in no order, and the next time at another distance from the other parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from convergence.chance import fraction
from convergence.netdir.headers import EPOCH
from convergence.netdir.view import place_of_name
from convergence.outbox import Outbox, Timer
from convergence.ports import Rng

PARTS_BITS = 6
"""The ring is swept in 64 parts. In a network of a million nodes each is at most 256 buckets, which a node can keep
while it sweeps them (`buckets.MAX_BYTES`); in one of 1,000, less than a bucket."""
EVERY_NAME = 10.0
"""Seconds for each name until a part is swept again, give or take half: a look-up in ten seconds, however many names
there are."""
SOONEST, LATEST = EPOCH, 3 * 3600
"""Bounds of that. Points of a day only go, which their circuits tell, or come back after less than an hour."""
WITHIN = EPOCH
"""Seconds in which the names of a part are looked for: a bucket serves for so long (`buckets.USED_WITHIN`)."""
CHANGE = 1200.0
"""Seconds after a midnight within which each part begins to be swept in the order of the new value, while points in the
order of the old one count too (`bucketview.OVERLAP`)."""
_BITS = 64


class Sweep:
    """Args:
    names: all of them, at any time.
    look: called with one of them and `now`; perhaps with one that has gone meanwhile.
    """

    def __init__(
        self, outbox: Outbox, rng: Rng, names: Collection[bytes], look: Callable[[bytes, float], None]
    ) -> None:
        self._outbox = outbox
        self._rng = rng
        self._names = names
        self._look = look
        self._value: bytes | None = None
        self._mask = 0
        self._timers: dict[int, Timer] = {}  # of each part that has names, or had some

    @property
    def on(self) -> bool:
        """Whether looking costs anything."""
        return self._value is not None

    def order(self, name: bytes) -> int:
        """What names are sorted by to be looked for: those of one bucket stand together, however large it is, but
        buckets do not follow each other as on the ring."""
        assert self._value is not None
        return int.from_bytes(place_of_name(self._value, name)[: _BITS // 8], "big") ^ self._mask

    def use(self, values: Sequence[bytes], now: float) -> bool:
        """Sweep the ring in the order of the first of these values, all of which count now (`View.values`), from now
        on; not at all, if there are none. Returns whether what was found before still counts."""
        known = self._value in values
        if not values or self._value != values[0]:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            self._value = values[0] if values else None
            self._mask = int.from_bytes(self._rng.random(_BITS // 8), "big") if values else 0
            for name in self._names if values else ():
                self._add(self._part(name), CHANGE * fraction(self._rng) if known else self._pause(), now)
        return known

    def add(self, name: bytes, now: float) -> None:
        """One more, which is looked for now."""
        self._add(self._part(name), self._pause(), now)

    def _add(self, part: int, pause: float, now: float) -> None:
        if part not in self._timers:
            self._timers[part] = self._outbox.call_at(now + pause, partial(self._sweep, part))

    def _part(self, name: bytes) -> int:
        return self.order(name) >> (_BITS - PARTS_BITS)

    def _pause(self) -> float:
        return min(max(EVERY_NAME * len(self._names), SOONEST), LATEST) * (0.5 + fraction(self._rng))

    def _sweep(self, part: int, now: float) -> None:
        del self._timers[part]
        names = [name for name in self._names if self._part(name) == part]
        for name in names:
            self._outbox.call_at(now + WITHIN * fraction(self._rng), partial(self._look, name))
        if names:
            self._add(part, self._pause(), now)
