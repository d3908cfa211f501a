"""The asking end of a rendezvous with a service: any number of connections over a few circuits.

Does: keep a circuit to each of the service's points while connections need them, open each connection as a session on
the least busy one, ask a second provider besides when the first takes its time, take another point when one refuses,
say by a code why a connection cannot be made.
Does not: know what a connection carries. One that has opened is never moved: its user hears when it breaks, and asks
for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from convergence.codes import ConnectWhy, Limit
from convergence.errors import Code, EndReason, Problem, Why
from convergence.netdir.view import Class, Known, View
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto, Rng
from convergence.rdv.circuits import CircuitSource
from convergence.rdv.client import MAX_POINTS
from convergence.rdv.keys import Subject
from convergence.rdv.referral import Referrals
from convergence.rdv.ring import POINTS, Ring
from convergence.rdv.way import Attempt, Connection, Way
from convergence.wire.target import RelayTarget

MAX_CONNECTIONS = 2048  # of one service, those that wait included
PATIENCE = 10.0  # seconds in which a refusal is not final: the service may be starting, or moving
SECOND_AFTER = 2.0  # seconds without an answer after which a second provider is tried besides (as RFC 8305, section 5)
MAX_ATTEMPTS = 2  # of one connection at once
IDLE_LIMIT = 120.0  # seconds without a connection after which the circuits are given up

_STOPPED = Why(ConnectWhy.STOPPED)
_CODES: dict[Code, EndReason] = {
    ConnectWhy.NOBODY: EndReason.RESOLVEFAILED,
    ConnectWhy.BUSY: EndReason.RESOURCELIMIT,
    ConnectWhy.MISLED: EndReason.TORPROTOCOL,
    ConnectWhy.NO_POINTS: EndReason.NOROUTE,
    ConnectWhy.STOPPED: EndReason.DONE,
    Limit.SERVICES: EndReason.RESOURCELIMIT,
}


class Connector:
    """All connections to one service.

    Args:
        subject: the service.
        on_idle: (now), once, when it has stopped because nobody needs it, or others need its place more.
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
        on_idle: Callable[[float], None],
    ) -> None:
        self.subject = subject
        self.circuits = circuits
        self.outbox = outbox
        self.crypto = crypto
        self.rng = rng
        self.referrals = Referrals(circuits, outbox)
        self.stopped = False
        self.trouble: Why | None = None  # why no circuit to any point could be built
        self.idle_since = 0.0  # when its last connection ended, in steady time
        self._on_idle = on_idle
        self._ring = Ring(view, outbox, subject.hash_name, self.serve)
        self._wanted = POINTS  # points that are to answer: more when the first ones know nobody, up to MAX_POINTS
        self._ways: dict[bytes, Way] = {}  # by the point's identity
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

    @property
    def open(self) -> bool:
        """Whether any connection stands."""
        return any(connection.open for connection in self._connections)

    def set_points(self, points: Class | None, now: float) -> None:
        """Points are nodes of this class (None: there are none yet), and other nodes may be known than before: choose
        them anew. Connections that stand go on."""
        self._ring.use(points, now)
        self.serve(now)

    def woke(self, now: float) -> None:
        """The clock jumped: try now what had to wait."""
        for way in self._ways.values():
            way.retry_at = now
        self.serve(now)

    def stop(self, now: float, why: Why = _STOPPED) -> None:
        """End all connections, which are told why, and circuits."""
        if self.stopped:
            return
        self.stopped = True
        self._ring.stop(now)
        for timer in (self._timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        for connection in list(self._connections):
            self._fail(connection, why, now)
        for way in self._ways.values():
            way.stop(now)
        self._ways.clear()

    # -- matching connections to ways

    def serve(self, now: float) -> None:
        """Start each connection that waits on the least busy way; build ways while some still wait."""
        if self.stopped:
            return
        while self._waiting:
            way = self._free_way(now)
            if way is None:
                break
            self._try(self._waiting.popleft(), way, now)
        if not self._waiting:
            return
        self._choose(now)
        for way in list(self._ways.values()):
            if way.idle and way.retry_at <= now:
                way.build(now)
        self._judge(now)
        self._arm(now)

    def _free_way(self, now: float, but: Way | None = None) -> Way | None:
        """The least busy one."""
        free = (way for way in self._ways.values() if way is not but and way.free(now))
        return min(free, key=lambda way: way.load, default=None)

    def _try(self, connection: Connection, way: Way, now: float) -> None:
        if connection.searching:
            self._hurry_at(now + SECOND_AFTER, connection)
            way.take(connection, now)

    def _hurry_at(self, when: float, connection: Connection) -> None:
        if connection.hurry is not None:
            connection.hurry.cancel()
        connection.hurry = self.outbox.call_at(when, lambda now: self._hurry(connection, now))

    def _hurry(self, connection: Connection, now: float) -> None:
        """Whoever was asked has not answered: try another provider besides, once no connection waits for a first one.
        Where one accepted and says nothing, its point gives us another; where none accepted, the point may hang."""
        if not connection.attempts or len(connection.attempts) >= MAX_ATTEMPTS:
            return
        first = connection.attempts[0]
        way = first.way if first.session.accepted and first.way.free(now) else self._free_way(now, but=first.way)
        if way is None or self._waiting:
            self._hurry_at(now + SECOND_AFTER, connection)
        else:
            self._try(connection, way, now)

    def _choose(self, now: float) -> None:
        ways = self._ways

        def answers(point: RelayTarget) -> bool | None:
            return ways[point.identity].answers if point.identity in ways else None

        asked = [way for way in ways.values() if way.answers]
        if len(asked) >= self._wanted and all(way.refusal is ConnectWhy.NOBODY for way in asked):
            self._wanted = min(self._wanted + 1, MAX_POINTS)
        chosen = {point.identity: point for point in self._ring.choose(answers, self._wanted, now)}
        for identity, way in list(ways.items()):
            if identity not in chosen and not way.load:
                ways.pop(identity).stop(now)
        for identity, point in chosen.items():
            if identity not in ways:
                ways[identity] = Way(self, point, now)

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
        connection.fail(_CODES.get(why.code, EndReason.NOROUTE), now)

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

    def opened(self, attempt: Attempt, now: float) -> None:
        """The first that answers wins."""
        connection = attempt.connection
        connection.attempts.remove(attempt)
        connection.leave_attempts(EndReason.DONE, now)
        connection.way = attempt.way
        attempt.way.opened(attempt)
        attempt.session.handler = connection
        connection.bind(attempt.session)
        connection.opened(now)
        self.serve(now)

    def refused(self, attempt: Attempt, code: int, now: float) -> None:
        """An attempt failed before it opened."""
        if attempt.way.refused(attempt, code, now):
            return  # it asks for another name
        connection = attempt.connection
        connection.attempts.remove(attempt)
        if connection.attempts:
            self._hurry_at(max(now, connection.attempts[-1].began + SECOND_AFTER), connection)
            return
        self._waiting.appendleft(connection)
        self.outbox.call_at(now, self.serve)  # not from within the session that ends

    def over(self, connection: Connection, now: float) -> None:
        """A connection has ended, whoever ended it."""
        self._connections.pop(connection, None)
        if connection.way is not None:
            connection.way.ended(connection, now)
        elif connection in self._waiting:
            self._waiting.remove(connection)
        connection.leave_attempts(EndReason.DONE, now)
        if not self._connections and not self.stopped:
            self.idle_since = self.outbox.steady(now)
            self._idle_timer = self.outbox.call_at(now + IDLE_LIMIT, self.give_way)
        elif self._waiting:
            self.outbox.call_at(now, self.serve)

    def give_way(self, now: float, why: Why = _STOPPED) -> None:
        """Nobody needs it, or others need its place more: end it."""
        self.stop(now, why)
        self._on_idle(now)
