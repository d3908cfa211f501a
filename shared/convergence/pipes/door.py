"""The front door of the local proxy: SOCKS 4, 4a, 5 and HTTP CONNECT on one port, told apart by the first byte.

Does: read what a program asks for, open a pipe to there or have it looked up, answer in the program's own dialect once
that is done or has failed, and join the two pipes; give each program a deadline.
Does not: listen, look up, or choose what carries the pipe.

What a program sends early goes into the pipe that is still opening; once that is congested, it waits with the program.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol as Shape

from convergence.codes import Limit
from convergence.errors import EndReason, LocalError, Problem, StreamError
from convergence.outbox import Outbox
from convergence.pipes.connect import read_connect
from convergence.pipes.duplex import Duplex, Onward, tie
from convergence.pipes.socks import (
    SOCKS4,
    SOCKS5,
    Ask,
    Caller,
    Command,
    Flaw,
    Reading,
    Refused,
    read_socks4,
    read_socks5,
)
from convergence.states import TIMEOUT, StateMachine, Table

HANDSHAKE_LIMIT = 30.0  # seconds a program has to say where it wants to go
ANSWER_LIMIT = 120.0  # seconds the far end has to open (Tor's SocksTimeout)
LEAVE_LIMIT = 5.0  # seconds a refused program has to read why and close


class Handshake:
    """What a program says before its own protocol begins. Takes no more input once `ask` or `flaw` is set.

    Attributes:
        ask: where it wants to go.
        flaw: why it is refused.
        rest: what followed the request, to be sent to where it wants to go.
    """

    def __init__(self) -> None:
        self.ask: Ask | None = None
        self.flaw: Flaw | None = None
        self.rest = b""
        self._caller = Caller()
        self._reading = self._read()

    def receive(self, data: bytes) -> bytes:
        """Read on; returns what to answer at once. Never raises for what a program sends."""
        caller = self._caller
        caller.waiting += data
        try:
            next(self._reading)
        except StopIteration as read:
            self.ask, self.rest = read.value, bytes(caller.waiting)
        except Refused as refused:
            self.flaw = refused.flaw
            caller.said += self.refused(refused.flaw)
        said, caller.said = bytes(caller.said), bytearray()
        return said

    def granted(self, found: str = "") -> bytes:
        """The answer once the far end has opened, or to a look-up."""
        return self._caller.granted(found)

    def refused(self, why: Flaw | int) -> bytes:
        """The answer to a request with this flaw, or for a far end that did not open: an EndReason, or another number
        as received. Nothing where the program has not said yet what it speaks."""
        if isinstance(why, Flaw):
            return self._caller.refused(why.value)
        assert self.ask is not None, "no far end was asked for"
        return self._caller.refused(self.ask.reply(why))

    def _read(self) -> Reading[Ask]:
        (first,) = yield from self._caller.take(1)
        if first == SOCKS4:
            return (yield from read_socks4(self._caller))
        if first == SOCKS5:
            return (yield from read_socks5(self._caller))
        if not ord("A") <= first <= ord("Z"):
            raise Refused(Flaw.GARBLED)  # TLS, for one: nothing that we say would be understood
        self._caller.waiting.insert(0, first)
        return (yield from read_connect(self._caller))


class State(Enum):
    """Of one program's connection."""

    GREETING = auto()
    OPENING = auto()  # the far end; or a look-up is under way
    LEAVING = auto()  # all is said; it may still read that
    PASSING = auto()
    OVER = auto()


_ASKED, _TOLD, _OPENED, _GONE = "asked", "told all", "opened", "gone"
DOOR = Table(
    "front door",
    State.GREETING,
    {
        State.GREETING: {_ASKED: State.OPENING, _TOLD: State.LEAVING, _GONE: State.OVER, TIMEOUT: State.LEAVING},
        State.OPENING: {_OPENED: State.PASSING, _TOLD: State.LEAVING, _GONE: State.OVER, TIMEOUT: State.LEAVING},
        State.LEAVING: {_GONE: State.OVER, TIMEOUT: State.OVER},
    },
    deadlines={State.GREETING: HANDSHAKE_LIMIT, State.OPENING: ANSWER_LIMIT, State.LEAVING: LEAVE_LIMIT},
)

Open = Callable[[Ask, float], Duplex]
"""open(ask, now): a pipe to there, whose handler hears nothing before this returns. Raises StreamError to refuse with a
reason, Problem at a limit, another LocalError if there can be no such place."""


class LookUp(Duplex, Shape):
    """A pipe that carries nothing: it opens once something is found."""

    found: str


Resolve = Callable[[Ask, float], LookUp]
"""resolve(ask, now): the same for a look-up of a name or, for RESOLVE_PTR, of an address."""


