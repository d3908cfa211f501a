"""The asking end of a rendezvous with a service: any number of connections over a few circuits.

Does: keep a circuit to each of the service's points while connections need them, open each connection as a session on
the least busy one, take another point when one refuses, say by a code why a connection cannot be made.
Does not: know what a connection carries. One that has opened is never moved: its user hears when it breaks, and asks
for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from convergence.circuit.client import ClientCircuit
from convergence.codes import ConnectWhy, Limit, PathWhy
from convergence.errors import DestroyReason, EndReason, LocalError, Problem, StreamError, Why
from convergence.outbox import Outbox, Timer
from convergence.pipes.pending import Pending
from convergence.pipes.pending import Phase as PendingPhase
from convergence.ports import Crypto, Rng
from convergence.rdv.blind import POINTS, blinded_names, ring_of, walk
from convergence.rdv.circuits import LINGER, Backoff, CircuitSource
from convergence.rdv.client import BACKOFF_FIRST, BACKOFF_LIMIT, BUILD_LIMIT, MAX_POINTS
from convergence.rdv.keys import SessionKeys
from convergence.rdv.session import Session
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.rdv import format_rdv_target
from convergence.wire.target import RelayTarget, Role

MAX_CONNECTIONS = 2048  # of one service, those that wait included
MAX_OPENING = 32  # sessions on one circuit that have not opened: a service keeps places for few that prove nothing
MAX_OPEN = 900  # sessions on one circuit
PATIENCE = 10.0  # seconds in which a refusal is not final: the service may be starting, or moving
LIARS = 6  # wrong answers in a row at one point after which it is not expected that somebody else answers there
IDLE_LIMIT = 120.0  # seconds without a connection after which the circuits are given up

_CODES = {
    ConnectWhy.NOBODY: EndReason.RESOLVEFAILED,
    ConnectWhy.BUSY: EndReason.RESOURCELIMIT,
    ConnectWhy.MISLED: EndReason.TORPROTOCOL,
    ConnectWhy.NO_POINTS: EndReason.NOROUTE,
    ConnectWhy.STOPPED: EndReason.DONE,
}
_REFUSALS: dict[int, ConnectWhy] = {
    EndReason.RESOLVEFAILED: ConnectWhy.NOBODY,
    EndReason.RESOURCELIMIT: ConnectWhy.BUSY,
    EndReason.TORPROTOCOL: ConnectWhy.MISLED,
}


class Phase(Enum):
    """Phases of the way over one point."""

    IDLE = "idle"
    BUILDING = "building"  # a circuit
    STANDING = "standing"
    STOPPED = "stopped"


TABLE = Table(
    "way to a service",
    Phase.IDLE,
    {
        Phase.IDLE: {"build": Phase.BUILDING, "stop": Phase.STOPPED},
        Phase.BUILDING: {
            "built": Phase.STANDING,
            "fail": Phase.IDLE,
            "stop": Phase.STOPPED,
            TIMEOUT: Phase.IDLE,
        },
        Phase.STANDING: {"lost": Phase.IDLE, "stop": Phase.STOPPED},
    },
    deadlines={Phase.BUILDING: BUILD_LIMIT},
    standing={
        Phase.IDLE: "Connector.serve builds a circuit when a connection waits and the back-off is over",
        Phase.STANDING: "its circuit closes, or nothing connects for IDLE_LIMIT",
    },
)


class Connection(Pending):
    """One connection to a service, for its user a Duplex.

    Attributes:
        way: the one it was tried on last.
        deadline: when a refusal becomes final, in steady time.
    """

    def __init__(self, connector: Connector, patience: float, now: float) -> None:
        super().__init__(
            connector.outbox,
            lambda code, now: connector.refused(self, code, now),
            lambda now: connector.over(self, now),
            now,
        )
        self.way: _Way | None = None
        self.deadline = connector.outbox.steady(now) + patience
        self._connector = connector

    @property
    def circuit(self) -> ClientCircuit | None:
        """What carries it, if anything does."""
        return None if self.way is None else self.way.circuit_of(self)

    def opened(self, now: float) -> None:
        if self.way is not None:
            self.way.opened(self)
        super().opened(now)
        self._connector.serve(now)

    def _timed_out(self, phase: PendingPhase, now: float) -> None:
        self.why = Why(ConnectWhy.TIMEOUT)
        super()._timed_out(phase, now)


class Connector:
    """All connections to one service.

    Args:
        hash_name: of the service, 32 bytes.
        on_idle: (now), once, when it has stopped because nobody needs it.
    """

    def __init__(
        self,
        hash_name: bytes,
        keys: SessionKeys,
        circuits: CircuitSource,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        *,
        on_idle: Callable[[float], None],
    ) -> None:
        self.hash_name = hash_name
        self.keys = keys
        self.circuits = circuits
        self.outbox = outbox
        self.crypto = crypto
        self.rng = rng
        self.stopped = False
        self.trouble: Why | None = None  # why no circuit to any point could be built
        self._on_idle = on_idle
        self._ring: list[RelayTarget] = []
        self._wanted = POINTS  # points that are to answer: more when the first ones know nobody, up to MAX_POINTS
        self._ways: dict[bytes, _Way] = {}  # by the point's identity
        self._connections: dict[Connection, None] = {}  # MAX_CONNECTIONS
        self._waiting: deque[Connection] = deque()
        self._timer: Timer | None = None
        self._idle_timer: Timer | None = None

    def connect(self, now: float, patience: float = PATIENCE) -> Connection:
        """A new connection. It fails with a reason in `why` if it cannot be made. Raises Problem past MAX_CONNECTIONS.

        Args:
            patience: seconds in which refusals are not final.
        """
        if len(self._connections) >= MAX_CONNECTIONS:
            raise Problem(Limit.CONNECTIONS, most=MAX_CONNECTIONS)
        connection = Connection(self, patience, now)
        self._connections[connection] = None
        self._waiting.append(connection)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        # Not now: the caller has no handler on it yet.
        self.outbox.call_at(now, self.serve)
        return connection

    @property
    def connections(self) -> int:
        """Those that wait included."""
        return len(self._connections)

    def set_nodes(self, nodes: Sequence[RelayTarget], now: float) -> None:
        """The node list changed: choose the points anew. Connections that stand go on."""
        self._ring = ring_of(self.hash_name, [node for node in nodes if node.roles & Role.RDV])
        self.serve(now)

    def woke(self, now: float) -> None:
        """The clock jumped: try now what had to wait."""
        for way in self._ways.values():
            way.retry_at = now
        self.serve(now)

    def stop(self, now: float) -> None:
        """End all connections and circuits."""
        if self.stopped:
            return
        self.stopped = True
        for timer in (self._timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        for connection in list(self._connections):
            self._fail(connection, Why(ConnectWhy.STOPPED), now)
        for way in self._ways.values():
            way.stop(now)
        self._ways.clear()

    # -- matching connections to ways

    def serve(self, now: float) -> None:
        """Start each connection that waits on the least busy way; build ways while some still wait."""
        if self.stopped:
            return
        while self._waiting:
            way = min((way for way in self._ways.values() if way.free(now)), key=lambda way: way.load, default=None)
            if way is None:
                break
            connection = self._waiting.popleft()
            if connection.searching:
                way.take(connection, now)
        if not self._waiting:
            return
        self._choose(now)
        for way in list(self._ways.values()):
            if way.idle and way.retry_at <= now:
                way.build(now)
        self._judge(now)
        self._arm(now)

    def _choose(self, now: float) -> None:
        ways = self._ways

        def answers(point: RelayTarget) -> bool | None:
            return ways[point.identity].answers if point.identity in ways else None

        asked = [way for way in ways.values() if way.answers]
        if len(asked) >= self._wanted and all(way.refusal is ConnectWhy.NOBODY for way in asked):
            self._wanted = min(self._wanted + 1, MAX_POINTS)
        chosen = {point.identity: point for point in walk(self._ring, answers, self._wanted)}
        for identity, way in list(ways.items()):
            if identity not in chosen and not way.load:
                ways.pop(identity).stop(now)
        for identity, point in chosen.items():
            if identity not in ways:
                ways[identity] = _Way(self, point, now)

    def _judge(self, now: float) -> None:
        """Refusals are final for those whose patience is over."""
        why = self._verdict()
        if why is None:
            return
        late = self.outbox.steady(now)
        for connection in [connection for connection in self._waiting if connection.deadline <= late]:
            self._fail(connection, why, now)

    def _verdict(self) -> Why | None:
        """Why no way leads to the service now; None while one may."""
        ways = self._ways.values()
        if not ways:
            return self.trouble or Why(ConnectWhy.NO_POINTS)
        if any(way.hopeful for way in ways):
            return None
        refusals = {way.refusal for way in ways if way.refusal is not None}
        for refusal in (ConnectWhy.BUSY, ConnectWhy.MISLED, ConnectWhy.NOBODY):
            if refusal in refusals:
                return Why(refusal)
        return self.trouble or Why(ConnectWhy.NO_POINTS)

    def _fail(self, connection: Connection, why: Why, now: float) -> None:
        connection.why = why
        code = _CODES.get(why.code, EndReason.NOROUTE) if isinstance(why.code, ConnectWhy) else EndReason.NOROUTE
        connection.fail(code, now)

    def _arm(self, now: float) -> None:
        """Look again when a way may be tried, or when a connection's patience ends."""
        if self._timer is not None:
            self._timer.cancel()
        times = [way.retry_at for way in self._ways.values() if not way.building]
        times += [connection.deadline + self.outbox.shifted for connection in self._waiting]
        later = [time for time in times if time > now]
        if later:
            self._timer = self.outbox.call_at(min(later), self.serve)

    # -- what connections and ways report

    def refused(self, connection: Connection, code: int, now: float) -> None:
        """An attempt of this connection failed before it opened."""
        way = connection.way
        if way is not None and way.refused(connection, code, now):
            return  # it asks for another name
        connection.way = None
        self._waiting.appendleft(connection)
        self.outbox.call_at(now, self.serve)  # not from within the session that ends

    def over(self, connection: Connection, now: float) -> None:
        """A connection has ended, whoever ended it."""
        self._connections.pop(connection, None)
        if connection.way is not None:
            connection.way.left(connection, now)
        elif connection in self._waiting:
            self._waiting.remove(connection)
        if not self._connections and not self.stopped:
            self._idle_timer = self.outbox.call_at(now + IDLE_LIMIT, self.give_way)
        elif self._waiting:
            self.outbox.call_at(now, self.serve)

    def give_way(self, now: float) -> None:
        """Nobody needs it: end its circuits."""
        self.stop(now)
        self._on_idle(now)


