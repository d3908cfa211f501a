"""The stream layer at one end of a circuit; the same at an origin and at the relay it talks to.

Does: dispatch relay messages of recognised cells to streams by one look-up, keep the circuit's two windows,
share the package window fairly between streams, send circuit SENDMEs.
Does not: encrypt, route, extend, or know which end it is. Client and relay circuits each own one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from convergence.circuit.flow import CircuitFlow
from convergence.circuit.streams import Entry, SpliceEnd, Stream
from convergence.errors import DestroyReason, EndReason, ParseError, RemoteError, Scope, StreamError
from convergence.link.meter import Meter
from convergence.outbox import Outbox
from convergence.pipes.duplex import Handler
from convergence.wire.relay import DIRECTORY, Begin, End, RelayCommand, RelayFormat, Resolve, Resolved, Sendme

MAX_STREAMS = 1024  # open at once on one circuit
MAX_HALF_CLOSED = 2 * MAX_STREAMS  # streams we ended, whose late cells are dropped; cells for others end the circuit
LATE = 600.0  # seconds for which at least they are remembered: a circuit between peers may live for days
MAX_LATE_MESSAGES = 100  # that are no DATA and still come to a stream we ended; honest ones are 66 at most (XOFF, XON)
FAIR_RUN = 50  # DATA cells that one stream sends before the next one's turn
INCOMING_ID_BIT = 0x8000  # set in stream ids that the relay side chooses (RDV point to provider), clear in the origin's

REFUSED_TTL = 60  # seconds that an origin may keep the address that it is told with EXITPOLICY

_DATA = int(RelayCommand.DATA)  # compared for every cell: an IntEnum member takes several times as long

AcceptHook = Callable[[str, Stream, float], Handler | None]
"""on_begin(target, stream, now): returns a handler to accept, or None to refuse; raises StreamError to refuse with a
reason."""
BeginHook = Callable[[int, Begin, float], None]
"""on_begin(stream_id, begin, now): answer with accept/refuse/splice of the endpoint, now or later."""
MessageHook = Callable[[int, bytes, float], None]
"""on_message(command, payload, now) for messages on stream 0 that are not SENDME or DROP."""
ResolveHook = Callable[[int, str, float], None]
"""on_resolve(stream_id, host, now): answer with `resolved`, now or later."""
ResolvedReply = Callable[[Resolved | None, float], None]
"""reply(answers, now); None when the far end answered with END, or the circuit ended first."""


class Carrier(NamedTuple):
    """One end of a circuit, as a set of them sends on it. The fields are as for Endpoint."""

    format: RelayFormat
    flow: CircuitFlow
    transmit: Callable[[list[bytes]], Sequence[bytes]]
    congested: Callable[[], bool]
    streams: Meter


class Endpoint:
    """One end's streams and flow control.

    Args:
        outbox: the node's.
        format: of relay messages.
        flow: of the circuit.
        transmit: sends relay messages (509 bytes each, digest zero) to the other end; returns the running digest after
            each of them.
        congested: whether the link cannot take more now.
        originates: True at a circuit's origin, which picks stream ids without INCOMING_ID_BIT.
        streams: counts what is open, on all endpoints that share it.
    """

    def __init__(
        self,
        outbox: Outbox,
        format: RelayFormat,
        flow: CircuitFlow,
        transmit: Callable[[list[bytes]], Sequence[bytes]],
        congested: Callable[[], bool],
        *,
        originates: bool,
        streams: Meter | None = None,
    ) -> None:
        self.on_begin: BeginHook | None = None
        self.on_message: MessageHook | None = None
        self.on_resolve: ResolveHook | None = None
        self.entries: dict[int, Entry] = {}
        self._outbox = outbox
        self._format = format
        self._flow = flow
        self._transmit = transmit
        self._congested = congested
        self._streams = streams or Meter(MAX_STREAMS)
        self._originates = originates
        self._id_bit = 0 if originates else INCOMING_ID_BIT
        self._last_id = 0
        self._ready: dict[Entry, None] = {}
        self._touched: dict[Entry, None] = {}
        # stream id -> DATA cells that may still come, messages of other kinds, and the turn in which we ended it
        self._half_closed: dict[int, tuple[int, int, int]] = {}
        self._turn = 0  # one follows the other after LATE, in steady time
        self._next_turn = 0.0
        self._resolving: dict[int, ResolvedReply] = {}
        self._closed = False
        self._superseded = False

    # -- opening

    def open_stream(self, target: str, flags: int = 0) -> Stream:
        """BEGIN to "host:port" or "<hash>.rdv:0"; flags as in Begin.

        Raises LocalError for another target, StreamError when MAX_STREAMS are open.
        """
        begin = Begin.to(target, flags).encode()
        stream = self._new_stream(self._free_id())
        self._keep(stream.id, stream)
        self.send_message(RelayCommand.BEGIN, stream.id, begin)
        return stream

    def open_directory(self) -> Stream:
        """BEGIN_DIR. Raises StreamError when MAX_STREAMS are open."""
        stream = self._new_stream(self._free_id())
        self._keep(stream.id, stream)
        self.send_message(RelayCommand.BEGIN_DIR, stream.id)
        return stream

    def open_splice(self, target: str, on_closed: Callable[[SpliceEnd], None], meter: Meter) -> SpliceEnd:
        """BEGIN on a provider's circuit; the answer comes to the end's hooks. The end is closed already if this BEGIN
        was one cell too many for a full link."""
        end = self._new_splice_end(self._free_id(), on_closed, meter)
        self._keep(end.id, end)
        self.send_message(RelayCommand.BEGIN, end.id, Begin.to(target).encode())
        return end

    def resolve(self, host: str, reply: ResolvedReply) -> None:
        """Ask the other end to look a host name up."""
        message = Resolve(host).encode()
        stream_id = self._free_id()
        self._resolving[stream_id] = reply
        self.send_message(RelayCommand.RESOLVE, stream_id, message)

    def pending(self, stream_id: int) -> Entry | None:
        """The place kept for an incoming BEGIN until it is answered. Once the far end has withdrawn the BEGIN, it is
        None, or another place (the id is used again)."""
        return self.entries.get(stream_id)

    def accept_stream(self, stream_id: int) -> Stream:
        """Take a pending BEGIN; CONNECTED goes out when the stream's `accept` is called; DATA waits for that."""
        stream = self._new_stream(stream_id)
        stream.holds = True
        self._keep(stream_id, stream)
        return stream

    def offer(self, stream_id: int, begin: Begin, accept: AcceptHook, now: float) -> int | None:
        """Take a pending BEGIN if `accept` gives a handler for it. Else returns why not; the BEGIN still waits for an
        answer then."""
        stream = self.accept_stream(stream_id)
        try:
            handler = accept(begin.target, stream, now)
        except StreamError as refusal:
            return refusal.reason
        if handler is None:
            return EndReason.RESOLVEFAILED
        stream.handler = handler
        stream.accept(now)
        return None

    def accept_splice(
        self, stream_id: int, peer: SpliceEnd, on_closed: Callable[[SpliceEnd], None], meter: Meter
    ) -> SpliceEnd:
        """Answer a pending BEGIN by joining it to `peer`. The end may be closed already, as in `open_splice`."""
        end = self._new_splice_end(stream_id, on_closed, meter)
        end.join(peer)
        self._keep(stream_id, end)
        self.send_message(RelayCommand.CONNECTED, stream_id)
        return end

    def refuse(self, stream_id: int, reason: int, address: str | None = None) -> None:
        """Answer an incoming BEGIN with END; with EXITPOLICY it may tell the IP address that a name led to. Nothing
        happens if it has been withdrawn meanwhile."""
        if self._drop(stream_id) is not None:
            self.send_message(RelayCommand.END, stream_id, End(reason, address, REFUSED_TTL).encode())
            self.forget(stream_id)

    # -- sending

    def send_message(self, command: int, stream_id: int, payload: bytes = b"") -> None:
        """One relay message at once, ahead of queued DATA. Nothing once the circuit is closed."""
        if not self._closed:
            self._transmit([self._format.pack(command, stream_id, payload)])

    def wake(self, entry: Entry) -> None:
        self._ready[entry] = None
        self._outbox.flush_later(self)

    def flush(self, now: float) -> bool:
        """Send queued DATA as far as flow control and the link allow, a FAIR_RUN of each stream in turn."""
        while self._ready and not self._closed:
            burst = self._flow.burst
            if burst <= 0 or self._congested():
                break
            entry = next(iter(self._ready))
            del self._ready[entry]
            if entry.ready:
                cells = entry.take(min(burst, FAIR_RUN))
                self._flow.sent(self._transmit(cells), self._outbox.steady(now))
                if entry.ready:
                    self._ready[entry] = None
            entry.settle(now)
        return False  # `resume` wakes what flow control or the link holds back

    # -- receiving

    def receive(self, cells: Sequence[bytes], digests: Sequence[bytes], now: float) -> None:
        """Recognised cells (509 bytes), and the running digest after each. Raises RemoteError or ParseError when the
        circuit has to be closed for them."""
        at = 0
        for _, group in groupby(cells, self._format.head):
            run = list(group)
            if self._format.unpack(run[0])[0] == _DATA:
                self._data(run, digests[at : at + len(run)], now)
            else:
                for cell in run:
                    self._other(cell, now)
            at += len(run)

    def supersede(self) -> None:
        """Something else stands in its place, as a hop beyond this one: whatever comes here now breaks a rule."""
        self._superseded = True

    def hand_over(self) -> Carrier:
        """Give the circuit up to a set of circuits. Raises RemoteError if it carries streams."""
        if self.entries or self._resolving:
            raise RemoteError("a circuit with streams cannot become a leg of a set")
        self.supersede()
        return Carrier(self._format, self._flow, self._transmit, self._congested, self._streams)

    def count_on(self, streams: Meter) -> None:
        """From now on what is open here counts there."""
        self._streams.remove(len(self.entries))
        self._streams = streams
        self._streams.add(len(self.entries))

    def settle(self, now: float) -> None:
        """The run of cells is over: streams hand on what they gathered."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for entry in touched:
                entry.settle(now)
        if self._half_closed and self._outbox.steady(now) >= self._next_turn:
            self._turn, self._next_turn = self._turn + 1, self._outbox.steady(now) + LATE
            self._half_closed = {key: end for key, end in self._half_closed.items() if end[2] >= self._turn - 1}

    def resume(self) -> None:
        """The link takes cells again."""
        if self._ready:
            self._outbox.flush_later(self)

    def close(self, now: float) -> None:
        """The circuit is gone: every stream ends with DESTROY."""
        if self._closed:
            return
        self._closed = True
        entries, self.entries = self.entries, {}
        self._streams.remove(len(entries))
        self._ready.clear()
        for entry in entries.values():
            entry.on_end(EndReason.DESTROY, now)
        self._touched.clear()
        resolving, self._resolving = self._resolving, {}
        for reply in resolving.values():
            reply(None, now)

    def forget(self, stream_id: int) -> None:
        entry = self._drop(stream_id)
        allowance = entry.flow.late if entry is not None else 0
        if len(self._half_closed) >= MAX_HALF_CLOSED:
            del self._half_closed[next(iter(self._half_closed))]
        self._half_closed[stream_id] = allowance, MAX_LATE_MESSAGES, self._turn

    # -- inside

    def _new_stream(self, stream_id: int) -> Stream:
        return Stream(self, stream_id, self._flow.stream(self._originates), self._format)

    def _new_splice_end(self, stream_id: int, on_closed: Callable[[SpliceEnd], None], meter: Meter) -> SpliceEnd:
        return SpliceEnd(self, stream_id, self._flow.stream(self._originates), self._format, on_closed, meter)

    def _keep(self, stream_id: int, entry: Entry) -> None:
        if stream_id not in self.entries and not self._closed:
            self._streams.add(1)
        self.entries[stream_id] = entry

    def _drop(self, stream_id: int) -> Entry | None:
        entry = self.entries.pop(stream_id, None)
        if entry is not None and not self._closed:
            entry.flow.ended()
            self._streams.remove(1)
        return entry

    def _listens(self) -> bool:
        if self._superseded:
            raise RemoteError("cells for an end of the circuit that is no longer in use")
        return not self._closed

    def _data(self, cells: Sequence[bytes], digests: Sequence[bytes], now: float) -> None:
        """DATA cells of one stream."""
        if not self._listens():
            return
        stream_id = self._format.unpack(cells[0])[1]
        parts = self._format.unpack_data(cells)
        if due := self._flow.received(len(cells)):
            self._acknowledge([digests[index] for index in due])
        entry = self.entries.get(stream_id)
        if entry is None:
            self._late_data(stream_id, len(cells))
            return
        try:
            for command, payload in entry.flow.received(len(cells), sum(map(len, parts))):
                self.send_message(command, stream_id, payload)
            entry.on_data(cells, parts)
        except StreamError as error:
            self._break(stream_id, entry, error, now)
        else:
            self._touched[entry] = None

    def _acknowledge(self, digests: Sequence[bytes]) -> None:
        """A SENDME for each of the cells that left these digests, all in one run."""
        self._transmit([self._format.pack(RelayCommand.SENDME, 0, Sendme(1, digest).encode()) for digest in digests])

    def _other(self, cell: bytes, now: float) -> None:
        if not self._listens():
            return
        command, stream_id, payload = self._format.unpack(cell)
        if command == RelayCommand.SENDME and stream_id == 0:
            sendme = Sendme.parse(payload)
            if sendme.version != 1:
                raise RemoteError("circuit SENDME without a digest")
            self._flow.acknowledge(sendme.digest, self._congested(), self._outbox.steady(now))
            self.resume()
        elif command == RelayCommand.DROP:
            return  # long-range padding
        elif stream_id == 0:
            if self.on_message is None:
                raise RemoteError(f"relay command {command} was not expected here")
            self.on_message(command, payload, now)
        elif command == RelayCommand.BEGIN or (command == RelayCommand.BEGIN_DIR and self._id_bit):
            self._begin(stream_id, command, payload, now)
        elif command == RelayCommand.RESOLVE and self.on_resolve is not None:
            self.on_resolve(stream_id, Resolve.parse(payload).host, now)
        elif stream_id in self._resolving and command in (RelayCommand.RESOLVED, RelayCommand.END):
            answers = Resolved.parse(payload) if command == RelayCommand.RESOLVED else None
            self._resolving.pop(stream_id)(answers, now)
        else:
            self._stream_message(command, stream_id, payload, now)

    def _begin(self, stream_id: int, command: int, payload: bytes, now: float) -> None:
        if self.on_begin is None:
            raise RemoteError("BEGIN was not expected here")
        # Tor's clients take any id, so a relay, which avoids those in use, does not insist on the origin's half.
        if stream_id in self.entries or not (stream_id | self._id_bit) & INCOMING_ID_BIT:
            raise RemoteError("BEGIN with a stream id that is not free")
        self._half_closed.pop(stream_id, None)
        try:
            begin = Begin.parse(payload) if command == RelayCommand.BEGIN else DIRECTORY
        except ParseError:
            self.send_message(RelayCommand.END, stream_id, bytes([EndReason.TORPROTOCOL]))
            return
        if len(self.entries) >= MAX_STREAMS:
            self.send_message(RelayCommand.END, stream_id, bytes([EndReason.RESOURCELIMIT]))
            return
        # A place is kept for the answer, which may take time.
        self._keep(stream_id, self._new_stream(stream_id))
        self.on_begin(stream_id, begin, now)

    def _stream_message(self, command: int, stream_id: int, payload: bytes, now: float) -> None:
        entry = self.entries.get(stream_id)
        if entry is None:
            cells, messages, turn = self._half_closed.get(stream_id, (0, 0, 0))
            if messages == 0:
                raise RemoteError("relay message for an unknown stream")
            if command == RelayCommand.END:
                del self._half_closed[stream_id]
            else:
                self._half_closed[stream_id] = cells, messages - 1, turn
            return
        try:
            if command == RelayCommand.END:
                reason = End.parse(payload).reason
                self._drop(stream_id)
                self._ready.pop(entry, None)
                entry.on_end(reason, now)
            elif command == RelayCommand.CONNECTED:
                entry.on_connected(payload, now)
            else:
                entry.on_control(command, payload)
        except StreamError as error:
            self._break(stream_id, entry, error, now)

    def _break(self, stream_id: int, entry: Entry, error: StreamError, now: float) -> None:
        """The far end broke a stream's rules: the stream ends on both sides, the circuit lives."""
        self.send_message(RelayCommand.END, stream_id, bytes([error.reason]))
        self.forget(stream_id)
        self._ready.pop(entry, None)
        entry.on_end(error.reason, now)

    def _late_data(self, stream_id: int, cells: int) -> None:
        allowance, messages, turn = self._half_closed.get(stream_id, (0, 0, 0))
        if allowance < cells:
            raise RemoteError("DATA for an unknown stream", Scope.CIRCUIT, DestroyReason.PROTOCOL)
        self._half_closed[stream_id] = allowance - cells, messages, turn

    def _free_id(self) -> int:
        if len(self.entries) + len(self._resolving) >= MAX_STREAMS:
            raise StreamError("too many streams on this circuit", EndReason.RESOURCELIMIT)
        while True:
            self._last_id = self._last_id % 0x7FFE + 1
            stream_id = self._last_id | self._id_bit
            if not any(stream_id in used for used in (self.entries, self._half_closed, self._resolving)):
                return stream_id
