"""The offering end of a rendezvous: advertises shared files at their points and accepts clients.

Does: keep one circuit for each file and point, advertise the blinded names of the day on it, answer incoming
streams with encrypted sessions, give clients that hold the key a place, or one in the queue, rebuild what breaks,
pass over points that do not answer.
Does not: know what is served: each share brings a `serve` that makes the handler of a session.

A circuit carries one file only, so that a point cannot tell that two files have one provider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol as Shape

from convergence.circuit.client import ClientCircuit
from convergence.circuit.streams import Stream
from convergence.codes import Limit, PathWhy
from convergence.errors import DestroyReason, EndReason, ParseError, Problem, StreamError, Why
from convergence.outbox import Outbox, Timer
from convergence.path.select import fraction, random_below
from convergence.pipes.duplex import Duplex, Handler
from convergence.ports import Crypto, Rng
from convergence.rdv.blind import OVERLAP, POINTS, blinded_names, next_change, ring_of, walk
from convergence.rdv.circuits import LINGER, Backoff, CircuitSource
from convergence.rdv.session import Session
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.descriptor import Descriptor, Role
from convergence.wire.rdv import Advert, AdvertOp, DbInfo, parse_rdv_target
from convergence.wire.relay import RelayCommand

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LIMIT = 60.0  # seconds
BUILD_LIMIT = 180.0  # seconds; the builder of circuits answers much sooner
SILENT_FOR = 600.0  # seconds until a point that did not answer is tried again, plus up to as many at random
STABLE_AFTER = 30.0  # seconds that a circuit must stand for its failures to be forgotten
MAX_SHARES = 256  # files, three circuits each
MAX_SESSIONS = 32  # streams served at once for one file at one point: a shared limit would link files to one node
MAX_QUEUE = 32  # clients that wait for their turn there
# Clients there that have not proved the key; beyond, one by lot makes way for the next. They have no other limit: one
# for all files at a point would tell the point, by whom it ends, which files are of one node. 8 seconds each.
MAX_SHAKING = 32
MAX_SESSIONS_ALL = 1024  # clients that hold a key, over all files, against running out of memory
QUEUE_INTERVAL = 10.0  # seconds between two looks at the queue: waiting clients hear their place, idle ones give way
START_SPREAD = 5.0  # seconds; a file shared sooner after another waits at random, up to so long for each that waits
WAKE_SPREAD = 5.0  # seconds after a clock jump within which a node's posts go on, each at a random time
DAY_CHANGE_SPREAD = OVERLAP / 2  # the same for their change to another day's names


class Served(Handler, Shape):
    """A share's handler of one session. `opened` is called when the client has a place, not when the session opens."""

    def queued(self, position: int, now: float) -> None:
        """The client waits at this place of the queue, 1 for the next. Called again while it waits."""
        ...

    def idle(self, now: float) -> bool:
        """Whether the client has done so little lately that its place should go to another."""
        ...


class Phase(Enum):
    """Phases of a file's post at one point."""

    BUILDING = "building"
    STANDING = "standing"
    RESTING = "resting"  # until the next attempt
    CLOSING = "closing"  # withdrawn; its last sessions go on
    CLOSED = "closed"


TABLE = Table(
    "rdv post",
    Phase.RESTING,
    {
        Phase.BUILDING: {
            "built": Phase.STANDING,
            "fail": Phase.RESTING,
            "close": Phase.CLOSED,
            TIMEOUT: Phase.RESTING,
        },
        Phase.STANDING: {"lost": Phase.RESTING, "retire": Phase.CLOSING},
        Phase.RESTING: {"build": Phase.BUILDING, "close": Phase.CLOSED, TIMEOUT: Phase.BUILDING},
        Phase.CLOSING: {"lost": Phase.CLOSED, "close": Phase.CLOSED},
    },
    deadlines={Phase.BUILDING: BUILD_LIMIT, Phase.RESTING: 2 * SILENT_FOR},
    standing={
        Phase.STANDING: "its circuit ends, the list of nodes moves it, or whoever shares stops",
        Phase.CLOSING: "its last session ends; each has a deadline (ordb/upload.py)",
    },
)


