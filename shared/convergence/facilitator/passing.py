"""Signals that are to be passed to other facilitators: many at once, and of every source its part.

Does: gather what is to be passed while the store carries out what went before, and tell each facilitator all of its
signals in one piece; when too much waits, let the source that has most give way; say at once what is not passed.
Does not: know channels and pipes (exchange.py), or how the store is (sharing.py).

Only so much is asked of the store at once: what has to be written never waits behind many signals. And what was sealed
first is asked first, as all that is told has to be: the others ignore a number that comes after a higher one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from convergence.effects import Failure
from convergence.facilitator.crowd import Turns
from convergence.facilitator.sharing import Sharing
from convergence.outbox import Outbox
from convergence.wire.facilitator import UnreachableReason
from convergence.wire.sharing import MAX_PASSED, Back, Forward, Passed

MAX_WAITING = 8192
"""Signals and answers that wait: 7 MB as a rule, 17 MB at worst."""
MAX_REFUSALS = 8192
"""Refusals that wait, which go first, half of a piece at most: 1 MB."""

Lost = Callable[[UnreachableReason, float], None]
"""Called as lost(why, now), at once or later, if something was not passed as far as is known."""


@dataclass(slots=True, eq=False)
class _Waiting:
    source: Hashable
    to: bytes
    item: Forward | Back
    lost: Lost


class Passing:
    """All that waits."""

    def __init__(self, outbox: Outbox, sharing: Sharing) -> None:
        self._outbox = outbox
        self._sharing = sharing
        self._signals: Turns[_Waiting] = Turns(MAX_WAITING)
        self._refusals: Turns[_Waiting] = Turns(MAX_REFUSALS)
        self._under_way = 0  # pieces

    def signal(self, to: bytes, source: Hashable, item: Forward | Back, lost: Lost, now: float) -> None:
        """Pass a signal, or what answers one, to a facilitator. `source`: whose part of the places it takes."""
        self._add(self._signals, _Waiting(source, to, item, lost), now)

    def refuse(self, to: bytes, source: Hashable, item: Back, now: float) -> None:
        """As `signal`, for what is short and the last word. One that is lost is lost."""
        self._add(self._refusals, _Waiting(source, to, item, lambda why, now: None), now)

    def _add(self, queue: Turns[_Waiting], item: _Waiting, now: float) -> None:
        spare = queue.add(item)
        if spare is not None:
            spare.lost(UnreachableReason.BUSY, now)
        self._outbox.flush_later(self)

    def flush(self, now: float) -> bool:
        if self._under_way:
            return False
        pieces: dict[bytes, list[_Waiting]] = {}
        first = (MAX_PASSED + 1) // 2  # of them refusals: however many there are, something else is passed
        for place in range(min(len(self._refusals) + len(self._signals), MAX_PASSED)):
            refusal = self._refusals and (place < first or not self._signals)
            item = (self._refusals if refusal else self._signals).take()
            pieces.setdefault(item.to, []).append(item)
        for to, items in pieces.items():
            self._tell(to, items, now)
        return False

    def _tell(self, to: bytes, items: list[_Waiting], now: float) -> None:
        def told(result: Any, now: float) -> None:
            self._under_way -= 1
            lost = items if isinstance(result, Failure) or result == 0 else []  # 0: nobody listens there any more
            why = UnreachableReason.UNKNOWN if result == 0 else UnreachableReason.BUSY
            if isinstance(result, Failure):
                lost += (self._signals.take() for _ in range(len(self._signals)))
            for item in lost:
                item.lost(why, now)
            self._outbox.flush_later(self)

        self._under_way += 1
        self._sharing.tell(to, Passed(tuple(item.item for item in items)), now, told)
