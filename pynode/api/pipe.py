"""One connection, for a program: bytes both ways, with each way ending by itself.

Does: read and write with back-pressure in asyncio; put stages between; hand the connection to any asyncio protocol.
Does not: find what is at the other end (node.py), or run outside the event loop that its node runs in.

What came and was not read holds its credit back, so the far writer stops: a pipe holds at most one window of a stream
(about 250 kB), and what `readexactly`, `readline` and `readall` were asked to gather.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Sized
from contextlib import suppress
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from convergence.driver import Driver
from convergence.errors import EndReason, Why
from convergence.pipes.duplex import Duplex, DuplexOf, HandlerOf, Passage, join, tie
from convergence.pipes.pending import Pending
from convergence.pipes.stage import Plain, Stage
from pynode.api.errors import ConnectError, PipeBroken
from pynode.duplex_transport import DuplexTransport, linger
from pynode.pipes import CHUNK, Watch

MAX_LINE = 64 * 1024  # bytes of a line, unless `readline` is told otherwise
MAX_ALL = 64 << 20  # bytes that `readall` gathers, unless it is told otherwise

T = TypeVar("T", bound=Sized)


class _Inbox(Generic[T]):
    """The handler of a duplex: what came and what happened, until the program looks."""

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.is_open = self.heard_end = False
        self.code: int | None = None
        self.news = asyncio.Event()

    def opened(self, now: float) -> None:
        self.is_open = True
        self.news.set()

    def data(self, data: T, now: float) -> None:
        self.items.append(data)
        self.news.set()

    def drained(self, now: float) -> None:
        self.news.set()

    def ended(self, now: float) -> None:
        self.heard_end = True
        self.news.set()

    def aborted(self, code: int, now: float) -> None:
        self.code = code
        self.news.set()

    def hand_over(self, handler: HandlerOf[T], now: float) -> None:
        """Let the handler that follows hear all that this one heard."""
        if self.is_open:
            handler.opened(now)
        while self.items:
            handler.data(self.items.popleft(), now)
        if self.heard_end:
            handler.ended(now)
        if self.code is not None:
            handler.aborted(self.code, now)


class Pipe(Generic[T]):
    """A connection. One task reads at a time, and one writes.

    What it carries is bytes, unless a stage that makes messages of them lies between: then `receive`, `async for` and
    `write` deal in messages. Once it was handed over (`through`, `attach`, `streams`), only `close`, `abort` and `fail`
    still mean this connection.

    Attributes:
        address: what it leads to; empty at the end of who serves.
    """

    def __init__(
        self,
        driver: Driver,
        duplex: DuplexOf[T],
        *,
        address: str = "",
        pending: Pending | None = None,
        stages: Sequence[Stage[Any, Any]] = (),
        over: asyncio.Event | None = None,
    ) -> None:
        self.address = address
        self._driver = driver
        self._duplex: DuplexOf[T] | None = duplex
        self._pending = pending
        self._stages = tuple(stages)
        self._over = over or asyncio.Event()  # set once the connection is over and we closed; see `wait_closed`
        self._inbox: _Inbox[T] = _Inbox()
        self._rest = bytearray()  # of what came, bytes that were taken from the inbox and not read
        self._owed = 0  # the last so many of them, for which the far end has no credit yet
        self._reading = self._ended = self._closed = False
        self._heir: Pipe[Any] | DuplexTransport | None = None  # what it was handed over to
        self._loop = asyncio.get_running_loop()
        duplex.handler = self._inbox

    def __del__(self) -> None:
        """In any thread. The address is not told: it may be a capability."""
        duplex = self._duplex
        if duplex is None or duplex.handler is not self._inbox or duplex.closed or self.code is not None:
            return  # it was handed over, or closed
        warnings.warn("a pipe was not closed", ResourceWarning, stacklevel=2, source=self)
        with suppress(RuntimeError):  # the loop has ended, and with it the pipe
            self._loop.call_soon_threadsafe(self.close)

    @property
    def code(self) -> int | None:
        """How it broke: an EndReason, or another number as received; None while it stands, and where each way ended by
        itself."""
        return self._inbox.code

    async def opened(self) -> None:
        """Wait until the far end has accepted. Raises ConnectError."""
        await self._until(lambda: self._inbox.is_open or self.code is not None)
        if not self._inbox.is_open:
            assert self.code is not None
            raise ConnectError(self.code, self._why())

    # -- reading

    async def receive(self) -> T | None:
        """The next bytes as they came, one or more, or the next message; None at the end. Raises PipeBroken."""
        with self._reader():
            return await self._next()

    async def read(self, size: int = CHUNK) -> bytes:
        """One byte or more, `size` at most, as soon as there are any; b"" at the end. Raises PipeBroken."""
        with self._reader(size):
            if not self._rest and size:
                await self._more()
            return self._take(size)

    async def readexactly(self, size: int) -> bytes:
        """So many bytes. Raises asyncio.IncompleteReadError (an EOFError) if they end before, PipeBroken."""
        with self._reader(size):
            while len(self._rest) < size:
                self._credit()
                if not await self._more():
                    raise asyncio.IncompleteReadError(self._take(len(self._rest)), size)
            return self._take(size)

    async def readline(self, limit: int = MAX_LINE) -> bytes:
        """Up to and with the next b"\\n"; what is left before the end; b"" at the end.

        Raises ValueError for a line of more than `limit` bytes, which is then still there to be read; PipeBroken.
        """
        with self._reader():
            looked = 0
            while (found := self._rest.find(b"\n", looked)) < 0:
                looked = len(self._rest)
                if looked > limit:
                    break
                self._credit()
                if not await self._more():
                    return self._take(looked)
            if not 0 <= found < limit:
                raise ValueError(f"a line of more than {limit} bytes")
            return self._take(found + 1)

    async def readall(self, limit: int = MAX_ALL) -> bytes:
        """Everything up to the end. Raises ValueError for more than `limit` bytes, PipeBroken."""
        with self._reader():
            while await self._more():
                if len(self._rest) > limit:
                    raise ValueError(f"more than {limit} bytes")
                self._credit()
            return self._take(len(self._rest))

    def __aiter__(self) -> AsyncIterator[T]:
        return self._each()

    async def _each(self) -> AsyncIterator[T]:
        while (item := await self.receive()) is not None:
            yield item

    # -- writing

    async def write(self, data: T) -> None:
        """Write bytes, or a message; waits while more waits to go out than a pipe should hold.

        A cancelled `write` of more than CHUNK bytes may have written a part. To a stage all is given at once, because
        it may be one message. Raises PipeBroken.
        """
        pieces: list[T] = [data]
        if not self._stages and isinstance(data, (bytes, bytearray, memoryview)):
            view = memoryview(data).cast("B")
            pieces = [cast(T, bytes(view[at : at + CHUNK])) for at in range(0, len(view), CHUNK)]
        duplex = self._standing()
        for piece in pieces:
            await self._until(lambda: not duplex.congested or self.code is not None or self._ended)
            self._standing()
            self._driver.run(partial(duplex.write, piece))

    def end(self) -> None:
        """We write no more; the far end hears it after all that was written, and may write on."""
        if not self._ended:
            self._ended = True
            self._driver.run(self._used().end)

    # -- the end

    def abort(self, code: int = EndReason.MISC) -> None:
        """Give up both ways now; the far end hears this code. What waits to go out is dropped."""
        if isinstance(self._heir, DuplexTransport):
            self._heir.abort_with(code)
        elif self._heir is not None:
            self._heir.abort(code)
        else:
            self._break(code, lambda now: self._used().abort(code, now))

    def fail(self, code: int = EndReason.MISC) -> None:
        """The same, but what was written arrives first."""
        if isinstance(self._heir, Pipe):
            self._heir.fail(code)
        elif self._heir is not None:
            self._heir.abort_with(code)
        else:
            self._break(code, lambda now: self._used().end(now, code))

    def close(self) -> None:
        """End our way, if it has not ended, and hear no more. What was written still goes out, for LINGER seconds while
        the node runs: `wait_closed` waits for that."""
        if self._heir is not None:
            self._heir.close()
            return
        duplex, inbox = self._used(), self._inbox
        if self.code is not None or self._closed:
            self._over.set()
            return
        if not inbox.is_open:
            self.abort(EndReason.DONE)
            return
        self._closed = True
        self.end()
        unused = self._owed + sum(map(len, inbox.items))
        linger(self._driver, cast(Duplex, duplex), unused, self._lingered)
        self._rest.clear()
        self._owed = 0
        inbox.items.clear()
        inbox.ended(0.0)  # for another task that reads

    async def wait_closed(self) -> None:
        """Once closed: wait until all that was written has arrived, as far as the pipe can tell, and the far end has
        ended as well, or either gave up; LINGER seconds at most."""
        if isinstance(self._heir, DuplexTransport):
            await self._heir.gone.wait()
        elif self._heir is not None:
            await self._heir.wait_closed()
        else:
            await self._over.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            await self.wait_closed()
        else:
            self.abort()

    # -- stages, and other users

    def through(self, *stages: Stage[Any, Any]) -> Pipe[Any]:
        """The same connection through stages, from the program to the network: compression, framing, HTTP, TLS. The far
        end has to do the same. Use what is returned in place of this pipe; what came before passes through too."""
        if not stages:
            return self
        for near, far in pairwise(stages):
            join(near.far, far.near)
        first, last = stages[0].near, stages[-1].far
        pipe: Pipe[Any] = Pipe(
            self._driver,
            first,
            address=self.address,
            pending=self._pending,
            stages=(*stages, *self._stages),
            over=self._over,
        )

        def joined(duplex: DuplexOf[T]) -> HandlerOf[T]:
            if self._stages:
                join(last, duplex)
            else:
                self._carry(last, duplex)
            assert duplex.handler is not None
            return duplex.handler

        self._let_go(joined)
        self._heir = pipe
        return pipe

    def attach(self, protocol: asyncio.Protocol) -> DuplexTransport:
        """Hand the connection to an asyncio protocol; returns its transport. This pipe must not be used any more."""
        transports: list[DuplexTransport] = []

        def made(duplex: DuplexOf[T]) -> HandlerOf[T]:
            extra = {"peername": self.address}
            transports.append(DuplexTransport(self._driver, cast(Duplex, duplex), protocol, extra))
            return cast(HandlerOf[T], transports[0])

        self._let_go(made)
        self._heir = transports[0]
        return transports[0]

    async def streams(self, limit: int = MAX_LINE) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Hand the connection to asyncio's streams, as `asyncio.open_connection` gives them. This pipe must not be used
        any more. `limit`: of the reader, bytes."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit, loop)
        accepted: list[asyncio.StreamWriter] = []
        serving = None if self.address else lambda reader, writer: accepted.append(writer)  # start_tls looks for this
        protocol = asyncio.StreamReaderProtocol(reader, serving, loop=loop)
        transport = self.attach(protocol)
        try:
            await transport.opened_or_failed
        except asyncio.CancelledError:
            transport.abort()
            raise
        writer = accepted[0] if accepted else asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, writer

    # -- inside

    def _used(self) -> DuplexOf[T]:
        if self._duplex is None:
            raise RuntimeError("this pipe was handed over: use what was returned")
        return self._duplex

    def _standing(self) -> DuplexOf[T]:
        """For a writer."""
        duplex = self._used()
        if self.code is not None:
            raise PipeBroken(self.code, self._why())
        if self._ended:
            raise RuntimeError("write after end")
        return duplex

    def _carry(self, last: DuplexOf[Any], carrier: DuplexOf[Any]) -> None:
        """Join the last stage to what carries all, whose end is the connection's."""

        def changed() -> None:
            if carrier.closed:
                self._over.set()

        tie(Watch(last, carrier, changed), Watch(carrier, last, changed))

    def _lingered(self, code: int | None) -> None:
        """What a stage passed on may still be under way."""
        if code is not None or not self._stages:
            self._over.set()

    def _break(self, code: int, call: Callable[[float], None]) -> None:
        if self.code is None and not self._used().closed:
            self._driver.run(call)
            self._inbox.aborted(code, 0.0)
        self._over.set()

    def _let_go(self, take: Callable[[DuplexOf[T]], HandlerOf[T]]) -> DuplexOf[T]:
        """Hand the duplex and all that came to another handler."""
        duplex = self._used()
        if self._reading:
            raise RuntimeError("a task reads from this pipe")
        if self._owed < len(self._rest):
            raise RuntimeError("a read was given up half-way")
        if self._rest:
            self._inbox.items.appendleft(cast(T, bytes(self._rest)))
        self._duplex = None
        handler = take(duplex)
        self._driver.run(lambda now: self._inbox.hand_over(handler, now))
        return duplex

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._inbox.news.clear()
            await self._inbox.news.wait()

    def _reader(self, size: int = 0) -> _Reading:
        self._used()
        if size < 0:
            raise ValueError("a size below zero: readall reads up to the end")
        return _Reading(self)

    async def _next(self) -> T | None:
        if self._rest:
            return cast(T, self._take(len(self._rest)))
        inbox = self._inbox
        await self._until(lambda: bool(inbox.items) or inbox.heard_end or inbox.code is not None)
        if inbox.items:
            item = inbox.items.popleft()
            self._consumed(len(item))
            return item
        if inbox.heard_end:
            return None
        assert inbox.code is not None
        raise PipeBroken(inbox.code, self._why())

    async def _more(self) -> bool:
        """Wait for more bytes; False at the end."""
        inbox = self._inbox
        await self._until(lambda: bool(inbox.items) or inbox.heard_end or inbox.code is not None)
        if inbox.items:
            for item in cast("deque[bytes]", inbox.items):
                self._rest += item
                self._owed += len(item)
            inbox.items.clear()
            return True
        if inbox.heard_end:
            return False
        assert inbox.code is not None
        raise PipeBroken(inbox.code, self._why())

    def _take(self, size: int) -> bytes:
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        self._credit(max(0, self._owed - len(self._rest)))
        return taken

    def _credit(self, size: int | None = None) -> None:
        size = self._owed if size is None else size
        self._owed -= size
        self._consumed(size)

    def _consumed(self, size: int) -> None:
        duplex = self._duplex
        if size > 0 and duplex is not None and self.code is None and not duplex.closed:
            self._driver.run(lambda now: duplex.consumed(size, now))

    def _why(self) -> Why | None:
        """What is known besides the code: by a stage, or by whoever looked for the far end."""
        failures = (getattr(stage.failure, "why", None) for stage in self._stages if stage.failure is not None)
        why: Why | None = next(failures, None)
        return why or (None if self._pending is None else self._pending.why)


class _Reading:
    """One task reads at a time."""

    def __init__(self, pipe: Pipe[Any]) -> None:
        self._pipe = pipe

    def __enter__(self) -> None:
        if self._pipe._reading:
            raise RuntimeError("another task reads from this pipe")
        self._pipe._reading = True

    def __exit__(self, *error: object) -> None:
        self._pipe._reading = False


class Local(Pipe[T]):
    """This program's end of a chain that is put together by hand: `local.pipe(stage).pipe(stage).pipe(far end)`."""

    def __init__(self, driver: Driver) -> None:
        start: Stage[T, T] = Stage(Plain(), Plain())
        super().__init__(driver, start.near, stages=(start,))
        self._far = start.far

    def pipe(self, other: Passage[T, Any]) -> DuplexOf[Any]:
        """The next link; returns its far side, for the next. Finish the chain without an `await` between."""
        if isinstance(other, Stage):
            self._stages += (other,)
            join(self._far, other.near)
        else:
            self._carry(self._far, other.near)
        return other.far


Serving = Callable[[Pipe[bytes]], Awaitable[object]]
"""Serves one connection; the connection is closed when it returns."""
