"""The offering end of a rendezvous: advertises shared files at their points and accepts who asks.

Does: keep one circuit for each file and point, advertise the blinded names of the day on it, answer incoming
streams with encrypted sessions, rebuild what breaks.
Does not: know what is served: each share brings a `serve` that makes the handler of a session.

A circuit carries one file only, so that a point cannot tell that two files are of one provider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from convergence.circuit.client import ClientCircuit
from convergence.circuit.streams import Stream, StreamHandler
from convergence.codes import Limit
from convergence.errors import DestroyReason, EndReason, ParseError, Problem
from convergence.outbox import Outbox, Timer
from convergence.path.select import fraction
from convergence.ports import Crypto, Rng
from convergence.rdv.blind import OVERLAP, blinded_names, next_change, points_of
from convergence.rdv.circuits import LINGER, Backoff, CircuitSource
from convergence.rdv.session import ByteStream, Session, SessionHandler
from convergence.wire.descriptor import Descriptor, Role
from convergence.wire.rdv import Advert, AdvertOp, DbInfo, parse_rdv_target, size_class
from convergence.wire.relay import RelayCommand

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LIMIT = 60.0  # seconds
STABLE_AFTER = 30.0  # seconds that a circuit must stand for its failures to be forgotten
MAX_SHARES = 256  # files, three circuits each
MAX_SESSIONS = 32  # streams served at once for one file at one point: a limit over all would tell who shares what else
MAX_SESSIONS_ALL = 1024  # over all files, against running out of memory
DAY_CHANGE_SPREAD = (
    OVERLAP / 2
)  # seconds over which a node's circuits change to another day's names, each at its own time


@dataclass(slots=True, repr=False)
class _Share:
    hash_name: bytes
    key: bytes
    size_class: int
    serve: Callable[[ByteStream], SessionHandler]
    posts: dict[bytes, _Post] = field(default_factory=dict)  # by the point's identity


class RdvService:
    """All files that a node shares.

    Args:
        on_standing: (hash_name, points that the file is advertised at, points chosen, now), on each change.
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
        self.sessions = 0
        self._on_standing = on_standing
        self._points: list[Descriptor] = []
        self._shares: dict[bytes, _Share] = {}

    def share(
        self,
        hash_name: bytes,
        key: bytes,
        size: int,
        serve: Callable[[ByteStream], SessionHandler],
        now: float,
    ) -> None:
        """Offer a file until `unshare`. Sharing the same hash_name again changes nothing.

        Raises Problem past MAX_SHARES.
        """
        if hash_name in self._shares:
            return
        if len(self._shares) >= MAX_SHARES:
            raise Problem(Limit.SHARES, most=MAX_SHARES)
        share = _Share(hash_name, key, size_class(size), serve)
        self._shares[hash_name] = share
        self._place(share, now)

    def unshare(self, hash_name: bytes, now: float) -> None:
        """Withdraw a file, and end the streams that it is served on."""
        share = self._shares.pop(hash_name, None)
        if share is not None:
            for post in share.posts.values():
                post.close(now)

    def set_nodes(self, nodes: Sequence[Descriptor], now: float) -> None:
        """The node list changed: choose the points anew. Streams that stand go on."""
        self._points = [node for node in nodes if node.roles & Role.RDV]
        for share in list(self._shares.values()):
            self._place(share, now)

    def woke(self, now: float) -> None:
        """The clock jumped: other names may be in use, and what failed may work now."""
        for share in self._shares.values():
            for post in share.posts.values():
                post.woke(now)

    def standing(self, hash_name: bytes) -> tuple[int, int]:
        """At how many points a file is advertised, and how many were chosen for it."""
        share = self._shares.get(hash_name)
        if share is None:
            return 0, 0
        return sum(post.standing for post in share.posts.values()), len(share.posts)

    def stop(self, now: float) -> None:
        """Withdraw everything."""
        for hash_name in list(self._shares):
            self.unshare(hash_name, now)

    def changed(self, share: _Share, now: float) -> None:
        """A post came up or went down."""
        if self._shares.get(share.hash_name) is share:
            self._on_standing(share.hash_name, *self.standing(share.hash_name), now)

    def _place(self, share: _Share, now: float) -> None:
        points = {point.identity: point for point in points_of(share.hash_name, self._points)}
        for identity in [identity for identity in share.posts if identity not in points]:
            share.posts.pop(identity).retire(now)
        new = [_Post(self, share, point) for identity, point in points.items() if identity not in share.posts]
        for post in new:
            share.posts[post.point.identity] = post
        for post in new:
            post.build(now)


