"""A link that can be had once for a word code: the giver's end.

Does: find a number that nobody uses, serve under it, let one receiver after the other try; take the code back after the
first wrong words, after the first right ones, and after an hour; then draw another one, a few times.
Does not: give the link to anybody who has not proved the words, or tell people anything: the shell does.

Whoever knows the network can come to every number, or hold them all. What that gains: one guess for each code; a giver
who finds no free number and says so; a receiver whom somebody else answers, and who learns that.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from convergence.codes import AddressFlaw, CodeWhy, ConnectWhy
from convergence.crypto.spake2 import CONFIRMATION_LEN, SHARE_LEN
from convergence.errors import CryptoError, EndReason, Problem, Why
from convergence.handover.protocol import RECEIPT_LEN, Giving, scalar_of
from convergence.limits import TokenBucket
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex
from convergence.pipes.pending import Pending
from convergence.ports import Crypto, Rng
from convergence.services import Services
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.address import PublicAddress
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import WordCode

LIFETIME = 3600.0  # seconds that a code can be used
MAX_CODES = 4  # of one offer, one after the other: as many guesses as strangers have in all
MAX_NUMBERS = 6  # tried for one code
LOOK_LIMIT = 30.0  # seconds to find out whether somebody uses a number
LOOK_PAUSE = 2.0  # seconds between two numbers
STAND_LIMIT = 300.0  # seconds until the first point must know us: services of one node begin one after the other
STEP_LIMIT = 30.0  # seconds that a receiver has for each of its messages
MAX_VISITS = 32  # receivers at once that have proved nothing: beyond, the one that came first gives way
ANSWERS, ANSWERS_BURST = 2.0, 16.0  # shares that are answered a second, and at once: each costs two multiplications


class Phase(Enum):
    LOOKING = "looking"  # for a number
    PAUSING = "pausing"  # before the next one
    RAISING = "raising"  # until points know us
    STANDING = "standing"
    CLAIMED = "claimed"  # somebody had the words, and gets the link
    OVER = "over"


TABLE = Table(
    "offer of a word code",
    Phase.LOOKING,
    {
        Phase.PAUSING: {"end": Phase.OVER, TIMEOUT: Phase.LOOKING},
        Phase.LOOKING: {"free": Phase.RAISING, "next": Phase.PAUSING, "end": Phase.OVER, TIMEOUT: Phase.PAUSING},
        Phase.RAISING: {
            "stand": Phase.STANDING,
            "claim": Phase.CLAIMED,
            "next": Phase.PAUSING,
            "end": Phase.OVER,
            TIMEOUT: Phase.OVER,
        },
        Phase.STANDING: {"claim": Phase.CLAIMED, "next": Phase.PAUSING, "end": Phase.OVER, TIMEOUT: Phase.OVER},
        Phase.CLAIMED: {"next": Phase.PAUSING, "end": Phase.OVER, TIMEOUT: Phase.OVER},
    },
    deadlines={
        Phase.PAUSING: LOOK_PAUSE,
        Phase.LOOKING: LOOK_LIMIT,
        Phase.RAISING: STAND_LIMIT,
        Phase.STANDING: LIFETIME,
        Phase.CLAIMED: 2 * STEP_LIMIT,  # the visit ends before
    },
)


class Step(Enum):
    """Of one receiver."""

    SHARE = "share"
    CONFIRMATION = "confirmation"
    RECEIPT = "receipt"
    OVER = "over"


VISIT_TABLE = Table(
    "receiver at a word code",
    Step.SHARE,
    {
        Step.SHARE: {"share": Step.CONFIRMATION, "end": Step.OVER, TIMEOUT: Step.OVER},
        Step.CONFIRMATION: {"right": Step.RECEIPT, "end": Step.OVER, TIMEOUT: Step.OVER},
        Step.RECEIPT: {"end": Step.OVER, TIMEOUT: Step.OVER},
    },
    deadlines={Step.SHARE: STEP_LIMIT, Step.CONFIRMATION: STEP_LIMIT, Step.RECEIPT: STEP_LIMIT},
)


class Offer:
    """One link, and the codes for it, one after the other.

    Args:
        told: (offer, now), whenever `code` or `why` has changed. The offer is not to be ended from within.

    Attributes:
        code: what to read to somebody; None while there is none.
        why: what became of the one before, or why there is none.
    """

    def __init__(
        self,
        services: Services,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        link: ShareLink,
        told: Callable[[Offer, float], None],
        now: float,
    ) -> None:
        self.code: WordCode | None = None
        self.why: Why | None = None
        self._services = services
        self.outbox = outbox
        self.crypto = crypto
        self.rng = rng
        self.link = link
        self._told = told
        self._drawn = 0  # codes
        self._tried = 0  # numbers for this one
        self._next: WordCode | None = None  # the code that is not told yet
        self._w = 0
        self._service: str | None = None  # its id
        self._look: Pending | None = None
        self._visits: dict[Visit, None] = {}  # MAX_VISITS and the one that claimed
        self._answers = TokenBucket(outbox, ANSWERS, ANSWERS_BURST)
        self._machine = StateMachine(TABLE, outbox, self._timed_out, now)
        outbox.call_at(now, self._search)

    @property
    def over(self) -> bool:
        """Whether no code follows."""
        return self._machine.final

    def end(self, now: float) -> None:
        """Take the code back. Nobody is told."""
        if not self.over:
            self._machine.move("end", now)
            self._withdraw(now)
            self.code = None

    # -- a number

    def _search(self, now: float) -> None:
        """See whether somebody serves under the number of a new code."""
        if self.over:
            return
        if self._next is None:
            self._drawn += 1
            self._tried = 0
        self._tried += 1
        code = self._next = WordCode.draw(self.rng)
        try:
            look = self._look = self._services.connect(PublicAddress(code.hash_name), now, patience=0)
        except Problem as problem:
            self._look = None
            self._not_free(problem.why, now)
            return
        look.handler = _Look(self, look)

    def looked(self, why: Why | None, now: float) -> None:
        """What came of it: None if somebody answered."""
        self._leave_look(now)
        if why is not None and why.code is ConnectWhy.NOBODY:
            self._raise(now)
        else:
            self._not_free(why, now)

    def _not_free(self, why: Why | None, now: float) -> None:
        """The number is taken, or nobody can tell: try another."""
        if self._tried < MAX_NUMBERS:
            if self._machine.state is not Phase.PAUSING:
                self._machine.move("next", now)
        elif why is None or why.code in (ConnectWhy.BUSY, ConnectWhy.MISLED, ConnectWhy.TIMEOUT, AddressFlaw.SERVED):
            self._finish(Why(CodeWhy.NO_NUMBER), now)
        else:
            self._finish(why, now)

    def _leave_look(self, now: float) -> None:
        look, self._look = self._look, None
        if look is not None:
            look.abort(EndReason.DONE, now)

    def _raise(self, now: float) -> None:
        code = self._next
        assert code is not None
        self._machine.move("free", now)
        self._w = scalar_of(self.crypto, code)
        try:
            self._service = self._services.serve(
                PublicAddress(code.hash_name),
                lambda pipe, now: self._accept(code, pipe, now),
                now,
                on_standing=lambda points, now: self._stands(code, points, now),
            )
        except Problem as problem:
            self._not_free(problem.why, now)

    def _stands(self, code: WordCode, points: int, now: float) -> None:
        if points and code is self._next and self._machine.state is Phase.RAISING:
            self._machine.move("stand", now)
            self.code = self._next
            self._told(self, now)

    # -- receivers

    def _accept(self, code: WordCode, pipe: Duplex, now: float) -> Visit:
        visit = Visit(self, pipe, self._w, now)
        if code is not self._next or self._machine.state not in (Phase.RAISING, Phase.STANDING):
            visit.leave(EndReason.DONE, now)
            return visit
        while len(self._visits) >= MAX_VISITS:
            next(iter(self._visits)).leave(EndReason.RESOURCELIMIT, now)
        self._visits[visit] = None
        return visit

    def answers(self, now: float) -> bool:
        """Whether a share may be answered now."""
        return self._answers.take(now)

    def guessed(self, now: float) -> None:
        """Somebody did not have the words."""
        self._renew(CodeWhy.GUESSED, now)

    def claimed(self, visit: Visit, now: float) -> None:
        """Somebody has them: nobody else gets a try."""
        self._machine.move("claim", now)
        for other in [other for other in self._visits if other is not visit]:
            other.leave(EndReason.DONE, now)

    def left(self, visit: Visit, step: Step, receipt: bool, now: float) -> None:
        """A receiver is gone, after this step."""
        self._visits.pop(visit, None)
        if step is Step.RECEIPT and self._machine.state is Phase.CLAIMED:
            if receipt:
                self._finish(Why(CodeWhy.HANDED_OVER), now)
            else:
                self._renew(CodeWhy.BROKEN, now)

    # -- the end of a code

    def _renew(self, why: CodeWhy, now: float) -> None:
        left = MAX_CODES - self._drawn
        if not left:
            self._finish(Why(CodeWhy.GUESSED_OFTEN), now)
            return
        self._machine.move("next", now)
        self._withdraw(now)
        self.code, self._next, self.why = None, None, Why(why, {"left": left})
        self._told(self, now)

    def _finish(self, why: Why, now: float) -> None:
        if not self._machine.final:
            self._machine.move("end", now)
        self._withdraw(now)
        self.code, self.why = None, why
        self._told(self, now)

    def _withdraw(self, now: float) -> None:
        """Nobody gets in any more. The service ends once we are out of the connection that called us."""
        self._leave_look(now)
        service, self._service = self._service, None
        for visit in list(self._visits):
            visit.leave(EndReason.DONE, now)
        if service is not None:
            self.outbox.call_at(now, lambda now: self._services.unserve(service, now))

    def _timed_out(self, phase: Phase, now: float) -> None:
        if phase is Phase.PAUSING:
            self._search(now)
        elif phase is Phase.LOOKING:
            self._leave_look(now)
            self._not_free(Why(ConnectWhy.TIMEOUT), now)
        elif phase is Phase.RAISING:
            self._finish(Why(ConnectWhy.NO_POINTS), now)
        else:
            self._finish(Why(CodeWhy.EXPIRED), now)


class _Look:
    """Whether somebody answers under a number. Nothing is said to him."""

    def __init__(self, offer: Offer, pipe: Pending) -> None:
        self._offer = offer
        self._pipe = pipe

    def opened(self, now: float) -> None:
        self._offer.looked(None, now)

    def data(self, data: bytes, now: float) -> None: ...

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None: ...

    def aborted(self, code: int, now: float) -> None:
        self._offer.looked(self._pipe.why or Why(ConnectWhy.NO_POINTS), now)


class Visit:
    """The handler of one connection that came to a code's number."""

    def __init__(self, offer: Offer, pipe: Duplex, w: int, now: float) -> None:
        self._offer = offer
        self._pipe = pipe
        self._w = w
        self._run: Giving | None = None
        self._buffer = b""
        self._machine = StateMachine(VISIT_TABLE, offer.outbox, self._over, now)

    def leave(self, code: int, now: float) -> None:
        """End it: nothing more is said."""
        if not self._machine.final:
            step = self._machine.state
            self._machine.move("end", now)
            self._over(step, now, code)

    def _over(self, step: Step, now: float, code: int = EndReason.TIMEOUT) -> None:
        self._pipe.abort(code, now)
        self._offer.left(self, step, False, now)

    # -- Handler

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None:
        self._pipe.consumed(len(data), now)
        self._buffer += data
        expected = _LENGTHS.get(self._machine.state)
        if expected is None or len(self._buffer) < expected:
            return
        message, self._buffer = self._buffer[:expected], self._buffer[expected:]
        if self._buffer:  # more than was asked for
            self.leave(EndReason.TORPROTOCOL, now)
        elif self._machine.state is Step.SHARE:
            self._on_share(message, now)
        elif self._machine.state is Step.CONFIRMATION:
            self._on_confirmation(message, now)
        else:
            self._on_receipt(message, now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        """No message follows."""
        self.leave(EndReason.DONE, now)

    def aborted(self, code: int, now: float) -> None:
        self.leave(EndReason.DONE, now)

    # -- inside

    def _on_share(self, share: bytes, now: float) -> None:
        if not self._offer.answers(now):
            self.leave(EndReason.RESOURCELIMIT, now)
            return
        try:
            self._run = Giving(self._offer.crypto, self._offer.rng, self._w, share)
        except CryptoError:
            self.leave(EndReason.TORPROTOCOL, now)
            return
        self._machine.move("share", now)
        self._pipe.write(self._run.share, now)

    def _on_confirmation(self, confirmation: bytes, now: float) -> None:
        assert self._run is not None
        if self._run.right(confirmation):
            self._machine.move("right", now)
            self._pipe.write(self._run.answer(self._offer.link), now)
            self._offer.claimed(self, now)
        else:
            self.leave(EndReason.DONE, now)
            self._offer.guessed(now)

    def _on_receipt(self, receipt: bytes, now: float) -> None:
        assert self._run is not None
        self._machine.move("end", now)
        self._pipe.end(now)
        self._offer.left(self, Step.RECEIPT, self._run.received(receipt), now)


_LENGTHS = {Step.SHARE: SHARE_LEN, Step.CONFIRMATION: CONFIRMATION_LEN, Step.RECEIPT: RECEIPT_LEN}
