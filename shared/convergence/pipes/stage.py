"""A stage: something between two pipes that changes what passes, such as gzip, TLS or an HTTP parser.

Does: give a stage its two ends, `near` (the application's side) and `far` (the network's side); run each way through
its transform, no faster than the reader consumes; carry ends, aborts and failures to the side that has to hear them.
Does not: know what a transform does.

              write ->  +-------- outgoing --------+  -> data
        user  ====== near                        far ====== the next stage, or the network
              <- data   +-------- incoming --------+  <- write

A transform is lazy: `feed` gives an iterable, and the way takes a piece of it only while the reader has room. So a
small input that unpacks to gigabytes waits as the small input that it is. Whoever wrote has the input on its account
until all output of it is consumed; while that is more than HIGH, its end is congested. So for a reader that stopped, a
stage holds HIGH bytes of output, HIGH bytes of input, and what comes in spite of congestion: one write, or the window
of the pipe before it (HIGH for another stage).

A transform that has to wait for something else, such as an engine that works asynchronously or the other way's next
message, gives None; the way asks again at `resume`. What belongs to no input (a handshake) is pushed (`Way.push`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sized
from enum import Enum
from typing import Any, Generic, TypeVar
from typing import Protocol as Shape

from convergence.errors import EndReason, LocalError, StreamError
from convergence.pipes.duplex import DuplexOf, HandlerOf, Passage, Pipe, T, T_contra, U

HIGH = 1 << 18  # bytes; no output is made unless CHUNK fits below it, and more input than this is congestion
LOW = HIGH // 4  # bytes of input on account, at which a congested writer is told to go on
CHUNK = 1 << 16  # bytes that a transform gives at once, unless a message is longer

V = TypeVar("V", bound=Sized)
V_co = TypeVar("V_co", bound=Sized, covariant=True)


class Flaw(Enum):
    """What a stage found wrong."""

    GARBAGE = "garbage"  # the input is not of this stage's kind
    TRUNCATED = "truncated"  # the input ends where it must not
    TRAILING = "trailing"  # the input goes on after its end
    TOO_LONG = "too long"  # a message or a head beyond its limit
    UNASKED = "unasked"  # an answer to nothing
    MISUSE = "misuse"  # our own user broke the rules of the protocol


class StageError(StreamError):
    """A transform cannot go on: both ends are aborted, with TORPROTOCOL, or INTERNAL for our own user's misuse."""

    def __init__(self, flaw: Flaw, message: str = "") -> None:
        reason = EndReason.INTERNAL if flaw is Flaw.MISUSE else EndReason.TORPROTOCOL
        super().__init__(message or flaw.value, reason)
        self.flaw = flaw


class Transform(Shape[T_contra, V_co]):
    """What happens to the bytes of one way. Each iterable is used up before the next call.

    Its items are output, of about CHUNK bytes each at most, or None: ask again at `resume`. Both calls and their
    iterables may raise StreamError.
    """

    def feed(self, data: T_contra, now: float) -> Iterable[V_co | None]: ...

    def finish(self, now: float) -> Iterable[V_co | None]:
        """No more input comes."""
        ...


class Plain(Generic[T]):
    """Leaves everything as it is."""

    def feed(self, data: T, now: float) -> Iterable[T]:
        return (data,)

    def finish(self, now: float) -> Iterable[T]:
        return ()


class Stage(Generic[T, U]):
    """Two ends and a way between them in each direction.

    Args:
        outgoing: from near to far, such as compression.
        incoming: from far to near, such as decompression.
    """

    def __init__(self, outgoing: Transform[T, U], incoming: Transform[U, T]) -> None:
        self.closed = False
        self.failure: StreamError | None = None  # why the stage itself gave up, if it did
        self.outgoing = Way(self, outgoing)
        self.incoming = Way(self, incoming)
        self.near = StageEnd(self, self.outgoing, self.incoming)
        self.far = StageEnd(self, self.incoming, self.outgoing)
        self.outgoing.writer = self.incoming.reader = self.near
        self.incoming.writer = self.outgoing.reader = self.far

    def pipe(self, other: Passage[U, V]) -> DuplexOf[V]:
        """Chain from the far end on, for a user of the near one."""
        return self.far.pipe(other)

    def opened(self, end: StageEnd[Any, Any], now: float) -> None:
        """The pipe that `end` is joined to has opened. A stage that first has to agree with its counterpart says so
        later."""
        handler = (self.far if end is self.near else self.near).handler
        if handler is not None:
            handler.opened(now)
        self.resume(now)

    def resume(self, now: float) -> None:
        """Ask the transforms again: one of them may have output now, or may go on."""
        self.outgoing.resume(now)
        self.incoming.resume(now)

    def fail(self, error: StreamError, now: float) -> None:
        """Give up; both users are told the reason of `error`."""
        if not self.closed:
            self.failure = error
            self.abort(error.reason, now)

    def abort(self, code: int, now: float, by: StageEnd[Any, Any] | None = None) -> None:
        """Both ways are over; whoever is not `by` is told."""
        if self.closed:
            return
        told = [end.handler for end in (self.near, self.far) if end is not by and not end.over]
        self._close()
        for handler in told:
            if handler is not None:
                handler.aborted(code, now)

    def way_ended(self) -> None:
        """A way has told its reader so."""
        if self.outgoing.over and self.incoming.over:
            self._close()

    def _close(self) -> None:
        self.closed = True
        self.near.handler = self.far.handler = None
        self.outgoing.drop()
        self.incoming.drop()