@dataclass(slots=True)
class _Attempt:
    """A connection that is opening. The circuit may have been given up for new ones meanwhile."""

    circuit: ClientCircuit
    names: list[bytes]  # still to ask for
    session: Session | None = None


class _Way:
    """The way over one point: a circuit, and the sessions on it."""

    def __init__(self, connector: Connector, point: RelayTarget, now: float) -> None:
        self.retry_at = 0.0
        self.answers: bool | None = None  # whether a circuit to the point could be built; None before it is known
        self.refusal: ConnectWhy | None = None  # what the last attempt met
        self._connector = connector
        self._point = point
        self._machine = StateMachine(TABLE, connector.outbox, self._timed_out, now)
        self._backoff = Backoff(connector.rng, BACKOFF_FIRST, BACKOFF_LIMIT)
        self._circuit: ClientCircuit | None = None
        self._opening: dict[Connection, _Attempt] = {}  # MAX_OPENING
        self._open: dict[Connection, ClientCircuit] = {}  # MAX_OPEN
        self._misled = 0  # times in a row that somebody answered who is not the owner
        self._attempt = 0  # numbers requests for a circuit, to know late answers to old ones

    @property
    def idle(self) -> bool:
        return self._machine.state is Phase.IDLE

    @property
    def building(self) -> bool:
        return self._machine.state is Phase.BUILDING

    @property
    def load(self) -> int:
        return len(self._opening) + len(self._open)

    @property
    def hopeful(self) -> bool:
        """Whether it may still lead somewhere: nothing is known against it. One liar does not speak for all."""
        tried = self.refusal is not None and (self.refusal is not ConnectWhy.MISLED or self._misled >= LIARS)
        return self.building or not tried or bool(self._opening)

    def free(self, now: float) -> bool:
        """Whether it takes another connection now."""
        return (
            self._machine.state is Phase.STANDING
            and self.retry_at <= now
            and len(self._opening) < MAX_OPENING
            and len(self._open) < MAX_OPEN
        )

    def build(self, now: float) -> None:
        self._attempt += 1
        attempt = self._attempt
        connector = self._connector

        def ready(circuit: ClientCircuit, now: float) -> None:
            if attempt != self._attempt:
                circuit.destroy(DestroyReason.FINISHED, now)
                return
            self.answers = True
            self.refusal = None
            self._machine.move("built", now)
            self._circuit = circuit
            circuit.on_closed = lambda reason, now: self._lost(circuit, now)
            connector.serve(now)

        def failed(why: Why, now: float) -> None:
            if attempt != self._attempt:
                return
            self._machine.move("fail", now)
            connector.trouble = why
            self.refusal = ConnectWhy.NO_POINTS
            if why.code is PathWhy.RELAY_SILENT:  # the point did not answer, over any path
                self.answers = False
            self._rest(now)
            connector.serve(now)

        self._machine.move("build", now)
        connector.circuits.rdv_circuit(self._point, connector.hash_name, False, ready, failed, now)

    def take(self, connection: Connection, now: float) -> None:
        """Try this connection here."""
        assert self._circuit is not None
        connection.way = self
        names = blinded_names(self._connector.hash_name, self._point.identity, now)
        self._opening[connection] = _Attempt(self._circuit, names)
        self._ask(connection, now)

    def _ask(self, connection: Connection, now: float) -> None:
        connector, attempt = self._connector, self._opening[connection]
        name = attempt.names.pop(0)
        session = attempt.session = Session(
            connector.crypto,
            connector.rng,
            connector.outbox,
            connector.keys,
            name,
            now=now,
            initiator=True,
            attach=lambda session: connection,
        )
        connection.bind(session)
        try:
            stream = attempt.circuit.open_stream(format_rdv_target(name), session, now)
        except (LocalError, StreamError):  # it closed just now, or has all the streams it can have
            session.abort(EndReason.INTERNAL, now)
            connection.aborted(EndReason.DESTROY, now)
            return
        session.bind(stream)
        if stream.closed:  # BEGIN was one cell too many for a full link
            session.aborted(EndReason.DESTROY, now)

    def opened(self, connection: Connection) -> None:
        """One of its connections opened."""
        self._open[connection] = self._opening.pop(connection).circuit
        self.refusal = None
        self._misled = 0
        self._backoff.reset()

    def refused(self, connection: Connection, code: int, now: float) -> bool:
        """The attempt failed. Returns whether the connection is tried under another name at once."""
        attempt = self._opening[connection]
        if code == EndReason.RESOLVEFAILED and attempt.names and not attempt.circuit.closed:
            self._ask(connection, now)
            return True
        del self._opening[connection]
        self.refusal = _REFUSALS.get(code)
        self._misled = self._misled + 1 if self.refusal is ConnectWhy.MISLED else 0
        if code == EndReason.TIMEOUT and attempt.session is not None and attempt.session.accepted:
            # Whoever serves there says nothing. On this circuit the point gives us another provider, at once; on a new
            # one it could not know, and whom everybody leaves is the least busy.
            self._leave(attempt.circuit, now)
            return False
        if code == EndReason.TIMEOUT and attempt.circuit is self._circuit:  # it may be at fault: take another
            self._retire(now)
        else:
            self._leave(attempt.circuit, now)
        if self._misled != 1:  # the point gives us another provider at once
            self._rest(now)
        return False

    def circuit_of(self, connection: Connection) -> ClientCircuit | None:
        return self._open.get(connection)

    def left(self, connection: Connection, now: float) -> None:
        """A connection has ended."""
        attempt = self._opening.pop(connection, None)
        circuit = self._open.pop(connection, None) if attempt is None else attempt.circuit
        if circuit is not None:
            self._leave(circuit, now)

    def stop(self, now: float) -> None:
        """Give up the circuit; what was just sent still goes out."""
        self._attempt += 1
        self._machine.move("stop", now)
        circuits = {self._circuit, *self._used()} - {None}
        self._circuit = None
        for circuit in circuits:
            assert circuit is not None
            self._give_up(circuit, DestroyReason.FINISHED, LINGER, now)

    # -- inside

    def _leave(self, circuit: ClientCircuit, now: float) -> None:
        """One of its connections is gone. A circuit that takes no new ones ends with its last."""
        if circuit is not self._circuit and circuit not in self._used():
            self._give_up(circuit, DestroyReason.FINISHED, LINGER, now)

    def _used(self) -> set[ClientCircuit]:
        """Circuits that connections are on."""
        return {*self._open.values(), *(attempt.circuit for attempt in self._opening.values())}

    def _give_up(self, circuit: ClientCircuit, reason: DestroyReason, after: float, now: float) -> None:
        circuit.on_closed = None
        self._connector.outbox.call_at(now + after, lambda now: circuit.destroy(reason, now))

    def _rest(self, now: float) -> None:
        if self.retry_at <= now:  # several that fail together count once
            self.retry_at = now + self._backoff.next()

    def _retire(self, now: float) -> None:
        """Use the circuit for no new connection; those that are open on it may go on."""
        circuit, self._circuit = self._circuit, None
        if circuit is not None:
            self._machine.move("lost", now)
            if circuit not in self._open.values():  # what is opening on it would wait in vain as well
                self._give_up(circuit, DestroyReason.TIMEOUT, 0.0, now)

    def _lost(self, circuit: ClientCircuit, now: float) -> None:
        """The circuit closed; its sessions are told by their streams."""
        if self._circuit is circuit:
            self._circuit = None
            self._machine.move("lost", now)
            self._rest(now)
            self._connector.outbox.call_at(now, self._connector.serve)

    def _timed_out(self, phase: Phase, now: float) -> None:
        """The builder of circuits said nothing."""
        self._attempt += 1
        self._rest(now)
        self._connector.serve(now)
