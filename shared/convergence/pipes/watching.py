"""Stages that watch what passes and leave it as it is: a meter and a tee.

Does: count bytes and when they passed, each way; copy all bytes of a way into another pipe.
Does not: slow what it watches, or fail it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from convergence.errors import EndReason
from convergence.pipes.duplex import Duplex
from convergence.pipes.stage import Plain, Stage, StageEnd


class Passed(Plain[bytes]):
    """What passed one way."""

    def __init__(self, time: Callable[[float], float]) -> None:
        self.bytes = 0
        self.first: float | None = None  # when the first bytes passed, and the last ones so far
        self.last: float | None = None
        self.ended: float | None = None
        self._time = time

    def feed(self, data: bytes, now: float) -> Iterable[bytes]:
        self.bytes += len(data)
        self.last = self._time(now)
        if self.first is None:
            self.first = self.last
        return (data,)

    def finish(self, now: float) -> Iterable[bytes]:
        self.ended = self._time(now)
        return ()


class Meter(Stage[bytes, bytes]):
    """Counts. `sent` is what passed from near to far, `received` the reverse.

    Args:
        time: makes of `now` what is kept, such as `Outbox.steady`, which a clock that is set does not move.
    """

    def __init__(self, time: Callable[[float], float] = lambda now: now) -> None:
        self.sent, self.received = Passed(time), Passed(time)
        super().__init__(self.sent, self.received)


class _Copying(Plain[bytes]):
    def __init__(self, sink: Duplex | None) -> None:
        self.sink = sink

    def feed(self, data: bytes, now: float) -> Iterable[bytes]:
        if self.sink is not None:
            self.sink.write(data, now)
            if self.sink.congested:
                self.lose(EndReason.RESOURCELIMIT, now)
        return (data,)

    def finish(self, now: float) -> Iterable[bytes]:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.end(now)
        return ()

    def lose(self, code: int, now: float) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.abort(code, now)


class Tee(Stage[bytes, bytes]):
    """Copies. A sink gets all bytes of its way, and its end. One that is congested is aborted with RESOURCELIMIT, so
    that a copy has no gaps and what waits for a sink is what that sink takes before it is congested (`HIGH` for a
    stage). If the way is aborted, so is the sink, with the same code.

    Args:
        sent: the sink for what passes from near to far.
        received: the sink for the reverse.
    """

    def __init__(self, sent: Duplex | None = None, received: Duplex | None = None) -> None:
        self._copies = _Copying(sent), _Copying(received)
        super().__init__(*self._copies)

    def abort(self, code: int, now: float, by: StageEnd[Any, Any] | None = None) -> None:
        super().abort(code, now, by)
        for copy in self._copies:
            copy.lose(code, now)