class FrontDoor:
    """The handler of a program's connection, until that is joined to where the program wants to go.

    Args:
        local: the program's connection, open already.
    """

    def __init__(self, outbox: Outbox, local: Duplex, open: Open, resolve: Resolve, now: float) -> None:
        self._local = local
        self._open = open
        self._resolve = resolve
        self._handshake = Handshake()
        self._far: Duplex | None = None  # or a look-up
        self._inward: Onward[bytes] | None = None  # takes what the program says to the far end
        self._machine = StateMachine(DOOR, outbox, self._timed_out, now)
        local.handler = self

    # -- Handler of the program's connection

    def opened(self, now: float) -> None:
        """It was from the start."""

    def data(self, data: bytes, now: float) -> None:
        if self._inward is not None:
            self._inward.data(data, now)
        elif self._machine.state is State.GREETING:
            self._greet(data, now)
        else:
            self._local.consumed(len(data), now)

    def drained(self, now: float) -> None:
        """Nothing to do: answers are short."""

    def ended(self, now: float) -> None:
        if self._inward is not None:
            self._inward.ended(now)
        elif self._machine.state is not State.OPENING:  # else it waits for what it asked to be looked up
            self._machine.move(_GONE, now)
            self._local.end(now)

    def aborted(self, code: int, now: float) -> None:
        if self._machine.allows(_GONE):  # else it had ended, and breaks off before it has read why
            self._machine.move(_GONE, now)
        if self._far is not None:
            self._far.abort(code, now)

    # -- what becomes of the far end

    def granted(self, now: float) -> None:
        """It has opened."""
        assert self._far is not None and self._inward is not None
        self._machine.move(_OPENED, now)
        self._local.write(self._handshake.granted(), now)
        self._local.handler, self._far.handler = self._inward, self._inward.back

    def refused(self, why: Flaw | int, now: float) -> None:
        """It has not, and never will."""
        self._machine.move(_TOLD, now)
        self._leave(self._handshake.refused(why), now)

    # -- inside

    def _greet(self, data: bytes, now: float) -> None:
        shake = self._handshake
        said = shake.receive(data)
        if said:
            self._local.write(said, now)
        self._local.consumed(len(data) - len(shake.rest), now)
        if shake.flaw is not None:
            self._machine.move(_TOLD, now)
            self._local.end(now)
        elif shake.ask is not None:
            self._machine.move(_ASKED, now)
            self._ask(shake.ask, now)

    def _ask(self, ask: Ask, now: float) -> None:
        rest = self._handshake.rest
        try:
            if ask.command is Command.CONNECT:
                self._connect(ask, now)
            else:
                self._look_up(ask, now)
        except LocalError as error:
            full = isinstance(error, Problem) and isinstance(error.why.code, Limit)
            flaw = Flaw.SERVICE if ask.service else Flaw.NAME
            self.refused(EndReason.RESOURCELIMIT if full else flaw, now)
        except StreamError as refusal:
            self.refused(refusal.reason, now)
        if rest:
            self.data(rest, now)

    def _connect(self, ask: Ask, now: float) -> None:
        far = self._open(ask, now)
        self._far, self._inward = far, Onward(self._local, far)
        tie(self._inward, Onward(far, self._local))
        self._local.handler, far.handler = self, _Opening(self.granted, self.refused)

    def _look_up(self, ask: Ask, now: float) -> None:
        if ask.known:
            self._found(ask.host, now)
            return
        look_up = self._far = self._resolve(ask, now)

        def opened(now: float) -> None:
            self._found(look_up.found, now)
            look_up.abort(EndReason.DONE, now)

        look_up.handler = _Opening(opened, self.refused)

    def _found(self, found: str, now: float) -> None:
        self._machine.move(_TOLD, now)
        self._leave(self._handshake.granted(found), now)

    def _leave(self, answer: bytes, now: float) -> None:
        inward, self._inward, self._far = self._inward, None, None
        if inward is not None:
            inward.settle(now)
        self._local.write(answer, now)
        self._local.end(now)

    def _timed_out(self, state: State, now: float) -> None:
        if state is State.LEAVING:
            self._local.abort(EndReason.TIMEOUT, now)
            return
        if self._far is not None:
            self._far.abort(EndReason.TIMEOUT, now)
        why = Flaw.LATE if state is State.GREETING else EndReason.TIMEOUT
        self._leave(self._handshake.refused(why), now)


class _Opening:
    """The handler of the far end until it opens."""

    def __init__(self, opened: Callable[[float], None], refused: Callable[[int, float], None]) -> None:
        self._opened = opened
        self._refused = refused

    def opened(self, now: float) -> None:
        self._opened(now)

    def data(self, data: bytes, now: float) -> None:
        raise LocalError("data before the pipe opened")

    def drained(self, now: float) -> None:
        """Nothing to do: what waits, waits until it opens."""

    def ended(self, now: float) -> None:
        self._refused(EndReason.DONE, now)

    def aborted(self, code: int, now: float) -> None:
        self._refused(code, now)
