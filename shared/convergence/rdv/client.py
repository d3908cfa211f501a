"""The asking end of a rendezvous: finds a node that shares a hash_name, and another when it is lost.

Does: build circuits to the file's points, open an encrypted session over each, retry with back-off, another circuit and
another point, pass over points that do not answer, and say by a code why it waits or gives up.
Does not: know what is fetched: its user gets sessions through `attach` and says how many more it wants.

If nobody is there yet, or all senders are busy, it goes on looking and says which. It gives up if
every point leads only to senders with another key or content, and after WAIT_LIMIT.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from convergence.circuit.client import ClientCircuit
from convergence.codes import PathWhy, TransferWhy
from convergence.errors import DestroyReason, EndReason, LocalError, StreamError, Why
from convergence.netdir.view import Class, Known, View
from convergence.outbox import Outbox, Timer
from convergence.pipes.duplex import Duplex, Handler
from convergence.ports import Crypto, Rng
from convergence.rdv.circuits import LINGER, Backoff, CircuitSource
from convergence.rdv.keys import Subject
from convergence.rdv.referral import Referrals
from convergence.rdv.ring import MAX_AHEAD, POINTS, Ring
from convergence.rdv.session import Session
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.rdv import Name, format_rdv_target
from convergence.wire.target import RelayTarget

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LIMIT = 30.0  # seconds
FAR_LIMIT = 120.0  # the same for points beyond the first POINTS that answer: a sender is rarely only there
BUILD_LIMIT = 180.0  # seconds; the builder of circuits answers much sooner
OPENING_LIMIT = 60.0  # seconds; a session's own deadlines end it sooner (rdv/session.py)
REFER_LIMIT = 60.0  # seconds; three look-ups and an extension, which the builder ends sooner
GIVE_UP_ROUNDS = 4  # failures at every misleading point, until a transfer that never began is given up
REACH_LIMIT = 20.0  # seconds without an answer from any point, until people are told
MAX_POINTS = 2 * POINTS  # points that are asked, of those that answer
WAIT_LIMIT = 24 * 3600.0  # seconds without progress after which a transfer is given up
MAX_ATTEMPTS = 20_000  # attempts without progress after which it is given up too


class Phase(Enum):
    """Phases of the way over one point."""

    IDLE = "idle"
    BUILDING = "building"  # a circuit
    OPENING = "opening"  # a session: BEGIN for one name after the other
    REFERRED = "referred"  # to another point: it is looked up, and the circuit extended
    OPEN = "open"
    STOPPED = "stopped"


TABLE = Table(
    "rdv route",
    Phase.IDLE,
    {
        Phase.IDLE: {"build": Phase.BUILDING, "ask": Phase.OPENING, "stop": Phase.STOPPED},
        Phase.BUILDING: {
            "ask": Phase.OPENING,
            "fail": Phase.IDLE,
            "stop": Phase.STOPPED,
            TIMEOUT: Phase.IDLE,
        },
        Phase.OPENING: {
            "ask": Phase.OPENING,
            "refer": Phase.REFERRED,
            "open": Phase.OPEN,
            "fail": Phase.IDLE,
            "stop": Phase.STOPPED,
            TIMEOUT: Phase.IDLE,
        },
        Phase.REFERRED: {
            "ask": Phase.OPENING,
            "fail": Phase.IDLE,
            "stop": Phase.STOPPED,
            TIMEOUT: Phase.IDLE,
        },
        Phase.OPEN: {"fail": Phase.IDLE, "stop": Phase.STOPPED},
    },
    deadlines={Phase.BUILDING: BUILD_LIMIT, Phase.OPENING: OPENING_LIMIT, Phase.REFERRED: REFER_LIMIT},
    standing={
        Phase.IDLE: "RdvClient.wake opens one, when another session is wanted and the back-off is over",
        Phase.OPEN: "either end of the session closes it (ordb/download.py, ordb/upload.py)",
    },
)


class RdvClient:
    """Finds sessions for one link.

    Args:
        subject: what the link names.
        attach: called as attach(session) for a handler, once for each attempt; most attempts never open.
        needed: how many more open sessions would help now.
        progress: a number that grows as the transfer does; 0 while nothing ever came.
        on_status: (TransferWhy, now), on each change.
        on_give_up: (TransferWhy, now), once; nothing follows.
    """

    def __init__(
        self,
        subject: Subject,
        circuits: CircuitSource,
        view: View[Known],
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        *,
        attach: Callable[[Duplex], Handler],
        needed: Callable[[], int],
        progress: Callable[[], int],
        on_status: Callable[[TransferWhy, float], None],
        on_give_up: Callable[[TransferWhy, float], None],
    ) -> None:
        self.subject = subject
        self.circuits = circuits
        self.outbox = outbox
        self.crypto = crypto
        self.rng = rng
        self.attach = attach
        self.referrals = {owned: Referrals(circuits, outbox) for owned in (True, False)}
        self.progress = progress
        self.stopped = False
        self.others_first = False  # the owner was asked last, in vain
        self._needed = needed
        self._on_status = on_status
        self._on_give_up = on_give_up
        self._ring = Ring(view, outbox, subject.hash_name, self.wake)
        self._wanted = POINTS  # points that are to answer: more when the first ones know nobody, up to MAX_POINTS
        self._routes: dict[bytes, _Route] = {}  # by the point's identity; MAX_WALK, and old ones that are open
        self._attempts = 0
        self._best = 0  # progress when it last grew, and when that was
        self._best_at = 0.0
        self._began = 0.0
        self._status: TransferWhy | None = None
        self._timer: Timer | None = None

    def start(self, points: Class | None, now: float) -> None:
        """Begin to look; `points` as in `set_points`."""
        self._best, self._best_at, self._began = self.progress(), now, now
        self._say(TransferWhy.LOOKING, now)
        self.set_points(points, now)

    def set_points(self, points: Class | None, now: float) -> None:
        """Points are nodes of this class (None: there are none yet), and other nodes may be known than before: choose
        them anew. Sessions that stand go on."""
        self._ring.use(points, now)
        self.wake(now)

    def woke(self, by: float, now: float) -> None:
        """The clock jumped: try now what had to wait."""
        self._best_at += by
        self._began += by
        for route in self._routes.values():
            route.retry_at = min(route.retry_at + by, now)
        self.wake(now)

    def wake(self, now: float) -> None:
        """Start what is wanted and may start; set the timer for the rest."""
        if self.stopped:
            return
        self._choose(now)
        if self._gives_up(now):
            return
        self._tell(now)
        routes = self._routes.values()
        lacking = self._needed() - sum(route.busy for route in routes)
        if lacking > 0 and not self._open:  # the more points were silent, the more are tried at once
            lacking += min(sum(route.answers is False for route in routes), MAX_AHEAD)
        # The route that has waited longest comes first, so that a bad point does not block the others.
        for route in sorted(routes, key=lambda route: route.retry_at):
            if lacking > 0 and route.idle and route.retry_at <= now:
                lacking -= 1
                self._attempts += 1
                route.begin(now)
        self._arm(now)

    def stop(self, now: float) -> None:
        """End all sessions and circuits."""
        if self.stopped:
            return
        self.stopped = True
        self._ring.stop(now)
        if self._timer is not None:
            self._timer.cancel()
        for route in self._routes.values():
            route.stop(now)
        self._routes.clear()

    @property
    def at_owner(self) -> bool:
        """Whether the owner serves us, or is being asked to."""
        return any(route.at_owner for route in self._routes.values())

    @property
    def _open(self) -> bool:
        return any(route.open for route in self._routes.values())

    def _choose(self, now: float) -> None:
        """Choose the points to ask: the first of the ring that answer. Ask more while these know nobody: other points
        may have answered the sender."""
        routes = self._routes

        def answers(point: RelayTarget) -> bool | None:
            return routes[point.identity].answers if point.identity in routes else None

        asked = [route for route in routes.values() if route.answers]
        if len(asked) >= self._wanted and not self._open and all(route.knows_nobody for route in asked):
            self._wanted = min(self._wanted + 1, MAX_POINTS)
        chosen = {point.identity: point for point in self._ring.choose(answers, self._wanted, now)}
        for identity, route in list(routes.items()):
            if identity not in chosen and not route.open:
                routes.pop(identity).stop(now)
        for identity, point in chosen.items():
            if identity not in routes:
                limit = BACKOFF_LIMIT if self._wanted == POINTS else FAR_LIMIT
                routes[identity] = _Route(self, point, limit, now)

    # -- what routes report

    def route_opened(self, now: float) -> None:
        self._tell(now)

    def route_failed(self, now: float) -> None:
        self.wake(now)

    def _tell(self, now: float) -> None:
        """Say what it waits for."""
        routes = self._routes.values()
        if self._needed() <= 0 and not self._open:
            return
        if self._open:
            self._say(TransferWhy.CONNECTED, now)
        elif any(route.found_busy for route in routes):
            self._say(TransferWhy.SENDER_BUSY, now)
        elif self.progress():
            if any(route.failed for route in routes):
                self._say(TransferWhy.SENDER_AWAY, now)
        elif any(route.knows_nobody for route in routes) and all(route.failed for route in routes):
            self._say(TransferWhy.NOBODY, now)
        elif not any(route.answers for route in routes) and now - self._began >= REACH_LIMIT:
            self._say(TransferWhy.NO_POINTS, now)

    def _gives_up(self, now: float) -> bool:
        progress, routes = self.progress(), self._routes.values()
        if progress > self._best:
            self._best, self._best_at, self._attempts = progress, now, 0
        if self._open:
            return False
        if self._needed() <= 0:
            self._best_at = now  # our own pause does not count as waiting
            return False
        answering = [route for route in routes if route.answers]
        asked = answering and all(route.answers is not None for route in routes)  # one point's word is not enough
        if not progress and asked and all(route.misled and route.hopeless for route in answering):
            why = TransferWhy.MISLED
        elif now - self._best_at >= WAIT_LIMIT or self._attempts >= MAX_ATTEMPTS:
            why = TransferWhy.WAITED_LONG
        else:
            return False
        self.stop(now)
        self._on_give_up(why, now)
        return True

    def _arm(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        times = [route.retry_at for route in self._routes.values() if route.idle]
        times += [self._best_at + WAIT_LIMIT, self._began + REACH_LIMIT]
        later = [time for time in times if time > now]
        if later:  # else we are woken by what ends a session or makes one wanted
            self._timer = self.outbox.call_at(min(later), self.wake)

    def _say(self, status: TransferWhy, now: float) -> None:
        if status != self._status:
            self._status = status
            self._on_status(status, now)


class _Route:
    """The way over one point."""

    def __init__(self, client: RdvClient, point: RelayTarget, limit: float, now: float) -> None:
        self.retry_at = 0.0
        self.answers: bool | None = None  # whether a circuit to the point could be built; None before it is known
        self.owned: bool | None = None  # whether it asks for the owner's names now; None before it has asked
        self._client = client
        self._point = point
        self._machine = StateMachine(TABLE, client.outbox, self._timed_out, now)
        self._backoff = Backoff(client.rng, BACKOFF_FIRST, limit)
        self._bans = 0  # senders in a row that were dropped for what they sent
        # One for the owner's names and one for common ones, as `owned`: a point that was asked for both on one circuit
        # could tell that they belong together.
        self._circuits: dict[bool, ClientCircuit] = {}
        self._session: Session | None = None
        self._names: list[Name] = []  # still to ask for
        self._kinds: set[bool] = set()  # of names that there are, as `owned`; and those under which ...
        self._nobody: set[bool] = set()  # ... the point knew nobody when it was asked last
        self._found_busy: set[bool] = set()  # ... somebody was busy then
        self._misled: set[bool] = set()  # ... somebody had another key, or sent something else than the link's file
        self._turn = False  # the last attempt brought nothing
        self._progress = 0  # the client's, when the attempt began
        self._attempt = 0  # numbers attempts, to know late answers to old ones

    @property
    def idle(self) -> bool:
        return self._machine.state is Phase.IDLE

    @property
    def open(self) -> bool:
        return self._machine.state is Phase.OPEN

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way here. One that its point led elsewhere holds up no other."""
        return self._machine.state in (Phase.BUILDING, Phase.OPENING)

    @property
    def at_owner(self) -> bool:
        return bool(self.owned) and self._machine.state not in (Phase.IDLE, Phase.STOPPED)

    @property
    def knows_nobody(self) -> bool:
        return bool(self._kinds) and self._nobody == self._kinds

    @property
    def found_busy(self) -> bool:
        return bool(self._found_busy)

    @property
    def misled(self) -> bool:
        return bool(self._misled)

    @property
    def failed(self) -> bool:
        """Whether the last attempt failed."""
        return self._backoff.failures > 0

    @property
    def hopeless(self) -> bool:
        return self.idle and self._backoff.failures >= GIVE_UP_ROUNDS

    def begin(self, now: float) -> None:
        """Try for a session, over the circuit of the last attempt if it still stands."""
        self._attempt += 1
        attempt = self._attempt
        self._progress = self._client.progress()
        owned = self.owned = self._choose_names(now)
        if self._circuit is not None:
            self._ask_all(self._circuit, now)
            return

        def ready(circuit: ClientCircuit, now: float) -> None:
            if attempt == self._attempt:
                self.answers = True
                self._circuits[owned] = circuit
                circuit.on_closed = lambda reason, now: self._lost(circuit)
                self._ask_all(circuit, now)
            else:
                circuit.destroy(DestroyReason.FINISHED, now)

        def failed(why: Why, now: float) -> None:
            if attempt == self._attempt:
                if why.code is PathWhy.RELAY_SILENT:  # the point did not answer, over any path
                    self.answers = False
                self._fail(now)

        self._machine.move("build", now)
        self._client.circuits.rdv_circuit(self._point, self._client.subject.hash_name, False, ready, failed, now)

    def stop(self, now: float) -> None:
        """End session and circuit; a message that was just sent still goes out."""
        self._attempt += 1
        if not self._machine.final:
            self._machine.move("stop", now)
        session, self._session = self._session, None
        if session is not None:
            session.abort(EndReason.DONE, now)
        for owned in list(self._circuits):
            self._leave(owned, DestroyReason.FINISHED, LINGER, now)

    @property
    def _referrals(self) -> Referrals:
        return self._client.referrals[bool(self.owned)]

    @property
    def _circuit(self) -> ClientCircuit | None:
        circuit = self._circuits.get(bool(self.owned))
        return None if circuit is None or circuit.closed else circuit

    def _choose_names(self, now: float) -> bool:
        """The owner is asked for first, others when that is in vain, and so on in turn."""
        client = self._client
        names = client.subject.names(client.crypto, self._point.identity, now)
        self._kinds = {name.owned for name in names}
        if self.owned is None:
            owned = not (client.others_first or client.at_owner)
        else:
            owned = self.owned != self._turn
        if owned not in self._kinds:
            owned = not owned
        self._turn = False
        return owned

    def _ask_all(self, circuit: ClientCircuit, now: float) -> None:
        """Ask at the circuit's last hop under one name after the other."""
        names = self._client.subject.names(self._client.crypto, circuit.path[-1].identity, now)
        self._names = [name for name in names if name.owned is self.owned]
        self._ask(now)

    def _ask(self, now: float) -> None:
        circuit = self._circuit
        assert circuit is not None
        client = self._client
        self._machine.move("ask", now)
        name = self._names.pop(0)
        session: Session = Session(
            client.crypto,
            client.rng,
            client.outbox,
            client.subject.keys(name),
            name.blinded,
            now=now,
            initiator=True,
            attach=client.attach,
            on_open=self._opened,
            on_over=lambda reason, local, now: self._over(session, reason, local, now),
        )
        self._session = session
        try:
            flags = 0 if self._names else self._referrals.flags(circuit, now)
            session.bind(circuit.open_stream(format_rdv_target(name), session, now, flags))
        except (LocalError, StreamError):  # it closed just now, or has all the streams it can have
            self._session = None
            self._circuits.pop(bool(self.owned), None)
            session.abort(EndReason.INTERNAL, now)
            self._fail(now)

    def _opened(self, now: float) -> None:
        self._machine.move("open", now)
        self._nobody.clear()
        self._found_busy.clear()
        if self._circuit is not None:
            self._referrals.found(self._circuit)
        self._client.route_opened(now)

    def _over(self, session: Session, reason: int, local: bool, now: float) -> None:
        """When we close a session, this is called before its END goes out. A point gives the next stream to its least
        busy provider, so we ask for another stream while the bad sender's still counts."""
        if session is not self._session:
            return
        self._session = None
        opened, owned = self.open, bool(self.owned)
        if self._client.progress() > self._progress:
            self._backoff.reset()
            self._bans = 0
        if local and reason == EndReason.DONE:
            self._machine.move("fail", now)
            self._client.wake(now)
            return
        nobody = not opened and reason == EndReason.RESOLVEFAILED
        if nobody and self._circuit is not None:
            if self._names:
                self._ask(now)
                return
            if self._referrals.any(self._circuit):
                self._follow(self._circuit, now)
                return
        if not opened or local or self._client.progress() == self._progress:
            self._was_in_vain()
        _mark(self._nobody, owned, nobody)
        _mark(self._found_busy, owned, not local and reason == EndReason.RESOURCELIMIT)
        if reason == EndReason.TORPROTOCOL and (local or not opened):
            self._misled.add(owned)
            self._bans += local
        elif nobody:
            self._misled.discard(owned)
        if not opened and reason == EndReason.TIMEOUT:  # the circuit may be at fault: take another
            self._leave(self.owned, DestroyReason.TIMEOUT, 0.0, now)
        self._fail(now, at_once=local and reason == EndReason.TORPROTOCOL and self._bans == 1)

    def _follow(self, circuit: ClientCircuit, now: float) -> None:
        """Ask at a point that this one named."""
        attempt = self._attempt

        def ready(now: float) -> None:
            if attempt == self._attempt:
                self._ask_all(circuit, now)

        def failed(now: float) -> None:
            if attempt == self._attempt:
                self._was_in_vain()
                _mark(self._nobody, bool(self.owned), True)
                _mark(self._found_busy, bool(self.owned), False)
                self._fail(now)

        self._machine.move("refer", now)
        self._referrals.follow(circuit, ready, failed, now)
        self._client.wake(now)

    def _was_in_vain(self) -> None:
        """The attempt brought nothing."""
        self._turn = True
        self._client.others_first = bool(self.owned)

    def _fail(self, now: float, at_once: bool = False) -> None:
        self._attempt += 1
        self._machine.move("fail", now)
        circuit, nobody = self._circuit, bool(self.owned) in self._nobody
        if circuit is not None and nobody and circuit.path[-1].identity != self._point.identity:
            self._leave(self.owned, DestroyReason.FINISHED, 0.0, now)  # to nobody: begin at our point again
        self.retry_at = now if at_once else now + self._backoff.next()
        self._client.route_failed(now)

    def _timed_out(self, phase: Phase, now: float) -> None:
        """The builder or the session should have given up sooner, and did not."""
        self._attempt += 1
        session, self._session = self._session, None
        if session is not None:
            session.abort(EndReason.TIMEOUT, now)
        self._leave(self.owned, DestroyReason.TIMEOUT, 0.0, now)
        self.retry_at = now + self._backoff.next()
        self._client.route_failed(now)

    def _leave(self, owned: bool | None, reason: DestroyReason, after: float, now: float) -> None:
        """Give up a circuit, at once or some seconds later."""
        circuit = self._circuits.pop(bool(owned), None)
        if circuit is None:
            return
        circuit.on_closed = None
        if after:
            self._client.outbox.call_at(now + after, lambda now: circuit.destroy(reason, now))
        else:
            circuit.destroy(reason, now)

    def _lost(self, circuit: ClientCircuit) -> None:
        """The circuit closed; its stream is told separately."""
        self._circuits = {owned: other for owned, other in self._circuits.items() if other is not circuit}


def _mark(kinds: set[bool], owned: bool, found: bool) -> None:
    (kinds.add if found else kinds.discard)(owned)
