"""Introductions through a circuit: the introducer does not learn who asks.

Does: build a circuit that ends at the introducer when there is something to send, and keep it while answers may come.
Does not: choose the introducer (ways.py).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol as Shape

from convergence.circuit.client import ClientCircuit
from convergence.codes import RtcWhy
from convergence.errors import DestroyReason, LocalError, RemoteError, StreamError, Why
from convergence.introduction.pipe import ASKING, PEER_TARGET, RecordPipe
from convergence.introduction.signalling import Answered, Refused
from convergence.outbox import Outbox
from convergence.path.place import Failed, Ready
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import BucketRequest
from convergence.wire.facilitator import Hello, RecordType
from convergence.wire.target import RelayTarget

BUILD_TIMEOUT = 15.0
"""Seconds within which the circuit has to be built."""
KEEP = 30.0
"""Seconds that the circuit is kept for answers after the last signal."""
MAX_WAITING = 16
"""Signals that wait for the circuit."""


class State(Enum):
    """Of one circuit to the introducer."""

    BUILDING = auto()
    OPEN = auto()
    OVER = auto()


CIRCUIT = Table(
    "circuit to an introducer",
    State.BUILDING,
    {
        State.BUILDING: {"ready": State.OPEN, "end": State.OVER, TIMEOUT: State.OVER},
        State.OPEN: {"end": State.OVER, TIMEOUT: State.OVER},
    },
    deadlines={State.BUILDING: BUILD_TIMEOUT, State.OPEN: KEEP},
)


class Circuits(Shape):
    """Builds circuits to peers (path/pool.py)."""

    def peer_circuit(
        self, node: RelayTarget, on_ready: Ready, on_failed: Failed, now: float, *, direct: bool
    ) -> None: ...


class CircuitCarrier:
    """A `signalling.Carrier` through the introducer `node`; `direct`: with no hop before it, so it learns who asks.
    It also asks the node for buckets; on_header(an encoded epoch header, now) is called where it sends one."""

    def __init__(
        self,
        outbox: Outbox,
        circuits: Circuits,
        node: RelayTarget,
        *,
        direct: bool = False,
        on_header: Callable[[bytes, float], None] = lambda raw, now: None,
    ) -> None:
        self._outbox = outbox
        self._circuits = circuits
        self._node = node
        self._direct = direct
        self._on_header = on_header
        self._way: _Way | None = None  # the latest one

    def signal(self, to: bytes, sealed: bytes, answered: Answered, refused: Refused, now: float) -> None:
        self._use(lambda pipe, now: pipe.signals.signal(to, sealed, answered, refused, now), refused, now)

    def fetch(self, request: BucketRequest, then: Callable[[bytes, float], None], now: float) -> None:
        """Ask the node for a bucket: then(it, or nothing, now) follows."""
        self._use(lambda pipe, now: pipe.fetch(request, then, now), lambda why, now: then(b"", now), now)

    def _use(self, do: Callable[[AskingPipe, float], None], refused: Refused, now: float) -> None:
        if self._way is None or self._way.over:
            self._way = _Way(self._outbox, self._on_header, now)
            self._outbox.call_at(now, self._build)  # later: it may fail at once, which the caller does not expect
        self._way.use(do, refused, now)

    def _build(self, now: float) -> None:
        assert self._way is not None
        self._circuits.peer_circuit(self._node, self._way.ready, self._way.failed, now, direct=self._direct)


class _Way:
    """One circuit, from the time it is wanted until it is gone."""

    def __init__(self, outbox: Outbox, on_header: Callable[[bytes, float], None], now: float) -> None:
        self._outbox = outbox
        self._on_header = on_header
        self._machine = StateMachine(CIRCUIT, outbox, self._timed_out, now)
        self._waiting: list[tuple[Callable[[AskingPipe, float], None], Refused]] = []
        self._pipe: AskingPipe | None = None

    @property
    def over(self) -> bool:
        return self._machine.final

    def use(self, do: Callable[[AskingPipe, float], None], refused: Refused, now: float) -> None:
        if self._pipe is not None:
            self._machine.extend(now)
            do(self._pipe, now)
        elif len(self._waiting) >= MAX_WAITING:
            self._outbox.call_at(now, lambda now: refused(Why(RtcWhy.BUSY), now))
        else:
            self._waiting.append((do, refused))

    def ready(self, circuit: ClientCircuit, now: float) -> None:
        if self.over:
            circuit.destroy(DestroyReason.FINISHED, now)
            return
        pipe = AskingPipe(self._outbox, circuit, self._on_header, self._ended)
        try:
            pipe.bind(circuit.open_stream(PEER_TARGET, pipe, now))
        except (LocalError, StreamError):  # it closed just now
            circuit.destroy(DestroyReason.FINISHED, now)
            self.failed(Why(RtcWhy.NO_CARRIER), now)
            return
        self._machine.move("ready", now)
        self._pipe = pipe
        waiting, self._waiting = self._waiting, []
        for do, _ in waiting:
            do(pipe, now)

    def failed(self, why: Why, now: float) -> None:
        self._ended(now)
        waiting, self._waiting = self._waiting, []
        for _, refused in waiting:
            refused(why, now)

    def _ended(self, now: float) -> None:
        if not self.over:
            self._machine.move("end", now)

    def _timed_out(self, state: State, now: float) -> None:
        if self._pipe is not None:
            self._pipe.close("no more answers are expected", now)
        else:
            self.failed(Why(RtcWhy.NO_CARRIER), now)


class AskingPipe(RecordPipe):
    """Says no HELLO and registers nothing: the other end learns only which node, or bucket, somebody wants.

    Args:
        on_header: called with an encoded epoch header that nobody has checked, and `now`. May raise ParseError.
        ended: called with `now` when it is closed.
    """

    def __init__(
        self,
        outbox: Outbox,
        circuit: ClientCircuit,
        on_header: Callable[[bytes, float], None],
        ended: Callable[[float], None],
    ) -> None:
        super().__init__(outbox, ASKING)
        self._circuit = circuit
        self._on_header = on_header
        self._ended = ended

    def _record(self, kind: RecordType, body: bytes, now: float) -> None:
        if kind is RecordType.REPLY:
            self.signals.reply(body, now)
        elif kind is RecordType.UNREACHABLE:
            self.signals.unreachable(body, now)
        elif kind is RecordType.BUCKET:
            self._on_bucket(body, now)
        elif kind is RecordType.HEADER:
            if not self._fetching:
                raise RemoteError("HEADER that was not asked for")
            self._on_header(body, now)
        elif Hello.parse(body).identity != self._circuit.path[-1].identity:
            raise RemoteError("HELLO names another node than it can be from")

    def _over(self, why: str, now: float) -> None:
        self._ended(now)
        self._circuit.destroy(DestroyReason.FINISHED, now)
