"""Exit streams: a stream of somebody's circuit, joined to a TCP channel of ours.

Does: BEGIN -> Connect -> CONNECTED, bytes and back-pressure both ways, RESOLVE, every end mapped to a reason, an end to
streams that nobody uses.
Does not: resolve, connect, or judge addresses: the shell does, under its exit policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from convergence.circuit.relay import RelayCircuit
from convergence.circuit.streams import Stream
from convergence.effects import CloseLink, Failure, Pause, Protocol, Send
from convergence.errors import EndReason, ParseError
from convergence.limits import gives_way
from convergence.link.meter import Meter
from convergence.outbox import Outbox
from convergence.pipes.duplex import Handler, Pipe, join
from convergence.wire.relay import Answer, AnswerType, Begin, Connected, RelayCommand, Resolved, reverse_address

MAX_EXIT_STREAMS = 768  # at once, unless the shell bears fewer; when they are taken, whoever has most gives way
MAX_CIRCUIT_STREAMS = 64  # on one circuit; else one user could take all
IDLE_LIMIT = 300.0  # seconds without a byte either way, after which a stream ends
LOOK_INTERVAL = 10.0  # seconds between two looks for idle streams
MAX_WAITING = 64 << 20  # bytes that servers leave unread on all streams; beyond, whoever has most loses a stream
MAX_RESOLVES = 1024  # look-ups under way; for one more, whoever has most is told to try again
RESOLVE_TTL = 60  # seconds that an origin may keep an answer; coarse, so that it tells nothing of our cache
MAX_ANSWERS = 8

REASONS: dict[str, EndReason] = {
    "done": EndReason.DONE,
    "policy": EndReason.EXITPOLICY,
    "refused": EndReason.CONNECTREFUSED,
    "resolve": EndReason.RESOLVEFAILED,
    "timeout": EndReason.TIMEOUT,
    "reset": EndReason.CONNRESET,
    "unreachable": EndReason.NOROUTE,
    "limit": EndReason.RESOURCELIMIT,
}
"""What the shell says of a closed TCP channel -> what the origin is told. Anything else is MISC. Behind "policy" stands
the address on the internet that is not allowed, where a name led to one."""


class ExitService:
    """All exit streams of a node, by channel.

    Args:
        source_of: whom limits count a link's channel under.
        streams: at once.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        source_of: Callable[[int], Hashable] = lambda channel: channel,
        streams: int = MAX_EXIT_STREAMS,
    ) -> None:
        self._outbox = outbox
        self._source_of = source_of
        self._most = streams
        self._streams: dict[int, TcpPipe] = {}  # the one that has been idle longest first
        self._waiting = Meter(MAX_WAITING)
        self._look_ups: dict[_LookUp, None] = {}  # the oldest first
        self._looking = False

    def begin(
        self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float, versions: str | None = None
    ) -> None:
        """`versions`: those of IP that may be used, as in Begin; None for any."""
        source = self._source_of(circuit.link.channel)
        if len(circuit.endpoint.entries) > MAX_CIRCUIT_STREAMS or not self._make_way(source, now):
            circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
            return
        target = begin.target if versions is None else f"{begin.target}/{versions}"
        channel = self._outbox.connect(Protocol.TCP, target, source)
        stream = circuit.endpoint.accept_stream(stream_id)
        self._streams[channel] = TcpPipe(self, self._outbox, channel, stream, source, circuit)
        self.used(channel, now)
        if not self._looking:
            self._looking = True
            self._outbox.call_at(now + LOOK_INTERVAL, self._look)

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None:
        def answer(result: Any, now: float) -> None:
            if look_up not in self._look_ups:
                return  # it gave way
            del self._look_ups[look_up]
            if isinstance(result, Failure) or not result:
                kind = AnswerType.ERROR_PERMANENT if isinstance(result, Failure) else AnswerType.ERROR_TRANSIENT
                refuse_resolve(circuit, stream_id, kind)
                return
            make = Answer.of if reverse_address(host) is None else Answer.named
            try:
                answers = tuple(make(item, RESOLVE_TTL) for item in result[:MAX_ANSWERS])
            except ParseError:  # name servers tell what they like
                refuse_resolve(circuit, stream_id, AnswerType.ERROR_PERMANENT)
                return
            circuit.endpoint.send_message(RelayCommand.RESOLVED, stream_id, Resolved(answers).encode())

        look_up = _LookUp(circuit, stream_id, self._source_of(circuit.link.channel))
        if len(self._look_ups) >= MAX_RESOLVES:
            refused = gives_way(self._look_ups, look_up.source) or look_up
            self._look_ups.pop(refused, None)
            refuse_resolve(refused.circuit, refused.stream_id, AnswerType.ERROR_TRANSIENT)
            if refused is look_up:
                return
        self._look_ups[look_up] = None
        self._outbox.resolve(host, answer, look_up.source)

    # -- the node hands TCP channel input here

    def opened(self, channel: int, now: float) -> None:
        stream = self._streams.get(channel)
        if stream is None:
            self._outbox.emit(CloseLink(channel))
        else:
            stream.stream.accept(now, Connected().encode())

    def data(self, channel: int, data: bytes, now: float) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            self.used(channel, now)
            stream.data(data, now)

    def closed(self, channel: int, reason: str, now: float) -> None:
        stream = self._streams.get(channel)
        if stream is None:
            return
        word, _, address = reason.partition(" ")
        if word == "policy" and address:
            del self._streams[channel]
            stream.circuit.endpoint.refuse(stream.stream.id, EndReason.EXITPOLICY, address)
            return
        # It keeps its place until all that came has gone out.
        stream.channel_closed(REASONS.get(reason, EndReason.MISC), now)

    def congested(self, channel: int, congested: bool, now: float) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            stream.hold(congested, now)

    def forget(self, channel: int) -> None:
        """The stream has ended, or is about to: close the channel."""
        stream = self._streams.pop(channel, None)
        if stream is not None and not stream.closed:
            self.read(stream)
            self._outbox.emit(CloseLink(channel))

    def unread(self, stream: TcpPipe, size: int, now: float) -> None:
        """So many bytes more wait for a server that does not read. The source that has most waiting may lose the stream
        that has most: this bounds what all origins together can leave here, whether or not they heed XOFF."""
        stream.waiting += size
        self._waiting.add(size)
        while self._waiting.used > self._waiting.limit:
            waiting: Counter[Hashable] = Counter()
            for other in self._streams.values():
                waiting[other.source] += other.waiting
            crowded = max(waiting, key=lambda source: waiting[source])
            of_it = (other for other in self._streams.values() if other.source == crowded)
            max(of_it, key=lambda other: other.waiting).cut(EndReason.RESOURCELIMIT, now)

    def read(self, stream: TcpPipe) -> None:
        """Nothing waits for this stream's server any more."""
        self._waiting.remove(stream.waiting)
        stream.waiting = 0

    def used(self, channel: int, now: float) -> None:
        """Bytes passed, either way."""
        stream = self._streams.pop(channel, None)
        if stream is not None:
            self._streams[channel] = stream
            stream.used = self._outbox.steady(now)

    # -- inside

    def _make_way(self, source: Hashable, now: float) -> bool:
        """Whether `source` may add a stream. When all are taken, the one that has been idle longest of the source that
        has most may give way."""
        if len(self._streams) < self._most:
            return True
        crowded = gives_way(self._streams.values(), source)
        if crowded is not None:
            crowded.cut(EndReason.RESOURCELIMIT, now)
        return crowded is not None

    def _look(self, now: float) -> None:
        since = self._outbox.steady(now) - IDLE_LIMIT
        while self._streams and (stream := next(iter(self._streams.values()))).used <= since:
            stream.cut(EndReason.TIMEOUT, now)
        self._looking = bool(self._streams)
        if self._looking:
            self._outbox.call_at(now + LOOK_INTERVAL, self._look)


