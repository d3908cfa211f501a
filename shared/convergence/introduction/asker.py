"""Introductions through a circuit: the introducer is asked by somebody it does not know.

Does: build a circuit that ends at the introducer when there is something to send, and keep it while answers may come.
Does not: choose the introducer (ways.py).
"""

from __future__ import annotations

from typing import Protocol as Shape

from convergence.circuit.client import ClientCircuit
from convergence.codes import RtcWhy
from convergence.errors import DestroyReason, LocalError, RemoteError, StreamError, Why
from convergence.introduction.pipe import ASKING, PEER_TARGET, RecordPipe
from convergence.introduction.signalling import Answered, Refused
from convergence.outbox import Outbox, Timer
from convergence.path.pool import Failed, Ready
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import Hello, RecordType

KEEP = 30.0
"""Seconds that the circuit is kept for answers after the last signal."""
MAX_WAITING = 16
"""Signals that wait for the circuit."""


class Circuits(Shape):
    """Builds circuits to peers (path/pool.py)."""

    def peer_circuit(
        self, node: Descriptor, on_ready: Ready, on_failed: Failed, now: float, *, direct: bool
    ) -> None: ...


class CircuitCarrier:
    """A `signalling.Carrier` by way of the introducer `node`; `direct`: with no hop before it, so that it does know."""

    def __init__(self, outbox: Outbox, circuits: Circuits, node: Descriptor, *, direct: bool = False) -> None:
        self._outbox = outbox
        self._circuits = circuits
        self._node = node
        self._direct = direct
        self._waiting: list[tuple[bytes, bytes, Answered, Refused]] = []
        self._building = False
        self._pipe: _AskingPipe | None = None

    def signal(self, to: bytes, sealed: bytes, answered: Answered, refused: Refused, now: float) -> None:
        if self._pipe is not None and not self._pipe.closed:
            self._pipe.keep(now)
            self._pipe.signals.signal(to, sealed, answered, refused, now)
        elif len(self._waiting) >= MAX_WAITING:
            self._outbox.call_at(now, lambda now: refused(Why(RtcWhy.BUSY), now))
        else:
            self._waiting.append((to, sealed, answered, refused))
            if not self._building:
                self._building = True
                self._outbox.call_at(now, self._build)  # later, for it may fail at once and nobody expects that yet

    def _build(self, now: float) -> None:
        self._circuits.peer_circuit(self._node, self._ready, self._failed, now, direct=self._direct)

    def _ready(self, circuit: ClientCircuit, now: float) -> None:
        self._building = False
        pipe = _AskingPipe(self._outbox, circuit)
        try:
            pipe.bind(circuit.open_stream(PEER_TARGET, pipe, now))
        except (LocalError, StreamError):  # it closed just now
            circuit.destroy(DestroyReason.FINISHED, now)
            self._failed(Why(RtcWhy.NO_CARRIER), now)
            return
        self._pipe = pipe
        pipe.keep(now)
        waiting, self._waiting = self._waiting, []
        for to, sealed, answered, refused in waiting:
            pipe.signals.signal(to, sealed, answered, refused, now)

    def _failed(self, why: Why, now: float) -> None:
        self._building = False
        waiting, self._waiting = self._waiting, []
        for *_, refused in waiting:
            refused(why, now)


class _AskingPipe(RecordPipe):
    """Says no HELLO, registers nothing: all that the introducer learns is whom somebody wants to reach."""

    def __init__(self, outbox: Outbox, circuit: ClientCircuit) -> None:
        super().__init__(outbox, ASKING)
        self._circuit = circuit
        self._limit: Timer | None = None

    def keep(self, now: float) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self._outbox.call_at(now + KEEP, lambda now: self.close("no more answers are expected", now))

    def _record(self, kind: RecordType, body: bytes, now: float) -> None:
        if kind is RecordType.REPLY:
            self.signals.reply(body, now)
        elif kind is RecordType.UNREACHABLE:
            self.signals.unreachable(body, now)
        elif Hello.parse(body).identity != self._circuit.path[-1].identity:
            raise RemoteError("HELLO names another node than it can be from")

    def _over(self, why: str, now: float) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._circuit.destroy(DestroyReason.FINISHED, now)
