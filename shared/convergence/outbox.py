"""The asking end of the boundary: one Outbox a node, handed to every layer that needs its shell.

Does: collect effects, number channels and requests, keep who waits for which answer, and keep timers.
Does not: perform anything, or know what the effects are for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, TypeAlias
from typing import Protocol as Shape

from convergence.effects import Connect, Consult, Effect, Failure, Load, Protocol, Resolve, Scan, Store

FEW_TIMERS = 64
"""Timers that are kept without a look at which of them were cancelled."""

Reply: TypeAlias = Callable[[Any, float], None]
"""Called as reply(result or Failure, now)."""


class Flushable(Shape):
    """Gathers output while input is handled and passes it on, in one go, before the driver polls."""

    def flush(self, now: float) -> bool:
        """True: call again before the next poll, when the shell has taken what was given."""
        ...


class Timer:
    """A pending call. `cancel` is idempotent."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[float], None]) -> None:
        self._call: Callable[[float], None] | None = call

    def cancel(self) -> None:
        self._call = None

    @property
    def pending(self) -> bool:
        return self._call is not None

    def fire(self, now: float) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(now)


def ignore(result: object, now: float) -> None:
    """A Reply that nobody needs."""


class Outbox:
    """Collects effects until the driver polls.

    Attributes:
        shifted: seconds by which the clock has jumped so far, jumps back counted less than zero.
    """

    def __init__(self) -> None:
        self.shifted = 0.0
        self._effects: list[Effect] = []
        self._replies: dict[int, Reply] = {}
        self._requests = count(1)
        self._channels = count(1, 2)
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_order = count()
        self._crowded = FEW_TIMERS  # timers, at which those that were cancelled are taken out
        self._to_flush: dict[Flushable, None] = {}
        self._shifted: dict[int, Callable[[float], None]] = {}

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def connect(self, protocol: Protocol, address: str, source: Hashable = None) -> int:
        """Ask for a channel; its number is odd. `source`: on whose behalf, as in limits.py."""
        channel = next(self._channels)
        self._effects.append(Connect(channel, protocol, address, source))
        return channel

    def store(self, items: Sequence[tuple[str, bytes, bytes | None]], reply: Reply = ignore) -> None:
        """What could not be stored holds until this process ends; `reply` is for those who do more about it."""
        self._effects.append(Store(self._expect(reply), items))

    def load(self, bucket: str, key: bytes, reply: Reply) -> None:
        self._effects.append(Load(self._expect(reply), bucket, key))

    def scan(self, bucket: str, prefix: bytes, reply: Reply) -> None:
        self._effects.append(Scan(self._expect(reply), bucket, prefix))

    def resolve(self, host: str, reply: Reply, source: Hashable = None) -> None:
        self._effects.append(Resolve(self._expect(reply), host, source))

    def consult(self, question: object, reply: Reply) -> None:
        self._effects.append(Consult(self._expect(reply), question))

    def call_at(self, when: float, call: Callable[[float], None]) -> Timer:
        """Call `call(now)` once `when` (Unix seconds) has come."""
        if len(self._timers) >= self._crowded:
            # In place: Python's garbage collector looks into a new list, however long, three times.
            self._timers[:] = [item for item in self._timers if item[2].pending]
            heapify(self._timers)
            self._crowded = max(2 * len(self._timers), FEW_TIMERS)
        timer = Timer(call)
        heappush(self._timers, (when, next(self._timer_order), timer))
        return timer

    def on_shift(self, call: Callable[[float], None]) -> Callable[[], object]:
        """`call(by)` when the clock jumped: for times that are kept to be compared with `now`. Call what this returns
        to hear no more of it."""
        number = next(self._requests)
        self._shifted[number] = call
        return lambda: self._shifted.pop(number, None)

    def shift(self, by: float) -> None:
        """The clock jumped: all timers go on as if it had not, neither all at once nor hours late."""
        self.shifted += by
        self._timers = [(when + by, order, timer) for when, order, timer in self._timers]
        for call in list(self._shifted.values()):
            call(by)

    def steady(self, now: float) -> float:
        """`now` on a clock that never jumps, for times that are kept to be compared with later ones."""
        return now - self.shifted

    def flush_later(self, item: Flushable) -> None:
        """Call `item.flush(now)` once before the next poll ends, however often this was asked for."""
        self._to_flush[item] = None

    def done(self, request: int, result: Any | Failure, now: float) -> None:
        """The shell answered a request. An answer nobody waits for is ignored."""
        reply = self._replies.pop(request, None)
        if reply is not None:
            reply(result, now)

    def run_timers(self, now: float) -> None:
        """Fire what is due now; what a timer sets for now or earlier waits for the next call, so this ends."""
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heappop(self._timers))
        due.reverse()
        try:
            while due:
                due.pop()[2].fire(now)
        finally:
            for timer in due:  # one that fails takes none with it
                heappush(self._timers, timer)

    def deadline(self) -> float | None:
        """When `run_timers` is wanted next."""
        while self._timers and not self._timers[0][2].pending:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def poll(self, now: float) -> list[Effect]:
        """All effects since the last poll, in order. `now` is the time of the latest input."""
        again: dict[Flushable, None] = {}
        try:
            while self._to_flush:
                item = next(iter(self._to_flush))
                del self._to_flush[item]
                if item.flush(now):
                    again[item] = None
        finally:
            self._to_flush |= again
        effects, self._effects = self._effects, []
        return effects

    def _expect(self, reply: Reply) -> int:
        request = next(self._requests)
        self._replies[request] = reply
        return request
