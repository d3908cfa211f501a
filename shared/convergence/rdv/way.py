"""The way to a service over one of its points: a circuit, and the sessions on it.

Does: build the circuit and rest when that fails, ask on it for the service under each of its names, know from the
answers whether it is worth another try.
Does not: choose points, or decide on which way a connection is tried: connector.py does.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol as Shape

from convergence.circuit.client import ClientCircuit
from convergence.codes import ConnectWhy, PathWhy
from convergence.errors import DestroyReason, EndReason, LocalError, StreamError, Why
from convergence.outbox import Outbox, Timer
from convergence.pipes.pending import Pending
from convergence.pipes.pending import Phase as PendingPhase
from convergence.ports import Crypto, Rng
from convergence.rdv.blind import days_in_use
from convergence.rdv.circuits import LINGER, Backoff, CircuitSource
from convergence.rdv.client import BACKOFF_FIRST, BACKOFF_LIMIT, BUILD_LIMIT, REFER_LIMIT
from convergence.rdv.keys import Subject
from convergence.rdv.referral import Referrals
from convergence.rdv.session import Session
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.rdv import Name, format_rdv_target
from convergence.wire.target import RelayTarget

MAX_OPENING = 32  # sessions on one circuit that have not opened: a service keeps places for few that prove nothing
MAX_OPEN = 900  # sessions on one circuit
LIARS = 6  # wrong answers in a row at one point after which it is not expected that somebody else answers there

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
    REFERRED = "referred"  # to another point: it is looked up, and the circuit extended
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
        Phase.STANDING: {"refer": Phase.REFERRED, "lost": Phase.IDLE, "stop": Phase.STOPPED},
        Phase.REFERRED: {
            "built": Phase.STANDING,
            "fail": Phase.IDLE,
            "lost": Phase.IDLE,
            "stop": Phase.STOPPED,
            TIMEOUT: Phase.IDLE,
        },
    },
    deadlines={Phase.BUILDING: BUILD_LIMIT, Phase.REFERRED: REFER_LIMIT},
    standing={
        Phase.IDLE: "Connector.serve builds a circuit when a connection waits and the back-off is over",
        Phase.STANDING: "its circuit closes, or nothing connects for IDLE_LIMIT",
    },
)


class Owner(Shape):
    """The connector, as its connections and ways see it."""

    subject: Subject
    circuits: CircuitSource
    referrals: Referrals
    outbox: Outbox
    crypto: Crypto
    rng: Rng
    trouble: Why | None

    def serve(self, now: float) -> None:
        """Something changed for those that wait."""
        ...

    def opened(self, attempt: Attempt, now: float) -> None:
        """An attempt opened."""
        ...

    def refused(self, attempt: Attempt, code: int, now: float) -> None:
        """An attempt failed before it opened."""
        ...

    def over(self, connection: Connection, now: float) -> None:
        """A connection has ended, whoever ended it."""
        ...


class Connection(Pending):
    """One connection to a service, for its user a Duplex.

    Its carrier is the session that opens first: none is bound before. Somebody else who answers later is left at once.

    Attributes:
        way: the one it is open on.
        attempts: under way, the latest one last; MAX_ATTEMPTS.
        deadline: when a refusal becomes final, in steady time.
    """

    def __init__(self, connector: Owner, patience: float, now: float) -> None:
        super().__init__(connector.outbox, lambda code, now: None, lambda now: connector.over(self, now), now)
        self.way: Way | None = None
        self.attempts: list[Attempt] = []
        self.hurry: Timer | None = None
        self.deadline = connector.outbox.steady(now) + patience
        self._connector = connector

    @property
    def circuit(self) -> ClientCircuit | None:
        """What carries it, if anything does."""
        return None if self.way is None else self.way.circuit_of(self)

    def leave_attempts(self, code: int, now: float) -> None:
        """Give up all that are under way."""
        if self.hurry is not None:
            self.hurry.cancel()
        attempts, self.attempts = self.attempts, []
        for attempt in attempts:
            attempt.way.left(attempt, now)
            attempt.session.abort(code, now)

    def _timed_out(self, phase: PendingPhase, now: float) -> None:
        self.why = Why(ConnectWhy.TIMEOUT)
        super()._timed_out(phase, now)


class Attempt:
    """A connection that is opening on a way: the handler of its session until it has.

    Attributes:
        circuit: may have been given up for new ones meanwhile.
        names: still to ask for at the circuit's last hop.
    """

    session: Session

    def __init__(self, connection: Connection, way: Way, circuit: ClientCircuit, now: float) -> None:
        self.connection = connection
        self.way = way
        self.circuit = circuit
        self.names: list[Name] = []
        self.began = now

    def opened(self, now: float) -> None:
        self.way.connector.opened(self, now)

    def data(self, data: bytes, now: float) -> None:
        """None comes before it has opened."""

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        """None is told before it has opened."""

    def aborted(self, code: int, now: float) -> None:
        self.way.connector.refused(self, code, now)


class Way:
    """The way over one point: a circuit, and the sessions on it."""

    def __init__(self, connector: Owner, point: RelayTarget, now: float) -> None:
        self.retry_at = 0.0
        self.answers: bool | None = None  # whether a circuit to the point could be built; None before it is known
        self.refusal: ConnectWhy | None = None  # what the last attempt met
        self.connector = connector
        self._point = point
        self._machine = StateMachine(TABLE, connector.outbox, self._timed_out, now)
        self._backoff = Backoff(connector.rng, BACKOFF_FIRST, BACKOFF_LIMIT)
        self._circuit: ClientCircuit | None = None
        self._opening: dict[Attempt, None] = {}  # MAX_OPENING
        self._open: dict[Connection, ClientCircuit] = {}  # MAX_OPEN
        self._names: tuple[object, list[Name]] | None = None  # of these days, at this point
        self._misled = 0  # times in a row that somebody answered who is not the owner
        self._attempt = 0  # numbers requests for a circuit, to know late answers to old ones

    @property
    def idle(self) -> bool:
        return self._machine.state is Phase.IDLE

    @property
    def building(self) -> bool:
        """Whether a circuit is being built, or extended."""
        return self._machine.state in (Phase.BUILDING, Phase.REFERRED)

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
        connector = self.connector

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
        connector.circuits.rdv_circuit(self._point, connector.subject.hash_name, False, ready, failed, now)

    def take(self, connection: Connection, now: float) -> None:
        """Try this connection here."""
        assert self._circuit is not None
        attempt = Attempt(connection, self, self._circuit, now)
        connection.attempts.append(attempt)
        self._opening[attempt] = None
        self._ask_all(attempt, now)

    def _ask_all(self, attempt: Attempt, now: float) -> None:
        """Ask at the circuit's last hop under one name after the other."""
        point = attempt.circuit.path[-1].identity
        days = days_in_use(now, point)
        if self._names is None or self._names[0] != (point, days):
            self._names = (point, days), self.connector.subject.names(self.connector.crypto, point, now)
        attempt.names = list(self._names[1])
        self._ask(attempt, now)

    def _ask(self, attempt: Attempt, now: float) -> None:
        connector = self.connector
        name = attempt.names.pop(0)
        session = attempt.session = Session(
            connector.crypto,
            connector.rng,
            connector.outbox,
            connector.subject.keys(name),
            name.blinded,
            now=now,
            initiator=True,
            attach=lambda session: attempt,
        )
        try:
            flags = 0 if attempt.names else connector.referrals.flags(attempt.circuit, now)
            stream = attempt.circuit.open_stream(format_rdv_target(name), session, now, flags)
        except (LocalError, StreamError):  # it closed just now, or has all the streams it can have
            session.abort(EndReason.INTERNAL, now)
            attempt.aborted(EndReason.DESTROY, now)
            return
        session.bind(stream)
        if stream.closed:  # BEGIN was one cell too many for a full link
            session.aborted(EndReason.DESTROY, now)

    def opened(self, attempt: Attempt) -> None:
        """One of its connections opened."""
        del self._opening[attempt]
        self._open[attempt.connection] = attempt.circuit
        self.connector.referrals.found(attempt.circuit)
        self.refusal = None
        self._misled = 0
        self._backoff.reset()

    def refused(self, attempt: Attempt, code: int, now: float) -> bool:
        """It failed. Returns whether it is tried under another name at once."""
        if code == EndReason.RESOLVEFAILED and attempt.names and not attempt.circuit.closed:
            self._ask(attempt, now)
            return True
        standing = attempt.circuit is self._circuit and self._machine.state is Phase.STANDING
        if code == EndReason.RESOLVEFAILED and standing and self.connector.referrals.any(attempt.circuit):
            self._follow(attempt, now)
            return True
        del self._opening[attempt]
        self.refusal = _REFUSALS.get(code)
        self._misled = self._misled + 1 if self.refusal is ConnectWhy.MISLED else 0
        if code == EndReason.TIMEOUT and attempt.session.accepted:
            # Whoever serves there says nothing. On this circuit the point gives us another provider, at once; on a new
            # one it could not know, and whom everybody leaves is the least busy.
            self._leave(attempt.circuit, now)
            return False
        if code == EndReason.TIMEOUT and attempt.circuit is self._circuit:  # it may be at fault: take another
            self._retire(now)
        elif code == EndReason.RESOLVEFAILED and attempt.circuit is self._circuit and self._led_on:
            self._retire(now)  # to nobody: begin at our point again
        else:
            self._leave(attempt.circuit, now)
        if self._misled != 1:  # the point gives us another provider at once
            self._rest(now)
        return False

    def _follow(self, attempt: Attempt, now: float) -> None:
        """Ask at a point that this one named, on behalf of one connection; others may follow there."""
        circuit = attempt.circuit

        def over(now: float) -> None:
            if circuit is self._circuit and self._machine.state is Phase.REFERRED:
                self._machine.move("built", now)

        def ready(now: float) -> None:
            over(now)
            if attempt in self._opening:
                self._ask_all(attempt, now)
            self.connector.serve(now)

        def failed(now: float) -> None:
            over(now)
            if attempt in self._opening:
                self.connector.refused(attempt, EndReason.RESOLVEFAILED, now)

        self._machine.move("refer", now)
        self.connector.referrals.follow(circuit, ready, failed, now)

    def circuit_of(self, connection: Connection) -> ClientCircuit | None:
        return self._open.get(connection)

    def left(self, attempt: Attempt, now: float) -> None:
        """It is not needed any more."""
        del self._opening[attempt]
        self._leave(attempt.circuit, now)

    def ended(self, connection: Connection, now: float) -> None:
        """One of its connections has ended."""
        self._leave(self._open.pop(connection), now)

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

    @property
    def _led_on(self) -> bool:
        """Whether the circuit has left our point behind."""
        return self._circuit is not None and self._circuit.path[-1].identity != self._point.identity

    def _leave(self, circuit: ClientCircuit, now: float) -> None:
        """One of its connections is gone. A circuit that takes no new ones ends with its last."""
        if circuit is not self._circuit and circuit not in self._used():
            self._give_up(circuit, DestroyReason.FINISHED, LINGER, now)

    def _used(self) -> set[ClientCircuit]:
        """Circuits that connections are on."""
        return {*self._open.values(), *(attempt.circuit for attempt in self._opening)}

    def _give_up(self, circuit: ClientCircuit, reason: DestroyReason, after: float, now: float) -> None:
        circuit.on_closed = None
        self.connector.outbox.call_at(now + after, lambda now: circuit.destroy(reason, now))

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
            self.connector.outbox.call_at(now, self.connector.serve)

    def _timed_out(self, phase: Phase, now: float) -> None:
        """The builder of circuits said nothing, or whoever looks nodes up."""
        self._attempt += 1
        self._rest(now)
        circuit, self._circuit = self._circuit, None
        if circuit is not None:
            self._give_up(circuit, DestroyReason.TIMEOUT, 0.0, now)
            for attempt in [attempt for attempt in self._opening if attempt.circuit is circuit]:
                self.connector.refused(attempt, EndReason.TIMEOUT, now)
        self.connector.serve(now)