@dataclass(slots=True, repr=False)
class _Share:
    hash_name: bytes
    key: bytes
    serve: Callable[[Duplex], Served]
    ring: list[Descriptor] = field(default_factory=list)
    begins: float | None = None  # when it is advertised first; None until there are points
    posts: dict[bytes, _Post] = field(default_factory=dict)  # by the point's identity; MAX_WALK
    retired: dict[_Post, None] = field(default_factory=dict)  # those whose last sessions go on


class RdvService:
    """All files that a node shares.

    Args:
        on_standing: (hash_name, points that the file is advertised at, points wanted, now), on each change.
    """

    def __init__(
        self,
        circuits: CircuitSource,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        *,
        on_standing: Callable[[bytes, int, int, float], None] = lambda *_: None,
    ) -> None:
        self.circuits = circuits
        self.outbox = outbox
        self.crypto = crypto
        self.rng = rng
        self.sessions = 0  # served or in a queue: MAX_SESSIONS_ALL
        self._on_standing = on_standing
        self._points: list[Descriptor] = []
        self._shares: dict[bytes, _Share] = {}
        self._began = float("-inf")  # when the last file got its time to begin

    def share(
        self,
        hash_name: bytes,
        key: bytes,
        serve: Callable[[Duplex], Served],
        now: float,
    ) -> None:
        """Offer a file until `unshare`. Sharing the same hash_name again changes nothing.

        Raises Problem past MAX_SHARES.
        """
        if hash_name in self._shares:
            return
        if len(self._shares) >= MAX_SHARES:
            raise Problem(Limit.SHARES, most=MAX_SHARES)
        share = self._shares[hash_name] = _Share(hash_name, key, serve, ring_of(hash_name, self._points))
        if share.ring:
            self._begin(share, now)

    def unshare(self, hash_name: bytes, now: float) -> None:
        """Withdraw a file, and end the streams that it is served on."""
        share = self._shares.pop(hash_name, None)
        if share is not None:
            for post in [*share.posts.values(), *share.retired]:
                post.close(now)

    def set_nodes(self, nodes: Sequence[Descriptor], now: float) -> None:
        """The node list changed: choose the points anew. Streams that stand go on."""
        self._points = [node for node in nodes if node.roles & Role.RDV]
        for share in list(self._shares.values()):
            share.ring = ring_of(share.hash_name, self._points)
            if share.begins is None and share.ring:
                self._begin(share, now)
            self.place(share, now)

    def woke(self, by: float, now: float) -> None:
        """The clock jumped: other names may be in use, and what failed may work now."""
        self._began += by
        for share in self._shares.values():
            if share.begins is not None:
                share.begins += by
            for post in share.posts.values():
                post.woke(now)

    def standing(self, hash_name: bytes) -> tuple[int, int]:
        """At how many points a file is advertised, and at how many it is to be."""
        share = self._shares.get(hash_name)
        if share is None:
            return 0, 0
        wanted = min(POINTS, len(share.ring))
        return min(sum(post.standing for post in share.posts.values()), wanted), wanted

    def stop(self, now: float) -> None:
        """Withdraw everything."""
        for hash_name in list(self._shares):
            self.unshare(hash_name, now)

    def changed(self, share: _Share, now: float) -> None:
        """A post came up or went down."""
        if self._shares.get(share.hash_name) is share:
            self._on_standing(share.hash_name, *self.standing(share.hash_name), now)
            self.outbox.call_at(now, lambda now: self.place(share, now))

    def most_crowded(self) -> _Post:
        """The post with most clients, of those there are."""
        posts = (post for share in self._shares.values() for post in [*share.posts.values(), *share.retired])
        return max(posts, key=lambda post: post.guests)

    def _begin(self, share: _Share, now: float) -> None:
        """Start a single file at once, but each of several at a random time: a point could tell that files which come
        together belong to one node."""
        waiting = sum(other.begins is not None and other.begins > now for other in self._shares.values())
        alone = not waiting and now - self._began >= START_SPREAD
        share.begins = now if alone else now + START_SPREAD * (waiting + 1) * fraction(self.rng)
        self._began = max(self._began, now)
        if alone:
            self.place(share, now)
        else:
            self.outbox.call_at(share.begins, lambda now: self.place(share, now))

    def place(self, share: _Share, now: float) -> None:
        """Keep posts at the first points that answer."""
        if self._shares.get(share.hash_name) is not share or share.begins is None or now < share.begins:
            return

        def answers(point: Descriptor) -> bool | None:
            return share.posts[point.identity].answers if point.identity in share.posts else None

        chosen = {point.identity: point for point in walk(share.ring, answers, POINTS)}
        listed = {point.identity for point in share.ring}
        answering = [share.posts[name] for name in chosen if name in share.posts and share.posts[name].answers]
        settled = all(post.settled(now) for post in answering)
        for identity, post in list(share.posts.items()):
            # One that stood in for a silent point stays until the point has answered for a while.
            if identity not in chosen and (settled or not post.standing or identity not in listed):
                del share.posts[identity]
                share.retired[post] = None
                post.retire(now)
        new = [_Post(self, share, point, now) for identity, point in chosen.items() if identity not in share.posts]
        for post in new:
            share.posts[post.point.identity] = post
        for post in new:
            post.build(now)


