"""The asking end of a rendezvous: finds somebody who shares a hash_name, and keeps finding one.

Does: build circuits to the file's points, open an encrypted session over each, retry with back-off, another
circuit and another point, and say by a code why it waits or gives up.
Does not: know what is fetched: its user gets sessions through `attach` and says how many more it wants.

Each point has a route, in one of four phases; one row a transition:

    IDLE      -> BUILDING  another session is wanted and the back-off is over
    BUILDING  -> OPENING   the circuit stands: BEGIN for today's name (near midnight the other day's after it)
    OPENING   -> OPEN      the sender proved that it holds the key
    any       -> IDLE      a failure, with a longer back-off each time until a session brings something
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from convergence.circuit.client import ClientCircuit
from convergence.codes import TransferWhy
from convergence.errors import DestroyReason, EndReason, LocalError, StreamError, Why
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto, Rng
from convergence.rdv.blind import blinded_names, points_of
from convergence.rdv.circuits import LINGER, Backoff, CircuitSource
from convergence.rdv.session import ByteStream, Session, SessionHandler
from convergence.wire.descriptor import Descriptor, Role
from convergence.wire.rdv import format_rdv_target

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LIMIT = 30.0  # seconds
OPEN_TIMEOUT = 20.0  # seconds from BEGIN to a session
GIVE_UP_ROUNDS = 4  # times that every point must have failed us before a transfer that never began is given up
START_LIMIT = 120.0  # seconds after which a transfer that never began is given up in any case
WAIT_LIMIT = 24 * 3600.0  # seconds without progress after which a transfer that began is given up
MAX_ATTEMPTS = 20_000  # attempts without progress, for the same


class _Phase(Enum):
    IDLE = "idle"
    BUILDING = "building"
    OPENING = "opening"
    OPEN = "open"


class RdvClient:
    """Finds sessions for one link.

    Args:
        hash_name, key: the link's, 32 bytes each.
        attach: called as attach(session) for a handler, once for each attempt; most attempts never open.
        needed: how many more open sessions would help now.
        progress: a number that grows as the transfer does; 0 while nothing ever came.
        on_status: (TransferWhy, now), when what there is to say changes.
        on_give_up: (TransferWhy, now), once; nothing follows.
    """

    def __init__(
        self,
        hash_name: bytes,
        key: bytes,
        circuits: CircuitSource,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        *,
        attach: Callable[[ByteStream], SessionHandler],
        needed: Callable[[], int],
        progress: Callable[[], int],
        on_status: Callable[[TransferWhy, float], None],
        on_give_up: Callable[[TransferWhy, float], None],
    ) -> None:
        self.hash_name = hash_name
        self.key = key
        self.circuits = circuits
        self.outbox = outbox
        self.crypto = crypto
        self.rng = rng
        self.attach = attach
        self.progress = progress
        self.stopped = False
        self._needed = needed
        self._on_status = on_status
        self._on_give_up = on_give_up
        self._routes: dict[bytes, _Route] = {}  # by the point's identity, in order of preference; POINTS, and old ones
        self._attempts = 0
        self._best = 0  # progress when it last grew, and when that was
        self._best_at = 0.0
        self._status: TransferWhy | None = None
        self._timer: Timer | None = None

    def start(self, nodes: Sequence[Descriptor], now: float) -> None:
        """Begin to look; `nodes` is the node list."""
        self._best, self._best_at = self.progress(), now
        self._say(TransferWhy.LOOKING, now)
        self.set_nodes(nodes, now)

    def set_nodes(self, nodes: Sequence[Descriptor], now: float) -> None:
        """The node list changed: choose the points anew. Sessions that stand go on."""
        old, self._routes = self._routes, {}
        for point in points_of(self.hash_name, [node for node in nodes if node.roles & Role.RDV]):
            known = old.pop(point.identity) if point.identity in old else None
            self._routes[point.identity] = known or _Route(self, point)
        for identity, route in old.items():
            if route.phase is _Phase.OPEN:
                self._routes[identity] = route
            else:
                route.stop(now)
        self.wake(now)

    def woke(self, by: float, now: float) -> None:
        """The clock jumped: what was waited for is tried now."""
        self._best_at += by
        for route in self._routes.values():
            route.retry_at = min(route.retry_at + by, now)
        self.wake(now)

    def wake(self, now: float) -> None:
        """Start what is wanted and may start; set the timer for the rest."""
        if self.stopped or self._gives_up(now):
            return
        lacking = self._needed() - sum(route.busy for route in self._routes.values())
        # Whoever has waited longest comes first, so that one bad point keeps nobody from the others.
        for route in sorted(self._routes.values(), key=lambda route: route.retry_at):
            if lacking > 0 and route.phase is _Phase.IDLE and route.retry_at <= now:
                lacking -= 1
                self._attempts += 1
                route.begin(now)
        self._arm(now)

    def stop(self, now: float) -> None:
        """End all sessions and circuits."""
        if self.stopped:
            return
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for route in self._routes.values():
            route.stop(now)
        self._routes.clear()

    # -- what routes report

    def route_opened(self, now: float) -> None:
        self._say(TransferWhy.CONNECTED, now)

    def route_failed(self, now: float) -> None:
        if (
            not self.stopped
            and self.progress()
            and not any(route.phase is _Phase.OPEN for route in self._routes.values())
        ):
            self._say(TransferWhy.SENDER_AWAY, now)
        self.wake(now)

    def _gives_up(self, now: float) -> bool:
        progress, routes = self.progress(), self._routes.values()
        if progress > self._best:
            self._best, self._best_at, self._attempts = progress, now, 0
        if self._needed() <= 0 or any(route.phase is _Phase.OPEN for route in routes):
            return False
        waited = now - self._best_at
        misled = any(route.misled for route in routes)
        why = None
        if progress:
            if waited >= WAIT_LIMIT or self._attempts >= MAX_ATTEMPTS:
                why = TransferWhy.WAITED_LONG
        elif any(route.asked for route in routes) and all(route.hopeless for route in routes):
            why = TransferWhy.MISLED if misled else TransferWhy.NOBODY
        elif waited >= START_LIMIT:
            why = TransferWhy.MISLED if misled else TransferWhy.NO_POINTS
        if why is None:
            return False
        self.stop(now)
        self._on_give_up(why, now)
        return True

    def _arm(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        limit = self._best_at + (WAIT_LIMIT if self.progress() else START_LIMIT)
        times = [
            route.retry_at for route in self._routes.values() if route.phase is _Phase.IDLE and route.retry_at > now
        ]
        if limit > now:
            times.append(limit)
        self._timer = self.outbox.call_at(min(times), self.wake) if times else None

    def _say(self, status: TransferWhy, now: float) -> None:
        if status != self._status:
            self._status = status
            self._on_status(status, now)


class _Route:
    """The way over one point."""

    def __init__(self, client: RdvClient, point: Descriptor) -> None:
        self.phase = _Phase.IDLE
        self.retry_at = 0.0
        self.asked = False  # the point was reached, and knew nobody with this link's key
        self.misled = False  # somebody there had another key, or sent something else than the link's file
        self._client = client
        self._point = point
        self._backoff = Backoff(client.rng, BACKOFF_FIRST, BACKOFF_LIMIT)
        self._bans = 0  # senders in a row that were dropped for what they sent
        self._circuit: ClientCircuit | None = None
        self._session: Session | None = None
        self._names: list[bytes] = []
        self._progress = 0  # of the client, when the attempt began
        self._attempt = 0  # numbers attempts, so that a late answer to an old one is known as such
        self._timer: Timer | None = None

    @property
    def busy(self) -> bool:
        """Whether it is about to give a session."""
        return self.phase in (_Phase.BUILDING, _Phase.OPENING)

    @property
    def hopeless(self) -> bool:
        return self.phase is _Phase.IDLE and self._backoff.failures >= GIVE_UP_ROUNDS

    def begin(self, now: float) -> None:
        """Try for a session, over the circuit of the last attempt if it still stands."""
        self._attempt += 1
        attempt = self._attempt
        self._progress = self._client.progress()
        self._names = blinded_names(self._client.hash_name, self._point.identity, now)
        if self._circuit is not None and not self._circuit.closed:
            self._open(now)
            return

        def ready(circuit: ClientCircuit, now: float) -> None:
            if attempt == self._attempt and self.phase is _Phase.BUILDING:
                self._circuit = circuit
                circuit.on_closed = lambda reason, now: self._lost(circuit)
                self._open(now)
            else:
                circuit.destroy(DestroyReason.FINISHED, now)

        def failed(why: Why, now: float) -> None:
            if attempt == self._attempt and self.phase is _Phase.BUILDING:
                self._fail(now)

        self.phase = _Phase.BUILDING
        self._client.circuits.rdv_circuit(self._point, self._client.hash_name, False, ready, failed, now)

    def stop(self, now: float) -> None:
        """End it all; a message that was just sent still gets away."""
        self._attempt += 1
        self.phase = _Phase.IDLE
        self._stop_timer()
        session, self._session = self._session, None
        if session is not None:
            session.end(EndReason.DONE, now)
        circuit, self._circuit = self._circuit, None
        if circuit is not None:
            circuit.on_closed = None
            self._client.outbox.call_at(now + LINGER, lambda now: circuit.destroy(DestroyReason.FINISHED, now))

    def _open(self, now: float) -> None:
        circuit = self._circuit
        assert circuit is not None
        client = self._client
        self.phase = _Phase.OPENING
        name = self._names.pop(0)
        session: Session = Session(
            client.crypto,
            client.rng,
            client.outbox,
            client.key,
            name,
            initiator=True,
            attach=client.attach,
            on_open=self._opened,
            on_over=lambda reason, local, now: self._over(session, reason, local, now),
        )
        self._session = session
        self._stop_timer()
        self._timer = client.outbox.call_at(now + OPEN_TIMEOUT, self._timed_out)
        try:
            session.bind(circuit.open_stream(format_rdv_target(name), session, now))
        except (LocalError, StreamError):  # it closed just now, or has all the streams it can have
            self._session = self._circuit = None
            self._fail(now)

    def _opened(self, now: float) -> None:
        self.phase = _Phase.OPEN
        self.asked = False
        self._stop_timer()
        self._client.route_opened(now)

    def _over(self, session: Session, reason: int, local: bool, now: float) -> None:
        """Called before the END of a session that we close ourselves goes out: a point gives the next stream to its
        least busy provider, so the stream that replaces a bad sender's is asked for while that one still counts."""
        if session is not self._session:
            return
        self._session = None
        opened = self.phase is _Phase.OPEN
        if self._client.progress() > self._progress:
            self._backoff.reset()
            self._bans = 0
        if local and reason == EndReason.DONE:
            self.phase = _Phase.IDLE
            self._client.wake(now)
        elif local and reason == EndReason.TORPROTOCOL:
            self.misled = True
            self._bans += 1
            self._fail(now, at_once=self._bans == 1)
        elif not opened and reason == EndReason.RESOLVEFAILED:
            self.asked = True
            if self._names and self._circuit is not None and not self._circuit.closed:
                self._open(now)
            else:
                self._fail(now)
        else:
            if not opened and reason == EndReason.TORPROTOCOL:
                self.asked = self.misled = True
            self._fail(now)

    def _fail(self, now: float, at_once: bool = False) -> None:
        self.phase = _Phase.IDLE
        self._stop_timer()
        self.retry_at = now if at_once else now + self._backoff.next()
        self._client.route_failed(now)

    def _timed_out(self, now: float) -> None:
        """No session in time: the circuit may be at fault, so another is taken."""
        session, circuit = self._session, self._circuit
        self._session = self._circuit = None
        if session is not None:
            session.end(EndReason.TIMEOUT, now)
        if circuit is not None:
            circuit.on_closed = None
            circuit.destroy(DestroyReason.TIMEOUT, now)
        self._fail(now)

    def _lost(self, circuit: ClientCircuit) -> None:
        """The circuit closed; its stream hears of it by itself."""
        if self._circuit is circuit:
            self._circuit = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
