"""The clients of an offer at one point: who has a place, who waits for one, and who gives way.

Does: hold a limited number of sessions that have proved nothing, give those that hold the key a place or one in the
queue, tell them where they stand, end idle ones while others wait.
Does not: know circuits and adverts (service.py), or what is served: each offer brings a `serve` that makes the handler
of a session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Shape

from convergence.chance import random_below
from convergence.codes import Limit
from convergence.errors import EndReason, StreamError
from convergence.limits import gives_way
from convergence.outbox import Outbox, Timer
from convergence.pipes.duplex import Duplex, Handler
from convergence.ports import Rng
from convergence.rdv.session import Session

QUEUE_INTERVAL = 10.0  # seconds between two looks at the queue: waiting clients hear their place, idle ones give way
MAX_SEEN = 4096  # clients of a post whose handshakes are remembered, the latest: a point may play them again


@dataclass(frozen=True, slots=True)
class Limits:
    """On clients.

    Args:
        served: at once, for one offer at one point: a shared limit would tell the point which offers are of one node.
        queue: that wait for their turn there.
        shaking: that have not proved the key there; beyond, one by lot makes way for the next. They have no limit over
            all offers, for the same reason. 8 seconds each.
        all: that hold a key, over all offers, against running out of memory.
        code: what to say of more than MAX_OFFERS, or MAX_GROUPED.
        quiet: seconds without a byte either way, after which a client gives way to a newcomer who finds all places of
            the offer at the point taken. While there is room a client may be quiet for ever: where it is gone, its
            first relay finds that their link broke.
    """

    served: int
    queue: int
    shaking: int
    all: int
    code: Limit
    quiet: float = float("inf")


FILES = Limits(served=32, queue=32, shaking=32, all=1024, code=Limit.SHARES)
# Fewer than the streams of a circuit (circuit/endpoint.py).
SERVICES = Limits(served=1000, queue=0, shaking=256, all=4096, code=Limit.SERVICES, quiet=600.0)


class Served(Handler, Shape):
    """An offer's handler of one session. `opened` is called when the client has a place, not when the session opens."""

    def queued(self, position: int, now: float) -> None:
        """The client waits at this place of the queue, 1 for the next. Called again while it waits."""
        ...

    def idle(self, now: float) -> bool:
        """Whether the client has done so little lately that its place should go to another."""
        ...


class Guest:
    """A client that came to a post: the handler of its session.

    Attributes:
        source: those of its post: limits over all posts count by it.
    """

    def __init__(self, guests: Guests, stream: Duplex, serve: Callable[[Duplex], Served]) -> None:
        self.stream = stream
        self.served = serve(stream)
        self.source = guests

    def end(self, reason: int, now: float) -> None:
        self.stream.abort(reason, now)
        self.served.aborted(reason, now)

    def opened(self, now: float) -> None:
        self.source.admit(self, now)

    def data(self, data: bytes, now: float) -> None:
        self.served.data(data, now)

    def drained(self, now: float) -> None:
        self.served.drained(now)

    def ended(self, now: float) -> None:
        self.served.ended(now)

    def aborted(self, code: int, now: float) -> None:
        self.served.aborted(code, now)


class Guests:
    """Those of one post.

    Args:
        everybody: the guests of all posts of a node, the latest last; limits.all.
        serve: makes the handler of a session.
        on_leave: (now), whenever one is gone.
    """

    def __init__(
        self,
        limits: Limits,
        everybody: dict[Guest, None],
        outbox: Outbox,
        rng: Rng,
        serve: Callable[[Duplex], Served],
        on_leave: Callable[[float], None],
    ) -> None:
        self._limits = limits
        self._everybody = everybody
        self._outbox = outbox
        self._rng = rng
        self._serve = serve
        self._on_leave = on_leave
        self._shaking: dict[Session, None] = {}  # limits.shaking
        self._seen: dict[bytes, None] = {}  # ephemeral keys of clients that hold the key; MAX_SEEN
        self._served: dict[Session, Guest] = {}  # limits.served
        self._queue: dict[Session, Guest] = {}  # limits.queue, the next one first
        self._queue_timer: Timer | None = None

    def __len__(self) -> int:
        """Clients that hold the key."""
        return len(self._served) + len(self._queue)

    @property
    def any(self) -> bool:
        """Whether there are any, those counted that have proved nothing."""
        return bool(self._shaking or self._served or self._queue)

    def let_in(self, now: float) -> None:
        """Make room for one that comes. Raises StreamError where all places are taken."""
        if self._full and self._quiet(now) is None:
            raise StreamError("too many clients", EndReason.RESOURCELIMIT)
        if len(self._shaking) >= self._limits.shaking:
            unlucky = list(self._shaking)[random_below(self._rng, self._limits.shaking)]
            unlucky.abort(EndReason.RESOURCELIMIT, now)

    def attach(self, session: Duplex) -> Guest:
        """The handler of its session."""
        return Guest(self, session, self._serve)

    def came(self, session: Session) -> None:
        self._shaking[session] = None

    def is_new(self, key: bytes) -> bool:
        """Whether this client's handshake is not one that a point recorded: it would take a place, and the handler of a
        connection would begin to act."""
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        return True

    def admit(self, guest: Guest, now: float) -> None:
        """The client holds the key: it gets a place, or one in the queue."""
        assert isinstance(guest.stream, Session)
        self._shaking.pop(guest.stream, None)
        if not self._has_room(now):
            guest.end(EndReason.RESOURCELIMIT, now)
            return
        self._everybody[guest] = None
        if len(self._served) < self._limits.served:
            self._served[guest.stream] = guest
            guest.served.opened(now)
        else:
            self._queue[guest.stream] = guest
            guest.served.queued(len(self._queue), now)
            if self._queue_timer is None:
                self._queue_timer = self._outbox.call_at(now + QUEUE_INTERVAL, self._look)

    def over(self, session: Session, now: float) -> None:
        """A session has ended, whoever ended it."""
        self._shaking.pop(session, None)
        waited, served = self._queue.pop(session, None), self._served.pop(session, None)
        for guest in (waited, served):
            if guest is not None:
                del self._everybody[guest]
        if served is not None:
            self._outbox.call_at(now, self._next)  # not from within the handler that ends
        self._on_leave(now)

    def end(self, reason: int, now: float) -> None:
        """End all sessions."""
        for session in list(self._shaking):
            session.abort(reason, now)
        for guest in [*self._served.values(), *self._queue.values()]:
            guest.end(reason, now)

    def _has_room(self, now: float) -> bool:
        """When all sessions of the node are taken, the last to come to the most crowded post gives way, unless this
        post would then have as many."""
        if self._full:
            quiet = self._quiet(now)
            if quiet is None:
                return False
            quiet.end(EndReason.RESOURCELIMIT, now)
        if len(self._everybody) >= self._limits.all:
            crowding = gives_way(list(reversed(self._everybody)), self)
            if crowding is None:
                return False
            crowding.end(EndReason.RESOURCELIMIT, now)
        return True

    @property
    def _full(self) -> bool:
        return len(self._served) >= self._limits.served and len(self._queue) >= self._limits.queue

    def _quiet(self, now: float) -> Guest | None:
        """Whose place a newcomer gets when all are taken."""
        since = self._outbox.steady(now) - self._limits.quiet
        return next((guest for session, guest in self._served.items() if session.last_used <= since), None)

    def _next(self, now: float) -> None:
        """A place is free."""
        while self._queue and len(self._served) < self._limits.served:
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
            self._queue_timer = self._outbox.call_at(now + QUEUE_INTERVAL, self._look)