class _Guest:
    """A client that came to a post: the handler of its session."""

    def __init__(self, post: _Post, stream: Duplex, serve: Callable[[Duplex], Served]) -> None:
        self.stream = stream
        self.served = serve(stream)
        self._post = post

    def end(self, reason: int, now: float) -> None:
        self.stream.abort(reason, now)
        self.served.aborted(reason, now)

    def opened(self, now: float) -> None:
        self._post.admit(self, now)

    def data(self, data: bytes, now: float) -> None:
        self.served.data(data, now)

    def drained(self, now: float) -> None:
        self.served.drained(now)

    def ended(self, now: float) -> None:
        self.served.ended(now)

    def aborted(self, code: int, now: float) -> None:
        self.served.aborted(code, now)


class _Post:
    """One file at one point."""

    def __init__(self, service: RdvService, share: _Share, point: Descriptor, now: float) -> None:
        self.point = point
        # Whether the point answers; None before it is known. No other file learns of it: the file's entries may lie.
        self.answers: bool | None = None
        self._service = service
        self._share = share
        self._machine = StateMachine(TABLE, service.outbox, self._timed_out, now)
        self._attempt = 0
        self._circuit: ClientCircuit | None = None
        self._since = 0.0  # when its circuit was built, in steady time
        self._advertised: list[bytes] = []
        self._shaking: dict[Session, None] = {}  # MAX_SHAKING
        self._served: dict[Duplex, _Guest] = {}  # MAX_SESSIONS
        self._queue: dict[Duplex, _Guest] = {}  # MAX_QUEUE, the next one first
        self._backoff = Backoff(service.rng, BACKOFF_FIRST, BACKOFF_LIMIT)
        self._day_delay = DAY_CHANGE_SPREAD * fraction(service.rng)
        self._timer: Timer | None = None  # the next attempt, or change of day
        self._queue_timer: Timer | None = None

    @property
    def standing(self) -> bool:
        return self._machine.state is Phase.STANDING

    @property
    def guests(self) -> int:
        """Clients that hold the key."""
        return len(self._served) + len(self._queue)

    def settled(self, now: float) -> bool:
        """Whether it has stood for a while."""
        return self.standing and self._stood(now)

    def _stood(self, now: float) -> bool:
        return self._service.outbox.steady(now) - self._since >= STABLE_AFTER

    def woke(self, now: float) -> None:
        self._backoff.reset()
        soon = now + WAKE_SPREAD * fraction(self._service.rng)
        if self.standing:
            self._call_at(soon, self._on_day)
        elif self._machine.state is Phase.RESTING:
            self._rest(soon, now)

    def close(self, now: float) -> None:
        """Withdraw the adverts and end the sessions; the circuit ends once that has gone out."""
        for session in list(self._shaking):
            session.abort(EndReason.DONE, now)
        for guest in [*self._served.values(), *self._queue.values()]:
            guest.end(EndReason.DONE, now)
        self.retire(now)

    def retire(self, now: float) -> None:
        """Withdraw the adverts; the circuit ends with its last session."""
        self._stop_timer()
        self._attempt += 1
        if self._machine.state is Phase.STANDING:
            self._machine.move("retire", now)
            self._advertise([])
            self._release(now)
        elif self._machine.state is not Phase.CLOSING:
            self._closed("close", now)

    # -- the circuit

    def build(self, now: float) -> None:
        self._stop_timer()
        self._machine.move("build", now)
        self._ask(now)

    def _ask(self, now: float) -> None:
        self._attempt += 1
        attempt = self._attempt

        def ready(circuit: ClientCircuit, now: float) -> None:
            if attempt == self._attempt:
                self._ready(circuit, now)
            else:
                circuit.destroy(DestroyReason.FINISHED, now)

        def failed(why: Why, now: float) -> None:
            if attempt == self._attempt:
                self._failed(why, now)

        self._service.circuits.rdv_circuit(self.point, self._share.hash_name, True, ready, failed, now)

    def _ready(self, circuit: ClientCircuit, now: float) -> None:
        self._machine.move("built", now)
        self.answers = True
        self._circuit = circuit
        self._since = self._service.outbox.steady(now)
        circuit.on_begin = self._on_begin
        circuit.on_closed = self._on_closed
        self._advertised = []
        self._on_day(now)
        self._service.changed(self._share, now)
        self._service.outbox.call_at(now + STABLE_AFTER, lambda now: self._service.place(self._share, now))

    def _failed(self, why: Why, now: float) -> None:
        self._machine.move("fail", now)
        if why.code is PathWhy.RELAY_SILENT:  # the point did not answer, over any path
            self.answers = False
            pause = SILENT_FOR * (1 + fraction(self._service.rng))
            self._rest(None if self._since else now + pause, now)
            self._service.changed(self._share, now)
        else:
            self._rest(None, now)

    def _on_closed(self, reason: int, now: float) -> None:
        self._circuit = None
        self._advertised = []
        if self._machine.state is Phase.CLOSING:
            self._closed("lost", now)
            return
        self._machine.move("lost", now)
        if self._stood(now):
            self._backoff.reset()
        self._rest(None, now)
        self._service.changed(self._share, now)

    def _rest(self, until: float | None, now: float) -> None:
        self._call_at(until or now + self._backoff.next(), self.build)

    def _timed_out(self, phase: Phase, now: float) -> None:
        self._stop_timer()
        if phase is Phase.RESTING:
            self._ask(now)
        else:  # the builder of circuits said nothing
            self._attempt += 1
            self._rest(None, now)

    def _release(self, now: float) -> None:
        """Let the circuit end if it serves nobody any more."""
        circuit = self._circuit
        if circuit is None or self._machine.state is not Phase.CLOSING:
            return
        if self._shaking or self._served or self._queue:
            return
        self._closed("close", now)
        self._circuit = circuit.on_begin = circuit.on_closed = None
        self._service.outbox.call_at(now + LINGER, lambda now: circuit.destroy(DestroyReason.FINISHED, now))

    def _closed(self, input: str, now: float) -> None:
        if not self._machine.final:
            self._machine.move(input, now)
        self._share.retired.pop(self, None)

    # -- adverts

    def _on_day(self, now: float) -> None:
        """Advertise the names in use now, and again some time after they change. If all circuits of a node changed
        names at one moment by its clock, a point could tell which circuits belong to one node."""
        self._advertise(blinded_names(self._share.hash_name, self.point.identity, now))
        self._call_at(next_change(now) + self._day_delay, self._on_day)

    def _advertise(self, names: list[bytes]) -> None:
        adverts = [Advert(name, AdvertOp.ADD) for name in names if name not in self._advertised]
        adverts += [Advert(name, AdvertOp.REMOVE) for name in self._advertised if name not in names]
        self._advertised = names
        if adverts and self._circuit is not None:
            self._circuit.send_message(RelayCommand.DB_INFO, DbInfo(tuple(adverts)).encode())

    # -- clients

    def _on_begin(self, target: str, stream: Stream, now: float) -> Handler | None:
        service = self._service
        try:
            name = parse_rdv_target(target)
        except ParseError:
            return None
        if not self.standing or name not in self._advertised:
            return None
        if len(self._served) >= MAX_SESSIONS and len(self._queue) >= MAX_QUEUE:
            raise StreamError("too many receivers", EndReason.RESOURCELIMIT)
        if len(self._shaking) >= MAX_SHAKING:
            list(self._shaking)[random_below(service.rng, MAX_SHAKING)].abort(EndReason.RESOURCELIMIT, now)
        session: Session = Session(
            service.crypto,
            service.rng,
            service.outbox,
            self._share.key,
            name,
            now=now,
            initiator=False,
            attach=lambda stream: _Guest(self, stream, self._share.serve),
            on_over=lambda reason, local, now: self._over(session, now),
        )
        self._shaking[session] = None
        session.bind(stream)
        return session

    def admit(self, guest: _Guest, now: float) -> None:
        """The client holds the key: it gets a place, or one in the queue."""
        assert isinstance(guest.stream, Session)
        self._shaking.pop(guest.stream, None)
        if not self._has_room(now):
            guest.end(EndReason.RESOURCELIMIT, now)
            return
        self._service.sessions += 1
        if len(self._served) < MAX_SESSIONS:
            self._served[guest.stream] = guest
            guest.served.opened(now)
        else:
            self._queue[guest.stream] = guest
            guest.served.queued(len(self._queue), now)
            if self._queue_timer is None:
                self._queue_timer = self._service.outbox.call_at(now + QUEUE_INTERVAL, self._look)

    def _has_room(self, now: float) -> bool:
        """When all sessions of the node are taken, the last to come to the most crowded post gives way, unless this
        post would then have as many."""
        if len(self._served) >= MAX_SESSIONS and len(self._queue) >= MAX_QUEUE:
            return False
        if self._service.sessions >= MAX_SESSIONS_ALL:
            crowded = self._service.most_crowded()
            if self.guests + 1 >= crowded.guests:
                return False
            crowded.end_last(now)
        return True

    def end_last(self, now: float) -> None:
        next(reversed((self._queue or self._served).values())).end(EndReason.RESOURCELIMIT, now)

    def _over(self, session: Session, now: float) -> None:
        self._shaking.pop(session, None)
        if session in self._served or session in self._queue:
            self._service.sessions -= 1
        self._queue.pop(session, None)
        if self._served.pop(session, None) is not None:
            self._service.outbox.call_at(now, self._next)  # not from within the handler that ends
        self._release(now)

    def _next(self, now: float) -> None:
        """A place is free."""
        while self._queue and len(self._served) < MAX_SESSIONS:
            stream = next(iter(self._queue))
            guest = self._served[stream] = self._queue.pop(stream)
            guest.served.opened(now)
            self._tell_places(now)

    def _tell_places(self, now: float) -> None:
        for position, guest in enumerate(list(self._queue.values()), 1):
            guest.served.queued(position, now)

    def _look(self, now: float) -> None:
        """While clients wait, idle ones lose their places. They come back by themselves when they go on."""
        self._queue_timer = None
        idle = [guest for guest in self._served.values() if guest.served.idle(now)]
        for guest in idle[: len(self._queue)]:
            guest.end(EndReason.RESOURCELIMIT, now)
        self._tell_places(now)
        if self._queue:
            self._queue_timer = self._service.outbox.call_at(now + QUEUE_INTERVAL, self._look)

    # -- timers

    def _call_at(self, when: float, call: Callable[[float], None]) -> None:
        self._stop_timer()
        self._timer = self._service.outbox.call_at(when, call)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