@dataclass(frozen=True, slots=True, eq=False)
class _LookUp:
    circuit: RelayCircuit
    stream_id: int
    source: Hashable


class TcpPipe(Pipe):
    """One TCP channel, as a Duplex that is joined to a stream. TCP can end one way, but the stream's END cannot, so
    `end` closes the channel."""

    handler: Handler | None

    def __init__(
        self,
        service: ExitService,
        outbox: Outbox,
        channel: int,
        stream: Stream,
        source: Hashable,
        circuit: RelayCircuit,
    ) -> None:
        self.source = source
        self.circuit = circuit
        self.stream = stream
        self.closed = False
        self.congested = False
        self.waiting = 0  # bytes written since the channel is congested
        self.used = 0.0  # when bytes passed last, in steady time
        self._service = service
        self._outbox = outbox
        self._channel = channel
        self._unused = 0  # bytes handed up and not consumed: while there are any, we read no more
        self._paused = False
        join(self, stream)

    def cut(self, reason: EndReason, now: float) -> None:
        """End both sides now."""
        self._service.forget(self._channel)
        self.stream.abort(reason, now)

    # -- Duplex

    def write(self, data: bytes, now: float) -> None:
        self._service.used(self._channel, now)
        self._outbox.emit(Send(self._channel, [data]))
        if self.congested:
            self._service.unread(self, len(data), now)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        self._service.forget(self._channel)

    def abort(self, code: int, now: float) -> None:
        self._service.forget(self._channel)

    def consumed(self, size: int, now: float) -> None:
        self._unused -= size
        self._pause(self._unused > 0)

    # -- what the service calls

    def data(self, data: bytes, now: float) -> None:
        self._unused += len(data)
        if self.handler is not None:
            self.handler.data(data, now)
        self._pause(self._unused > 0)

    def hold(self, congested: bool, now: float) -> None:
        self.congested = congested
        if congested:
            return
        self._service.read(self)
        if self.handler is not None:
            self.handler.drained(now)

    def channel_closed(self, reason: EndReason, now: float) -> None:
        """What came of the channel still goes out, whatever closed it."""
        self.closed = True
        self._service.read(self)
        self.stream.end(now, reason)

    def _pause(self, paused: bool) -> None:
        if paused is not self._paused and not self.closed:
            self._paused = paused
            self._outbox.emit(Pause(self._channel, paused))


def refuse_resolve(circuit: RelayCircuit, stream_id: int, kind: AnswerType) -> None:
    """Answer RESOLVE with an error."""
    answer = Answer(kind, b"", RESOLVE_TTL)
    circuit.endpoint.send_message(RelayCommand.RESOLVED, stream_id, Resolved((answer,)).encode())
