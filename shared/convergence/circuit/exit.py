"""Exit streams: a stream of somebody's circuit, joined to a TCP channel of ours.

Does: BEGIN -> Connect -> CONNECTED, bytes and back-pressure both ways, RESOLVE, every end mapped to a reason.
Does not: resolve, connect, or judge addresses: the shell does, under its exit policy.
"""

from __future__ import annotations

from typing import Any

from convergence.circuit.relay import RelayCircuit
from convergence.circuit.streams import Stream
from convergence.effects import CloseLink, Failure, Pause, Protocol, Send
from convergence.errors import EndReason
from convergence.outbox import Outbox
from convergence.wire.relay import Answer, AnswerType, Begin, Connected, RelayCommand, Resolved

MAX_EXIT_STREAMS = 4096
MAX_CIRCUIT_STREAMS = 64  # on one circuit; else one user could take all
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
        self._streams: dict[int, ExitStream] = {}
        self._resolving = 0

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        if len(self._streams) >= MAX_EXIT_STREAMS or len(circuit.endpoint.entries) > MAX_CIRCUIT_STREAMS:
            circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
            return
        channel = self._outbox.connect(Protocol.TCP, begin.target)
        stream = circuit.endpoint.accept_stream(stream_id)
        self._streams[channel] = ExitStream(self, self._outbox, channel, stream)

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
            stream.opened(now)

    def data(self, channel: int, data: bytes, now: float) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            stream.from_target(data)

    def closed(self, channel: int, reason: str, now: float) -> None:
        stream = self._streams.pop(channel, None)
        if stream is not None:
            stream.target_closed(REASONS.get(reason, EndReason.MISC))

    def congested(self, channel: int, congested: bool, now: float) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            stream.hold(congested)

    def forget(self, channel: int) -> None:
        """The origin ended the stream: close the channel."""
        if self._streams.pop(channel, None) is not None:
            self._outbox.emit(CloseLink(channel))


class ExitStream:
    """One stream; the handler of its circuit side."""

    def __init__(self, service: ExitService, outbox: Outbox, channel: int, stream: Stream) -> None:
        self._service = service
        self._outbox = outbox
        self._channel = channel
        self._stream = stream
        self._paused = False
        stream.handler = self

    def opened(self, now: float) -> None:
        self._stream.accept(now, Connected().encode())

    def from_target(self, data: bytes) -> None:
        self._stream.send(data)
        if self._stream.congested and not self._paused:
            self._paused = True
            self._outbox.emit(Pause(self._channel, True))

    def target_closed(self, reason: EndReason) -> None:
        self._stream.end(reason)

    def hold(self, held: bool) -> None:
        self._stream.hold(held)

    def connected(self, now: float) -> None:
        """Nothing to do: we sent CONNECTED ourselves."""

    def data(self, data: bytes, now: float) -> None:
        self._outbox.emit(Send(self._channel, [data]))

    def writable(self, now: float) -> None:
        if self._paused:
            self._paused = False
            self._outbox.emit(Pause(self._channel, False))

    def ended(self, reason: int, now: float) -> None:
        self._service.forget(self._channel)


def refuse_resolve(circuit: RelayCircuit, stream_id: int, kind: AnswerType) -> None:
    """Answer RESOLVE with an error."""
    answer = Answer(kind, b"", RESOLVE_TTL)
    circuit.endpoint.send_message(RelayCommand.RESOLVED, stream_id, Resolved((answer,)).encode())
