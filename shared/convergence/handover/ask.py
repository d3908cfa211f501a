"""A word code that a person was told: the receiver's end.

Does: reach whoever offers it, prove the words, take the link; try again while nothing that counts as a guess was said.
Does not: fetch what the link names. Whoever answers has one guess at the words, and after a wrong one this is over:
whoever holds the number without knowing the words gets no second try from us.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from convergence.codes import CodeWhy, ConnectWhy
from convergence.crypto.spake2 import SHARE_LEN
from convergence.errors import CryptoError, EndReason, Problem, Why
from convergence.handover.protocol import ANSWER_LEN, Receiving, scalar_of
from convergence.outbox import Outbox
from convergence.pipes.pending import CONNECT_LIMIT, Pending
from convergence.ports import Crypto, Rng
from convergence.rdv.connector import PATIENCE as CONNECT_PATIENCE
from convergence.services import Services
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.address import PublicAddress
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import WordCode

PATIENCE = 60.0  # seconds in which it is no final answer that nobody offers the code
ANSWER_LIMIT = 30.0  # seconds that whoever answered has for each of its messages
PAUSE = 2.0  # seconds between two tries


class Phase(Enum):
    PAUSING = "pausing"
    REACHING = "reaching"  # whoever offers it
    ASKING = "asking"  # our share is out
    CONFIRMING = "confirming"  # whoever answered knows whether its words are ours
    OVER = "over"


TABLE = Table(
    "word code",
    Phase.PAUSING,
    {
        Phase.PAUSING: {"reach": Phase.REACHING, "end": Phase.OVER, TIMEOUT: Phase.REACHING},
        Phase.REACHING: {"open": Phase.ASKING, "again": Phase.PAUSING, "end": Phase.OVER, TIMEOUT: Phase.PAUSING},
        Phase.ASKING: {"share": Phase.CONFIRMING, "again": Phase.PAUSING, "end": Phase.OVER, TIMEOUT: Phase.PAUSING},
        Phase.CONFIRMING: {"end": Phase.OVER, TIMEOUT: Phase.OVER},
    },
    deadlines={
        Phase.PAUSING: PAUSE,
        Phase.REACHING: 2 * CONNECT_LIMIT,  # the connection ends before
        Phase.ASKING: ANSWER_LIMIT,
        Phase.CONFIRMING: ANSWER_LIMIT,
    },
)


class Ask:
    """One code, until it gave its link or nothing.

    Args:
        told: (ask, now), once it is over, and when nobody offers the code yet.
        patience: seconds in which tries that told nobody anything are repeated.

    Attributes:
        link: what came of it, or None.
        why: why there is none, or none yet.
    """

    def __init__(
        self,
        services: Services,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        code: WordCode,
        told: Callable[[Ask, float], None],
        now: float,
        patience: float = PATIENCE,
    ) -> None:
        self.link: ShareLink | None = None
        self.why: Why | None = None
        self._services = services
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._code = code
        self._told = told
        self._until = outbox.steady(now) + patience
        self._w = scalar_of(crypto, code)
        self._run: Receiving | None = None
        self._pipe: Pending | None = None
        self._buffer = b""
        self._machine = StateMachine(TABLE, outbox, self._timed_out, now)
        outbox.call_at(now, self._begin)

    @property
    def over(self) -> bool:
        return self._machine.final

    def end(self, now: float) -> None:
        """Give up. Nobody is told."""
        if not self.over:
            self._machine.move("end", now)
            self._leave(EndReason.DONE, now)

    # -- Handler of the connection

    def opened(self, now: float) -> None:
        assert self._pipe is not None
        self._machine.move("open", now)
        self._buffer = b""
        self._run = Receiving(self._crypto, self._rng, self._w)
        self._pipe.write(self._run.share, now)

    def data(self, data: bytes, now: float) -> None:
        if self._pipe is None or self._run is None or self.over:
            return
        self._pipe.consumed(len(data), now)
        self._buffer += data
        expected = SHARE_LEN if self._machine.state is Phase.ASKING else ANSWER_LEN
        if len(self._buffer) < expected:
            return
        message, self._buffer = self._buffer[:expected], self._buffer[expected:]
        try:
            if self._buffer:
                raise CryptoError("more than was asked for")
            if self._machine.state is Phase.ASKING:
                self._confirm(self._run, message, now)
            else:
                self.link = self._run.link(message)
                self._pipe.write(self._run.receipt(), now)
                self._pipe.end(now)
                self._finish(None, now)
        except CryptoError:
            self._failed(Why(CodeWhy.WRONG), now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        """The answer does not follow; or it came before."""
        if not self.over:
            self._failed(Why(CodeWhy.NOBODY), now)

    def aborted(self, code: int, now: float) -> None:
        if self.over:
            return
        why = None if self._pipe is None else self._pipe.why
        self._failed(Why(CodeWhy.NOBODY) if why is None or why.code is ConnectWhy.NOBODY else why, now)

    # -- inside

    def _begin(self, now: float) -> None:
        if not self.over:
            self._machine.move("reach", now)
            self._reach(now)

    def _reach(self, now: float) -> None:
        patience = min(max(self._until - self._outbox.steady(now), 0.0), CONNECT_PATIENCE)
        try:
            pipe = self._pipe = self._services.connect(PublicAddress(self._code.hash_name), now, patience)
        except Problem as problem:
            self._failed(problem.why, now)
            return
        pipe.handler = self

    def _confirm(self, run: Receiving, share: bytes, now: float) -> None:
        assert self._pipe is not None
        confirmation = run.confirmation(share)
        self._machine.move("share", now)
        self._pipe.write(confirmation, now)

    def _failed(self, why: Why, now: float) -> None:
        """A try came to nothing. Once our confirmation is out there is no other."""
        if self._machine.state is Phase.CONFIRMING:
            self._finish(Why(CodeWhy.WRONG), now)
        elif self._outbox.steady(now) >= self._until:
            self._finish(why, now)
        else:
            if self._machine.state is not Phase.PAUSING:  # time has moved it there
                self._machine.move("again", now)
            self._leave(EndReason.DONE, now)
            self.why = why
            self._told(self, now)

    def _finish(self, why: Why | None, now: float) -> None:
        if not self._machine.final:
            self._machine.move("end", now)
        self.why = why
        if why is not None:
            self._leave(EndReason.DONE, now)
        self._told(self, now)

    def _leave(self, code: int, now: float) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.abort(code, now)

    def _timed_out(self, phase: Phase, now: float) -> None:
        if phase is Phase.PAUSING:
            self._reach(now)
        elif phase is Phase.CONFIRMING:
            self._finish(Why(CodeWhy.WRONG), now)
        else:
            self._failed(Why(CodeWhy.NOBODY), now)
