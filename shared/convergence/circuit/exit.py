"""Exit streams: a stream of somebody's circuit, joined to a TCP channel of ours.

Does: BEGIN -> Connect -> CONNECTED, bytes and back-pressure both ways, RESOLVE, every end mapped to a reason, an end to
streams that nobody uses.
Does not: resolve, connect, or judge addresses: the shell does, under its exit policy.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from convergence.circuit.relay import RelayCircuit
from convergence.circuit.streams import Stream
from convergence.effects import CloseLink, Failure, Pause, Protocol, Send
from convergence.errors import EndReason
from convergence.link.link import Link
from convergence.outbox import Outbox
from convergence.pipes.duplex import Handler, join
from convergence.wire.relay import Answer, AnswerType, Begin, Connected, RelayCommand, Resolved

MAX_EXIT_STREAMS = 768  # of all links; when they are taken, the link that has most gives way
MAX_CIRCUIT_STREAMS = 64  # on one circuit; else one user could take all
IDLE_LIMIT = 300.0  # seconds without a byte either way, after which a stream ends
LOOK_INTERVAL = 10.0  # seconds between two looks for idle streams
MAX_RESOLVES = 1024  # look-ups under way; more are told to try again
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
"""What the shell says of a closed TCP channel -> what the origin is told. Anything else is MISC."""


class ExitService:
    """All exit streams of a node, by channel."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._streams: dict[int, TcpPipe] = {}  # the one that has been idle longest first
        self._of_link: Counter[Link] = Counter()
        self._looking = False
        self._resolving = 0

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        if len(circuit.endpoint.entries) > MAX_CIRCUIT_STREAMS or not self._make_way(circuit.link, now):
            circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
            return
        channel = self._outbox.connect(Protocol.TCP, begin.target)
        stream = circuit.endpoint.accept_stream(stream_id)
        self._streams[channel] = TcpPipe(self, self._outbox, channel, stream, circuit.link)
        self._of_link[circuit.link] += 1
        self.used(channel, now)
        if not self._looking:
            self._looking = True
            self._outbox.call_at(now + LOOK_INTERVAL, self._look)

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None:
        def answer(result: Any, now: float) -> None:
            self._resolving -= 1
            if isinstance(result, Failure) or not result:
                kind = AnswerType.ERROR_PERMANENT if isinstance(result, Failure) else AnswerType.ERROR_TRANSIENT
                refuse_resolve(circuit, stream_id, kind)
                return
            answers = tuple(Answer.of(address, RESOLVE_TTL) for address in result[:MAX_ANSWERS])
            circuit.endpoint.send_message(RelayCommand.RESOLVED, stream_id, Resolved(answers).encode())

        if self._resolving >= MAX_RESOLVES:
            refuse_resolve(circuit, stream_id, AnswerType.ERROR_TRANSIENT)
            return
        self._resolving += 1
        self._outbox.resolve(host, answer)

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
        stream = self._remove(channel)
        if stream is not None:
            stream.channel_closed(REASONS.get(reason, EndReason.MISC), now)

    def congested(self, channel: int, congested: bool, now: float) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            stream.hold(congested, now)

    def forget(self, channel: int) -> None:
        """The stream has ended, or is about to: close the channel."""
        if self._remove(channel) is not None:
            self._outbox.emit(CloseLink(channel))

    def used(self, channel: int, now: float) -> None:
        """Bytes passed, either way."""
        stream = self._streams.pop(channel, None)
        if stream is not None:
            self._streams[channel] = stream
            stream.used = self._outbox.steady(now)

    # -- inside

    def _remove(self, channel: int) -> TcpPipe | None:
        stream = self._streams.pop(channel, None)
        if stream is not None:
            self._of_link[stream.link] -= 1
            if not self._of_link[stream.link]:
                del self._of_link[stream.link]
        return stream

    def _make_way(self, link: Link, now: float) -> bool:
        """Whether `link` may add a stream. When all are taken, the link that has most loses the one that has been idle
        longest, unless `link` would then have as many: so whoever has less than its share always gets one."""
        if len(self._streams) < MAX_EXIT_STREAMS:
            return True
        [(crowded, most)] = self._of_link.most_common(1)
        if self._of_link[link] + 1 >= most:
            return False
        next(stream for stream in self._streams.values() if stream.link is crowded).cut(EndReason.RESOURCELIMIT, now)
        return True

    def _look(self, now: float) -> None:
        since = self._outbox.steady(now) - IDLE_LIMIT
        while self._streams and (stream := next(iter(self._streams.values()))).used <= since:
            stream.cut(EndReason.TIMEOUT, now)
        self._looking = bool(self._streams)
        if self._looking:
            self._outbox.call_at(now + LOOK_INTERVAL, self._look)


class TcpPipe:
    """One TCP channel, as a Duplex that is joined to a stream. TCP can end one way, but the stream's END cannot, so
    `end` closes the channel."""

    handler: Handler | None

    def __init__(self, service: ExitService, outbox: Outbox, channel: int, stream: Stream, link: Link) -> None:
        self.link = link
        self.stream = stream
        self.closed = False
        self.congested = False
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

    def end(self, now: float) -> None:
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
        if not congested and self.handler is not None:
            self.handler.drained(now)

    def channel_closed(self, reason: EndReason, now: float) -> None:
        """What came of the channel still goes out, whatever closed it."""
        self.closed = True
        self.stream.end(now, reason)

    def _pause(self, paused: bool) -> None:
        if paused is not self._paused:
            self._paused = paused
            self._outbox.emit(Pause(self._channel, paused))


def refuse_resolve(circuit: RelayCircuit, stream_id: int, kind: AnswerType) -> None:
    """Answer RESOLVE with an error."""
    answer = Answer(kind, b"", RESOLVE_TTL)
    circuit.endpoint.send_message(RelayCommand.RESOLVED, stream_id, Resolved((answer,)).encode())
