"""A pipe whose carrier is still looked for.

Does: take the user's first bytes while carriers are tried one after the other; pass everything through once one opened.
Does not: look for carriers. Whoever does is told of each that was refused, and binds another or gives up.

Nothing of the user's goes out before a carrier has opened, so that one which fails costs nothing but time; unless its
owner says that this user wants to be quicker (`send_ahead`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from convergence.errors import EndReason, Why
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex, Handler, Pipe
from convergence.states import TIMEOUT, StateMachine, Table

CONNECT_LIMIT = 60.0  # seconds that a pipe has to open, over all carriers that are tried


class Phase(Enum):
    """Phases of a pending pipe."""

    CONNECTING = "connecting"
    OPEN = "open"
    OVER = "over"


TABLE = Table(
    "pending pipe",
    Phase.CONNECTING,
    {
        Phase.CONNECTING: {"open": Phase.OPEN, "finish": Phase.OVER, TIMEOUT: Phase.OVER},
        Phase.OPEN: {"finish": Phase.OVER},
    },
    deadlines={Phase.CONNECTING: CONNECT_LIMIT},
    standing={Phase.OPEN: "its user or its carrier ends it"},
)


class Pending(Pipe):
    """A Duplex for its user, and the Handler of its carrier.

    Args:
        on_refused: (code, now): the carrier ended before it opened; `bind` another, or `fail`.
        on_over: (now), once, after the handler's last call, whether it ever opened or not.

    Attributes:
        why: what people are told of its failure, where that says more than its code.
        on_open: (), when it has opened; for whoever keeps a record.
    """

    def __init__(
        self, outbox: Outbox, on_refused: Callable[[int, float], None], on_over: Callable[[float], None], now: float
    ) -> None:
        self.handler: Handler | None = None
        self.why: Why | None = None
        self.on_open: Callable[[], None] = lambda: None
        self._machine = StateMachine(TABLE, outbox, self._timed_out, now)
        self._on_refused = on_refused
        self._on_over = on_over
        self._carrier: Duplex | None = None
        self._early: list[bytes] = []
        self._ahead = False  # the carrier got what is in `_early` too
        self._ending = False

    @property
    def open(self) -> bool:
        return self._machine.state is Phase.OPEN

    @property
    def searching(self) -> bool:
        """Whether it needs a carrier."""
        return self._machine.state is Phase.CONNECTING and self._carrier is None

    def bind(self, carrier: Duplex) -> None:
        """Try this carrier, whose handler is this pipe."""
        assert self.searching
        self._carrier = carrier

    def send_ahead(self, now: float) -> None:
        """What is written goes to the carrier before that has opened. A copy is kept for the next one."""
        assert self._carrier is not None
        self._ahead = True
        for data in self._early:
            self._carrier.write(data, now)

    def fail(self, code: int, now: float) -> None:
        """It cannot be carried: its user hears this code."""
        if not self._machine.final:
            self._machine.move("finish", now)
            self._over(code, now, self.handler)

    # -- Duplex

    @property
    def closed(self) -> bool:
        return self._machine.final

    @property
    def congested(self) -> bool:
        """Until it is open it is, so that little is written."""
        return not self.open or (self._carrier is not None and self._carrier.congested)

    def write(self, data: bytes, now: float) -> None:
        if self._ending:
            return
        if self.open and self._carrier is not None:
            self._carrier.write(data, now)
        elif not self._machine.final:
            self._early.append(data)
            if self._ahead and self._carrier is not None:
                self._carrier.write(data, now)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        if code != EndReason.DONE:
            self._give_up(code, now)
            return
        self._ending = True
        if self.open and self._carrier is not None:
            self._carrier.end(now)
            self._settle(now)

    def abort(self, code: int, now: float) -> None:
        if not self._machine.final:
            self._machine.move("finish", now)
            self._over(code, now, None)

    def consumed(self, size: int, now: float) -> None:
        if self._carrier is not None:
            self._carrier.consumed(size, now)

    # -- Handler of the carrier

    def opened(self, now: float) -> None:
        assert self._carrier is not None
        self._machine.move("open", now)
        self.on_open()
        early, self._early = self._early, []
        for data in () if self._ahead else early:
            self._carrier.write(data, now)
        if self.handler is not None:
            self.handler.opened(now)
        if self._ending:
            self.end(now)
        elif not self.congested and self.handler is not None:
            self.handler.drained(now)

    def data(self, data: bytes, now: float) -> None:
        if self.handler is not None:
            self.handler.data(data, now)

    def drained(self, now: float) -> None:
        if self.open and self.handler is not None:
            self._tell_and_settle(self.handler.drained, now)

    def ended(self, now: float) -> None:
        if not self.open:
            self.aborted(EndReason.DONE, now)
        elif self.handler is not None:
            self._tell_and_settle(self.handler.ended, now)

    def aborted(self, code: int, now: float) -> None:
        self._carrier, self._ahead = None, False
        if self._machine.state is Phase.CONNECTING:
            self._on_refused(code, now)
        else:
            self.fail(code, now)

    # -- inside

    def _give_up(self, code: int, now: float) -> None:
        """What was written still goes out."""
        if self._machine.final:
            return
        carrier, was_open = self._carrier, self.open
        if was_open and carrier is not None:
            self._carrier = None
            carrier.end(now, code)
        self.abort(code, now)

    def _tell_and_settle(self, call: Callable[[float], None], now: float) -> None:
        """The last call finds this pipe closed as well."""
        last = self._carrier is not None and self._carrier.closed
        if last:
            self._carrier = None
            self._machine.move("finish", now)
        call(now)
        if last:
            self._over(EndReason.DONE, now, None)

    def _settle(self, now: float) -> None:
        """Both ends have ended."""
        if self.open and self._carrier is not None and self._carrier.closed:
            self._carrier = None
            self.abort(EndReason.DONE, now)

    def _timed_out(self, phase: Phase, now: float) -> None:
        self._over(EndReason.TIMEOUT, now, self.handler)

    def _over(self, code: int, now: float, told: Handler | None) -> None:
        carrier, self._carrier = self._carrier, None
        self.handler = None
        self._early.clear()
        if carrier is not None:
            carrier.abort(code, now)
        if told is not None:
            told.aborted(code, now)
        self._on_over(now)