class StageEnd(Pipe, Generic[T, U]):
    """One end of a stage, a Duplex: what is written goes one way, what comes by the other is handed up."""

    def __init__(self, stage: Stage[Any, Any], writes: Way[T, U], reads: Way[U, T]) -> None:
        self.handler: HandlerOf[T] | None = None
        self._stage = stage
        self._writes = writes
        self._reads = reads

    @property
    def closed(self) -> bool:
        return self._stage.closed

    @property
    def over(self) -> bool:
        """Whether its user has ended and has heard the end of the other way: it is told no more."""
        return self._writes.ending and self._reads.over

    @property
    def congested(self) -> bool:
        return self._writes.congested

    def write(self, data: T, now: float) -> None:
        self._writes.write(data, now)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        if code != EndReason.DONE:
            self.handler = None
        self._writes.end(now, code)

    def abort(self, code: int, now: float) -> None:
        self._stage.abort(code, now, self)

    def consumed(self, size: int, now: float) -> None:
        self._reads.consumed(size, now)

    def joint_opened(self, now: float) -> None:
        self._stage.opened(self, now)


class Way(Generic[T, U]):
    """One direction: what was written and waits, the transform, and what its reader has not consumed."""

    writer: StageEnd[T, Any]
    reader: StageEnd[U, Any]

    def __init__(self, stage: Stage[Any, Any], transform: Transform[T, U]) -> None:
        self.ending = False  # the writer writes no more
        self._code: int = EndReason.DONE  # why
        self.over = False  # the reader has been told
        self._stage = stage
        self._transform = transform
        self._input: deque[T] = deque()
        self._output: Iterator[U | None] | None = None  # of the input that is being transformed
        self._size = 0  # of that input
        self.pushed = 0  # bytes that were pushed and wait
        self._pushed: deque[U] = deque()
        self._finishing = False
        self._account = 0  # bytes of input of which not all output is consumed
        self._made = 0  # bytes handed up, ever
        self._unused = 0  # bytes handed up and not consumed
        self._marks: deque[tuple[int, int]] = deque()  # (bytes made when it was used up, size), for each input
        self._was_congested = False
        self._running = False

    @property
    def congested(self) -> bool:
        """More than HIGH bytes of input are on account."""
        return self._account > HIGH

    def write(self, data: T, now: float) -> None:
        if self.ending or self._stage.closed or not len(data):
            return
        self._input.append(data)
        self._account += len(data)
        self._was_congested = self._was_congested or self.congested
        self.resume(now)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        """No more input comes. Whoever has ended may still give up, with another code than DONE."""
        if not self.ending or (code != EndReason.DONE and self._code == EndReason.DONE):
            self.ending = True
            self._code = code
            self.resume(now)

    def push(self, data: U, now: float) -> None:
        """Hand `data` up before any other output; nothing once the way is over. It counts against nobody's account:
        whoever pushes what a far end can ask for without limit watches `pushed`."""
        if not self._stage.closed and not self.over:
            self._pushed.append(data)
            self.pushed += len(data)
            self.resume(now)

    def consumed(self, size: int, now: float) -> None:
        if self._stage.closed:
            return
        if size > self._unused:
            raise LocalError("more was consumed than was handed up")
        self._unused -= size
        self._settle()
        self.resume(now)

    def resume(self, now: float) -> None:
        """Go on as far as the reader has room. Calls from within do nothing: the outer one goes on."""
        if self._running:
            return
        self._running = True
        try:
            while not self._stage.closed and self._step(now):
                pass
        except StreamError as error:
            self._stage.fail(error, now)
        finally:
            self._running = False

    def drop(self) -> None:
        """The stage is over."""
        self._input.clear()
        self._pushed.clear()
        self.pushed = 0
        self._marks.clear()
        self._output = None
        self._account = 0

    def _step(self, now: float) -> bool:
        """Do one thing; returns whether there may be another."""
        if self._was_congested and self._account <= LOW:
            self._was_congested = False
            if self.writer.handler is not None and not self.ending:
                self.writer.handler.drained(now)
            return True
        if self.reader.handler is None or self._unused > HIGH - CHUNK:
            return False
        if self._pushed:
            data = self._pushed.popleft()
            self.pushed -= len(data)
            self._hand_up(self.reader.handler, data, now)
        elif self._output is not None:
            for piece in self._output:
                if piece is None or self._stage.closed:
                    return False
                self._hand_up(self.reader.handler, piece, now)
                return True
            self._output = None
            self._marks.append((self._made, self._size))
            self._settle()
        elif self._input:
            written = self._input.popleft()
            self._size = len(written)
            self._output = iter(self._transform.feed(written, now))
        elif self._code != EndReason.DONE:
            self._stage.abort(self._code, now, self.writer)
        elif self.ending and not self._finishing:
            self._finishing = True
            self._size = 0
            self._output = iter(self._transform.finish(now))
        elif self._finishing and not self.over:
            self.over = True
            handler = self.reader.handler
            self._stage.way_ended()
            handler.ended(now)
        else:
            return False
        return True

    def _hand_up(self, handler: HandlerOf[U], piece: U, now: float) -> None:
        if len(piece):
            self._made += len(piece)
            self._unused += len(piece)
            handler.data(piece, now)

    def _settle(self) -> None:
        """Take off the account what all output is consumed of."""
        used = self._made - self._unused
        while self._marks and self._marks[0][0] <= used:
            self._account -= self._marks.popleft()[1]
