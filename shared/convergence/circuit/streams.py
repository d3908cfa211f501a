"""One end of one stream, and one end of a splice of two streams.

Does: buffer what flow control holds back, cut it into DATA cells, give credit for what was consumed, tell its handler.
Does not: know crypto, links, or whether it stands at an origin or at a relay.

What the endpoint keeps under a stream id is an `Entry`: either a `Stream`, whose bytes are used here, or a
`SpliceEnd`, whose cells go on to the other end of the splice by one look-up, never unpacked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol as Shape

from convergence.circuit.flow import Message, StreamFlow
from convergence.errors import EndReason, LocalError, StreamError
from convergence.link.meter import Meter
from convergence.pipes.duplex import Handler, Pipe
from convergence.ports import Buffer
from convergence.wire.relay import RelayCommand, RelayFormat

SEND_BUFFER_HIGH = 1 << 18  # bytes, about a stream window; above it a stream is congested: stop producing
SEND_BUFFER_LOW = 1 << 16  # bytes; below it the handler is told to go on
MAX_OPTIMISTIC = 1 << 14  # bytes that go out before CONNECTED: a request, or a ClientHello


class StreamOwner(Shape):
    """The endpoint, as its streams see it."""

    def wake(self, entry: Entry) -> None:
        """`entry` has cells to send."""
        ...

    def send_message(self, command: int, stream_id: int, payload: bytes = b"") -> None: ...

    def forget(self, stream_id: int) -> None:
        """We ended this stream: cells still under way to it are tolerated, as many as flow control let go."""
        ...


class Entry(Shape):
    """What an endpoint keeps under a stream id."""

    flow: StreamFlow

    def take(self, limit: int) -> list[bytes]:
        """Up to `limit` DATA cells, 509 bytes each, digest zero."""
        ...

    @property
    def ready(self) -> bool:
        """Whether `take` would give something."""
        ...

    def settle(self, now: float) -> None:
        """Called after each run: cells are out, or input has been read."""
        ...

    def on_data(self, cell: bytes, length: int) -> None: ...

    def on_connected(self, payload: bytes, now: float) -> None: ...

    def on_control(self, command: int, payload: bytes) -> None:
        """Any other message came. Raises as StreamFlow.control does."""
        ...

    def on_end(self, reason: int, now: float) -> None: ...


class Stream(Pipe):
    """A stream whose bytes are used here: a Duplex. Tor's END ends both ways, so `end` does too, once all is sent.

    Attributes:
        optimistic: bytes that may still go out before CONNECTED comes (tor-spec 6.2, "optimistic data").
        holds: whether DATA that comes before `accept` waits for it; else it breaks a rule.
    """

    def __init__(self, owner: StreamOwner, stream_id: int, flow: StreamFlow, format: RelayFormat) -> None:
        self.id = stream_id
        self.handler: Handler | None = None
        self.flow = flow
        self.optimistic = 0
        self.holds = False
        self._owner = owner
        self._format = format
        self._open = False
        self._ending: int | None = None  # set: END goes out with this reason once the queue is empty
        self._closed = False
        self._queue: deque[Buffer] = deque()
        self._queued = 0
        self._was_congested = False
        self._inbox: list[bytes] = []
        self._runs: deque[tuple[int, int]] = deque()  # bytes and cells of each run handed up, until all is consumed
        self._used = 0  # bytes consumed of the first run
        self._credited = 0  # cells of it that gave credit

    # -- Duplex

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def congested(self) -> bool:
        """More than SEND_BUFFER_HIGH bytes wait."""
        return self._queued > SEND_BUFFER_HIGH

    def write(self, data: bytes, now: float) -> None:
        if self._closed or self._ending is not None or not data:
            return
        self._queue.append(data)
        self._queued += len(data)
        self._was_congested = self._was_congested or self.congested
        if self._open or self.optimistic:
            self._owner.wake(self)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        if self._closed or self._ending is not None:
            return
        self._ending = code
        self.settle(now)

    def abort(self, code: int, now: float) -> None:
        if not self._closed:
            self.handler = None
            self._close(code)

    def consumed(self, size: int, now: float) -> None:
        if self._closed:
            return
        self._used += size
        credit, self._credited = -self._credited, 0
        while self._runs and self._used >= self._runs[0][0]:
            length, cells = self._runs.popleft()
            self._used -= length
            credit += cells
        if self._used:
            if not self._runs:
                raise LocalError("more was consumed than was handed up")
            length, cells = self._runs[0]
            self._credited = cells * self._used // length
        self._credit(credit + self._credited)

    def accept(self, now: float, payload: bytes = b"") -> None:
        """Answer an incoming BEGIN with CONNECTED (payload: address and TTL at exits, else empty)."""
        self._owner.send_message(RelayCommand.CONNECTED, self.id, payload)
        self._start(now)

    # -- what the endpoint calls

    @property
    def ready(self) -> bool:
        may_send = self._open or self.optimistic > 0
        return self._queued > 0 and self.flow.room > 0 and may_send and not self._closed

    def take(self, limit: int) -> list[bytes]:
        wanted = min(limit, self.flow.room) * self._format.max_data
        if not self._open:
            wanted = min(wanted, self.optimistic)
            self.optimistic -= min(wanted, self._queued)
        parts = []
        while self._queue and wanted > 0:
            part = self._queue.popleft()
            if len(part) > wanted:
                whole = memoryview(part)
                self._queue.appendleft(whole[wanted:])
                part = whole[:wanted]
            wanted -= len(part)
            parts.append(part)
        body = b"".join(parts)
        self._queued -= len(body)
        cells = self._format.pack_data(self.id, body)
        self.flow.sent(len(cells), len(body))
        return cells

    def settle(self, now: float) -> None:
        if self._inbox and self._open and not self._closed:
            data, cells = b"".join(self._inbox), len(self._inbox)
            self._inbox.clear()
            if self.handler is not None:
                self._runs.append((len(data), cells))
                self.handler.data(data, now)
            else:
                self._credit(cells)
        if self._ending is not None and not self._queue:
            self._finish(self._ending, now)
        elif self._was_congested and self._queued < SEND_BUFFER_LOW:
            self._was_congested = False
            if self.handler is not None:
                self.handler.drained(now)

    def on_data(self, cell: bytes, length: int) -> None:
        if not self._open and not self.holds:
            raise StreamError("DATA before CONNECTED")
        if length:
            start = self._format.header_len
            self._inbox.append(cell[start : start + length])
        else:
            self._credit(1)

    def on_connected(self, payload: bytes, now: float) -> None:
        if self._open:
            raise StreamError("CONNECTED twice")
        self._start(now)

    def on_control(self, command: int, payload: bytes) -> None:
        self.flow.control(command, payload)
        if self.ready:
            self._owner.wake(self)

    def on_end(self, reason: int, now: float) -> None:
        self.settle(now)
        if self._closed:
            return
        self._closed = True
        self._drop_buffers()
        handler, self.handler = self.handler, None
        if handler is None:
            return
        if reason == EndReason.DONE:
            handler.ended(now)
        else:
            handler.aborted(reason, now)

    def _start(self, now: float) -> None:
        self._open = True
        if self.handler is not None:
            self.handler.opened(now)
        if self._inbox:
            self.settle(now)
        if self.ready:
            self._owner.wake(self)

    def _credit(self, cells: int) -> None:
        _send(self._owner, self.id, self.flow.consumed(cells))

    def _finish(self, reason: int, now: float) -> None:
        """Everything is sent and handed up, so our END ends both ways."""
        if self._closed:
            return
        self._close(reason)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.ended(now)

    def _close(self, reason: int) -> None:
        self._closed = True
        self._drop_buffers()
        self._owner.send_message(RelayCommand.END, self.id, bytes([reason]))
        self._owner.forget(self.id)

    def _drop_buffers(self) -> None:
        self._queue.clear()
        self._inbox.clear()
        self._runs.clear()
        self._queued = 0


class SpliceEnd:
    """One end of two streams that a rendezvous point joined. Cells of the peer leave here, and the reverse.

    Each side has flow control of its own: a cell is consumed when it leaves on the other side. `meter` counts the cells
    that wait at all splices of the point.
    """

    def __init__(
        self,
        owner: StreamOwner,
        stream_id: int,
        flow: StreamFlow,
        format: RelayFormat,
        on_closed: Callable[[SpliceEnd], None],
        meter: Meter,
    ) -> None:
        self.id = stream_id
        self.peer: SpliceEnd | None = None
        self.flow = flow
        self.format = format
        self.on_connected_hook: Callable[[float], None] | None = None
        self.on_refused: Callable[[int, float], None] | None = None
        self._owner = owner
        self._on_closed = on_closed
        self._meter = meter
        self._prefix = format.data_prefix(stream_id)
        self._pending: deque[bytes] = deque()  # as many cells as the peer's flow control lets come
        self._end_reason: int | None = None
        self._closed = False

    def join(self, peer: SpliceEnd) -> None:
        if peer.format is not self.format:
            raise LocalError("two formats of relay messages cannot be spliced")
        self.peer, peer.peer = peer, self

    def push(self, cell: bytes) -> None:
        """A DATA cell of the peer; only stream id and digest change, the length and the bytes stay."""
        if not self._pending:
            self._owner.wake(self)
        self._pending.append(self._prefix + cell[len(self._prefix) :])
        self._meter.add(1)  # which may abort this very end

    @property
    def waiting(self) -> int:
        """Cells that wait here."""
        return len(self._pending)

    @property
    def closed(self) -> bool:
        return self._closed

    def abort(self, reason: int) -> None:
        """End both sides now; what waits here is dropped."""
        if self._closed:
            return
        self._drop_pending()
        peer, self.peer = self.peer, None
        self._close(reason)
        if peer is not None:
            peer.peer = None
            peer.finish(reason)

    def finish(self, reason: int) -> None:
        """END, once what is pending has gone out."""
        if self._closed or self._end_reason is not None:
            return
        if self._pending:
            self._end_reason = reason
        else:
            self._close(reason)

    @property
    def ready(self) -> bool:
        return self.flow.room > 0 and bool(self._pending)

    def take(self, limit: int) -> list[bytes]:
        pending = self._pending
        cells = [pending.popleft() for _ in range(min(limit, self.flow.room, len(pending)))]
        self._meter.remove(len(cells))
        self.flow.sent(len(cells), len(cells) * self.format.max_data)  # at most; only origins judge by it
        if self.peer is not None:
            self.peer.credit(len(cells))
        return cells

    def credit(self, cells: int) -> None:
        """So many of the cells that came here have left on the other side."""
        _send(self._owner, self.id, self.flow.consumed(cells))

    def settle(self, now: float) -> None:
        if self._end_reason is not None and not self._pending and not self._closed:
            self._close(self._end_reason)

    def on_data(self, cell: bytes, length: int) -> None:
        if self.peer is not None:
            self.peer.push(cell)
        elif self._end_reason is None:
            raise StreamError("DATA before CONNECTED")
        # Otherwise the other side has ended, END waits here behind pending cells, and nobody is left to read this.

    def on_connected(self, payload: bytes, now: float) -> None:
        if self.on_connected_hook is None:
            raise StreamError("CONNECTED that was not due")
        hook, self.on_connected_hook, self.on_refused = self.on_connected_hook, None, None
        hook(now)

    def on_control(self, command: int, payload: bytes) -> None:
        self.flow.control(command, payload)
        if self.ready:
            self._owner.wake(self)

    def on_end(self, reason: int, now: float) -> None:
        if self._closed:
            return
        self._closed = True
        self._drop_pending()
        peer, self.peer = self.peer, None
        refused, self.on_refused, self.on_connected_hook = self.on_refused, None, None
        self._on_closed(self)
        if refused is not None:
            refused(reason, now)
        elif peer is not None:
            peer.peer = None
            peer.finish(reason)

    def _close(self, reason: int) -> None:
        self._closed = True
        self._on_closed(self)
        self._owner.send_message(RelayCommand.END, self.id, bytes([reason]))
        self._owner.forget(self.id)

    def _drop_pending(self) -> None:
        self._meter.remove(len(self._pending))
        self._pending.clear()


def _send(owner: StreamOwner, stream_id: int, messages: Iterable[Message]) -> None:
    for command, payload in messages:
        owner.send_message(command, stream_id, payload)
