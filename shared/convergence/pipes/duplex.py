"""Bytes both ways: what every pipe is to its user, and every user to a pipe.

Does: name the two sides (`Duplex`, `Handler`); join two pipes, so that what comes out of one goes into the other;
chain any number of them (`Pipe.pipe`).
Does not: know what carries the bytes, or change them on their way: stages do (`pipes/stage.py`).

                 write, end ->                  -> write, end
    one user  ==================  Duplex  ==================  the other
                 <- data, ended                 data, ended <-

Each way ends by itself: `end` says that we write no more, `ended` that the far end does not. `abort` gives up both
ways at once, and the far end hears its code. Credit goes back to the writer only for bytes that the reader says were
`consumed`. So a reader that stops, stops the writer, however many pipes lie between the two.

What is carried is bytes nearly everywhere. A few ends of stages carry messages instead (`DuplexOf`, `HandlerOf`);
their `len` is what they count for.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Generic, TypeAlias, TypeVar
from typing import Protocol as Shape

from convergence.errors import EndReason

MAX_DROPPED = 1 << 20  # bytes

T = TypeVar("T", bound=Sized)
U = TypeVar("U", bound=Sized)
T_contra = TypeVar("T_contra", bound=Sized, contravariant=True)


class DuplexOf(Shape[T]):
    """One end of a pipe, for its user. Any call may call the handler back before it returns. Whatever implements it
    inherits `Pipe`."""

    handler: HandlerOf[T] | None

    @property
    def near(self) -> DuplexOf[T]: ...

    @property
    def far(self) -> DuplexOf[T]: ...

    @property
    def closed(self) -> bool:
        """Whether both ways are over: what is written goes nowhere."""
        ...

    @property
    def congested(self) -> bool:
        """Whether more waits to go out than a pipe should hold: write no more until `drained`."""
        ...

    def write(self, data: T, now: float) -> None:
        """Queue any number of bytes. They are dropped after `end`, and once the pipe is over."""
        ...

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        """We write no more; what was written goes first. The far end may write on. Where that cannot be carried (a
        stream of Tor's, whose END ends both ways), `ended` follows when all has gone out. With another code than DONE
        this gives up both ways, as `abort` does, but what was written still arrives before the code."""
        ...

    def abort(self, code: int, now: float) -> None:
        """Give up both ways now; `code` (EndReason) says why. What waits is dropped, and the handler hears no more."""
        ...

    def consumed(self, size: int, now: float) -> None:
        """The user is done with so many bytes of those that `data` gave it. Raises LocalError for more than it got."""
        ...

    def joint_opened(self, now: float) -> None:
        """The pipe that this end is joined to has opened."""
        ...

    def pipe(self, other: Passage[T, U]) -> DuplexOf[U]:
        """Join this end to the near side of `other`; returns its far side, for the next link of a chain."""
        ...


class HandlerOf(Shape[T_contra]):
    """The user of a pipe."""

    def opened(self, now: float) -> None:
        """The far end accepted. Before, nothing is handed up; what is written waits."""
        ...

    def data(self, data: T_contra, now: float) -> None:
        """One byte or more, in order."""
        ...

    def drained(self, now: float) -> None:
        """The pipe is congested no more."""
        ...

    def ended(self, now: float) -> None:
        """The far end writes no more. The last call if we have ended as well."""
        ...

    def aborted(self, code: int, now: float) -> None:
        """The far end, or something between, gave up both ways. `code`: an EndReason, or another number as received.
        The last call."""
        ...


Duplex: TypeAlias = DuplexOf[bytes]
Handler: TypeAlias = HandlerOf[bytes]


class Passage(Shape[T, U]):
    """What a chain leads through: into `near`, the application's side, and out of `far`, the network's side."""

    @property
    def near(self) -> DuplexOf[T]: ...

    @property
    def far(self) -> DuplexOf[U]: ...


class Pipe:
    """What every Duplex inherits: it chains with others, and stands in a chain as both sides of itself."""

    @property
    def near(self: DuplexOf[T]) -> DuplexOf[T]:
        return self

    @property
    def far(self: DuplexOf[T]) -> DuplexOf[T]:
        return self

    def joint_opened(self, now: float) -> None:
        """Only a stage has somebody to tell."""

    def pipe(self: DuplexOf[T], other: Passage[T, U]) -> DuplexOf[U]:
        """As `http.pipe(parser).pipe(gzip).pipe(tls).pipe(tor)`. Chain before the last one opens: what is written
        earlier waits until then."""
        join(self, other.near)
        return other.far


def join(one: DuplexOf[T], other: DuplexOf[T]) -> None:
    """Whatever comes out of either goes into the other, and so do ends and aborts."""
    tie(Onward(one, other), Onward(other, one))


def tie(there: Onward[T], back: Onward[T]) -> None:
    """Join two pipes by these two."""
    there.back, back.back = back, there
    there.out_of.handler, back.out_of.handler = there, back


class Onward(Generic[T]):
    """Takes what comes out of one pipe into another.

    Credit is held back while the pipe it goes into is congested, so at most one window of the pipe it comes from waits.
    What comes for a pipe that is closed is dropped, while what that pipe brought still goes out the other way. Whoever
    writes on for more than MAX_DROPPED is told by CONNRESET.

    Attributes:
        back: the other side of the joint. A pipe's handler may be something that passes all on to this.
    """

    back: Onward[T]

    def __init__(self, out_of: DuplexOf[T], into: DuplexOf[T]) -> None:
        self.out_of = out_of
        self._into = into
        self._owed = 0  # bytes whose credit is held back
        self._dropped = 0

    def opened(self, now: float) -> None:
        self._into.joint_opened(now)

    def data(self, data: T, now: float) -> None:
        self._owed += len(data)
        if self._into.closed:
            self._dropped += len(data)
            if self._dropped > MAX_DROPPED:
                self.out_of.abort(EndReason.CONNRESET, now)
                return
        else:
            self._into.write(data, now)
        if not self._into.congested:
            self.settle(now)

    def settle(self, now: float) -> None:
        """Give the credit back that was held."""
        owed, self._owed = self._owed, 0
        if owed:
            self.out_of.consumed(owed, now)

    def drained(self, now: float) -> None:
        """What comes here drains; the other side of the joint holds the credit for what it wrote into it."""
        self.back.settle(now)

    def ended(self, now: float) -> None:
        self._into.end(now)
        if self.out_of.closed:
            self.drained(now)  # nothing waits there any more

    def aborted(self, code: int, now: float) -> None:
        """What came before goes on to where it was to go."""
        if code == EndReason.DONE:
            self._into.abort(code, now)
        else:
            self._into.end(now, code)