class _Post:
    """One file at one point."""

    def __init__(self, service: RdvService, share: _Share, point: Descriptor) -> None:
        self.point = point
        self._service = service
        self._share = share
        self._circuit: ClientCircuit | None = None
        self._since = 0.0
        self._advertised: list[bytes] = []
        self._sessions: dict[Session, None] = {}  # MAX_SESSIONS
        self._backoff = Backoff(service.rng, BACKOFF_FIRST, BACKOFF_LIMIT)
        self._day_delay = DAY_CHANGE_SPREAD * fraction(service.rng)
        self._timer: Timer | None = None
        self._closing = False

    @property
    def standing(self) -> bool:
        return self._circuit is not None

    def build(self, now: float) -> None:
        if not self._closing:
            self._service.circuits.rdv_circuit(
                self.point, self._share.hash_name, True, self._ready, lambda why, now: self._again(now), now
            )

    def woke(self, now: float) -> None:
        self._backoff.reset()
        if self._circuit is not None and not self._closing:
            self._on_day(now)
        elif self._timer is not None and self._timer.pending:
            self._again(now)

    def close(self, now: float) -> None:
        """Withdraw the adverts and end the sessions; the circuit ends once that has gone out."""
        for session in list(self._sessions):
            session.end(EndReason.DONE, now)
        self.retire(now)

    def retire(self, now: float) -> None:
        """Withdraw the adverts; the circuit ends with its last session."""
        self._closing = True
        self._stop_timer()
        self._advertise([])
        if not self._sessions:
            self._release(now)

    def _ready(self, circuit: ClientCircuit, now: float) -> None:
        if self._closing:
            circuit.destroy(DestroyReason.FINISHED, now)
            return
        self._circuit = circuit
        self._since = now
        circuit.on_begin = self._on_begin
        circuit.on_closed = self._on_closed
        self._advertised = []
        self._on_day(now)
        self._service.changed(self._share, now)

    def _on_day(self, now: float) -> None:
        """Advertise the names in use now, and wake some time after they change: if all circuits of a node spoke at that
        moment, each by this node's clock, a point could tell which of them are one node's."""
        self._advertise(blinded_names(self._share.hash_name, self.point.identity, now))
        self._stop_timer()
        self._timer = self._service.outbox.call_at(next_change(now) + self._day_delay, self._on_day)

    def _advertise(self, names: list[bytes]) -> None:
        size = self._share.size_class
        adverts = [Advert(name, size, AdvertOp.ADD) for name in names if name not in self._advertised]
        adverts += [Advert(name, size, AdvertOp.REMOVE) for name in self._advertised if name not in names]
        self._advertised = names
        if adverts and self._circuit is not None:
            self._circuit.send_message(RelayCommand.DB_INFO, DbInfo(tuple(adverts)).encode())

    def _on_begin(self, target: str, stream: Stream, now: float) -> StreamHandler | None:
        service = self._service
        try:
            name = parse_rdv_target(target)
        except ParseError:
            return None
        if self._closing or name not in self._advertised:
            return None
        if len(self._sessions) >= MAX_SESSIONS or service.sessions >= MAX_SESSIONS_ALL:
            return None
        session: Session = Session(
            service.crypto,
            service.rng,
            service.outbox,
            self._share.key,
            name,
            initiator=False,
            attach=self._share.serve,
            on_over=lambda reason, local, now: self._over(session, now),
        )
        service.sessions += 1
        self._sessions[session] = None
        session.bind(stream)
        return session

    def _over(self, session: Session, now: float) -> None:
        self._service.sessions -= 1
        self._sessions.pop(session, None)
        if self._closing and not self._sessions:
            self._release(now)

    def _on_closed(self, reason: int, now: float) -> None:
        self._circuit = None
        self._advertised = []
        if not self._closing:
            if now - self._since >= STABLE_AFTER:
                self._backoff.reset()
            self._again(now)
            self._service.changed(self._share, now)

    def _again(self, now: float) -> None:
        if not self._closing:
            self._stop_timer()
            self._timer = self._service.outbox.call_at(now + self._backoff.next(), self.build)

    def _release(self, now: float) -> None:
        circuit, self._circuit = self._circuit, None
        if circuit is not None:
            circuit.on_begin = circuit.on_closed = None
            self._service.outbox.call_at(now + LINGER, lambda now: circuit.destroy(DestroyReason.FINISHED, now))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
