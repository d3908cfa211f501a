"""The offering end of a rendezvous: advertises what a node serves at its points and accepts clients.

Does: keep one circuit for each offer and point, advertise the blinded names of the day on it, answer incoming
streams with encrypted sessions, rebuild what breaks, pass over points that do not answer.
Does not: give clients their places (guests.py), or know what is served.

A circuit carries one offer only, so that a point cannot tell that two offers have one provider: unless the owner
allows it, for very many offers (group.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from convergence.chance import fraction
from convergence.circuit.client import ClientCircuit
from convergence.circuit.streams import Stream
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, EndReason, ParseError, Problem, Why
from convergence.netdir.view import Class, Known, View
from convergence.outbox import Outbox, Timer
from convergence.pipes.duplex import Duplex
from convergence.ports import Crypto, Rng
from convergence.rdv.blind import OVERLAP, next_change
from convergence.rdv.circuits import LINGER, Backoff, CircuitSource
from convergence.rdv.guests import Guest, Guests, Limits, Served
from convergence.rdv.keys import Subject
from convergence.rdv.own import OwnCircuit, OwnPoint
from convergence.rdv.ring import POINTS, Ring
from convergence.rdv.session import Session
from convergence.rdv.sweep import Sweep
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.rdv import Advert, DbInfo, Name, parse_rdv_target
from convergence.wire.relay import RelayCommand
from convergence.wire.target import RelayTarget

if TYPE_CHECKING:
    from convergence.rdv.group import Groups, SharedCircuit

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LIMIT = 60.0  # seconds
BUILD_LIMIT = 180.0  # seconds; the builder of circuits answers much sooner
SILENT_FOR = 600.0  # seconds until a point that did not answer is tried again, plus up to as many at random
STABLE_AFTER = 30.0  # seconds that a circuit must stand for its failures to be forgotten
MAX_OFFERS = 256  # three circuits each
MAX_GROUPED = 1 << 14  # offers that share circuits; a point takes as many on one (rdv/adverts.py)
MAX_RETIRED = 32  # posts of an offer whose last sessions go on, a circuit each; of more, the least used one ends
START_SPREAD = 5.0  # seconds; what is offered sooner after another waits at random, up to so long for each that waits
WAKE_SPREAD = 5.0  # seconds after a clock jump within which a node's posts go on, each at a random time
AT_ONCE = 256  # offers whose points are chosen in one go: some 20 ms
LOOKS = 16  # the same, in a second, where points are looked up and offers share circuits; else one in START_SPREAD
OWN = b""  # names the post of an offer at this node itself
DAY_CHANGE_SPREAD = OVERLAP / 2  # the same for their change to another day's names


class Phase(Enum):
    """Phases of an offer's post at one point."""

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
        Phase.STANDING: "its circuit ends, other nodes are known that are nearer, or whoever serves stops",
        Phase.CLOSING: "its last session ends, or MAX_RETIRED posts are closing that have more",
    },
)


@dataclass(slots=True, repr=False)
class _Offer:
    subject: Subject
    serve: Callable[[Duplex], Served]
    ring: Ring
    begins: float | None = None  # when it is advertised first; None until there are points
    posts: dict[bytes, _Post] = field(default_factory=dict)  # by the point's identity, or OWN; MAX_WALK
    retired: dict[_Post, None] = field(default_factory=dict)  # those whose last sessions go on; MAX_RETIRED


class RdvService:
    """All that a node offers of one kind.

    Args:
        limits: on its clients.
        own: stands for this node itself, where it serves whoever's circuit ends here.
        group: whether all offers share circuits (rdv/group.py): points see then that they are of one node.
        on_standing: (hash_name, points that it is advertised at, points wanted, now), on each change.
    """

    def __init__(
        self,
        circuits: CircuitSource,
        view: View[Known],
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        limits: Limits,
        *,
        own: OwnPoint | None = None,
        group: bool = False,
        on_standing: Callable[[bytes, int, int, float], None] = lambda *_: None,
    ) -> None:
        self.circuits = circuits
        self.outbox = outbox
        self.crypto = crypto
        self.rng = rng
        self.limits = limits
        self.own = own
        self.groups = self._new_groups() if group else None
        self.guests: dict[Guest, None] = {}  # served or in a queue, at all posts: limits.all
        self._on_standing = on_standing
        self._view = view
        self._points: Class | None = None
        self._offers: dict[bytes, _Offer] = {}
        self._to_choose: list[bytes] = []  # offers whose points are to be chosen anew
        self._choosing: Timer | None = None  # when there are more, or others may be
        self._sweep = Sweep(outbox, rng, self._offers, self._look)
        self._began = float("-inf")  # when the last offer got its time to begin

    def offer(self, subject: Subject, serve: Callable[[Duplex], Served], now: float) -> None:
        """Offer something until `withdraw`. Offering the same hash_name again changes nothing.

        Raises Problem past MAX_OFFERS, or MAX_GROUPED.
        """
        hash_name = subject.hash_name
        if hash_name in self._offers:
            return
        most = MAX_OFFERS if self.groups is None else MAX_GROUPED
        if len(self._offers) >= most:
            raise Problem(self.limits.code, most=most)
        ring = Ring(self._view, self.outbox, hash_name, lambda now: self._ring_known(offer, now))
        offer = self._offers[hash_name] = _Offer(subject, serve, ring)
        if not self._sweep.on:
            self._look(hash_name, now)
            return
        self._sweep.add(hash_name, now)
        self._to_choose.append(hash_name)
        if self._choosing is None:
            self._choose(now)

    def withdraw(self, hash_name: bytes, now: float) -> None:
        """Withdraw an offer, and end the streams that it is served on."""
        offer = self._offers.pop(hash_name, None)
        if offer is not None:
            offer.ring.stop(now)
            for post in [*offer.posts.values(), *offer.retired]:
                post.close(now)

    def set_points(self, points: Class | None, now: float) -> None:
        """Points are nodes of this class (None: there are none yet), and other nodes may be known than before: choose
        them anew. Streams that stand go on. Where each look costs a request, names are looked for in their turn, unless
        nothing is known that counts."""
        known = self._sweep.use(() if points is None else self._view.values(now), now) and points is self._points
        self._points = points
        if not known:
            self._to_choose = list(self._offers)
            self._choose(now)

    def _choose(self, now: float) -> None:
        """Choose points for a part of the offers; others have their turn before the rest."""
        if self._choosing is not None:
            self._choosing.cancel()
        most, pause = AT_ONCE, 0.0
        if self._sweep.on and self.groups is not None:
            most, pause = LOOKS, 1.0
            self._to_choose.sort(key=self._sweep.order)
        elif self._sweep.on:  # so few that a node can keep the buckets of all
            most, pause = 1, START_SPREAD * fraction(self.rng)
        names, self._to_choose = self._to_choose[:most], self._to_choose[most:]
        for name in names:
            self._look(name, now)
        more = self._to_choose or (names and self._sweep.on)
        self._choosing = self.outbox.call_at(now + pause, self._choose) if more else None

    def _look(self, name: bytes, now: float) -> None:
        """Ask for the ring of an offer, and place it."""
        offer = self._offers.get(name)
        if offer is not None:
            offer.ring.use(self._points, now)
            self._ring_known(offer, now)

    def use(self, circuits: CircuitSource, now: float) -> None:
        """Other circuits from now on: those that stand end. `set_points` says next where they may lead."""
        self.circuits = circuits
        if self.groups is not None:
            self.groups = self._new_groups()
        self._points = None
        for offer in self._offers.values():
            for post in [*offer.posts.values(), *offer.retired]:
                post.close(now)
            offer.posts.clear()
            offer.ring.use(None, now)
            offer.begins = None
            self.changed(offer, now)

    def share_circuits(self, group: bool, now: float) -> None:
        """Whether all offers share circuits, from now on: those that stand end. Raises Problem for more than MAX_OFFERS
        that are to have circuits of their own."""
        if group == (self.groups is not None):
            return
        if not group and len(self._offers) > MAX_OFFERS:
            raise Problem(self.limits.code, most=MAX_OFFERS)
        points = self._points
        self.groups = self._new_groups() if group else None
        self.use(self.circuits, now)
        self.set_points(points, now)

    def use_own(self, own: OwnPoint | None, now: float) -> None:
        """Serve here, or no longer."""
        self.own = own
        for offer in list(self._offers.values()):
            self.place(offer, now)

    def woke(self, by: float, now: float) -> None:
        """The clock jumped: other names may be in use, and what failed may work now."""
        self._began += by
        for offer in self._offers.values():
            if offer.begins is not None:
                offer.begins += by
            for post in offer.posts.values():
                post.woke(now)

    def standing(self, hash_name: bytes) -> tuple[int, int]:
        """At how many points an offer is advertised, and at how many it is to be."""
        offer = self._offers.get(hash_name)
        if offer is None:
            return 0, 0
        wanted = min(POINTS, offer.ring.usable)
        return min(sum(post.advertised for post in offer.posts.values() if post.own is None), wanted), wanted

    def clients(self, hash_name: bytes) -> int:
        """Those of an offer that hold its key, at all points."""
        offer = self._offers.get(hash_name)
        return 0 if offer is None else sum(len(post.guests) for post in [*offer.posts.values(), *offer.retired])

    def stop(self, now: float) -> None:
        """Withdraw everything."""
        for hash_name in list(self._offers):
            self.withdraw(hash_name, now)

    def changed(self, offer: _Offer, now: float) -> None:
        """A post came up or went down."""
        if self._offers.get(offer.subject.hash_name) is offer:
            self._on_standing(offer.subject.hash_name, *self.standing(offer.subject.hash_name), now)
            self.outbox.call_at(now, lambda now: self.place(offer, now))

    def _new_groups(self) -> Groups:
        from convergence.rdv.group import Groups  # pages do without

        return Groups(self.circuits, self.limits.code.encode(), self.outbox)

    def _ring_known(self, offer: _Offer, now: float) -> None:
        if offer.begins is None and len(offer.ring):
            self._begin(offer, now)
        else:
            self.place(offer, now)

    def _begin(self, offer: _Offer, now: float) -> None:
        """Start a single offer at once, but each of several at a random time: a point could tell that what comes
        together belong to one node. Of those that share circuits it knows."""
        waiting = 0
        if self.groups is None:
            waiting = sum(other.begins is not None and other.begins > now for other in self._offers.values())
        alone = self.groups is not None or not waiting and now - self._began >= START_SPREAD
        offer.begins = now if alone else now + START_SPREAD * (waiting + 1) * fraction(self.rng)
        self._began = max(self._began, now)
        if alone:
            self.place(offer, now)
        else:
            self.outbox.call_at(offer.begins, lambda now: self.place(offer, now))

    def place(self, offer: _Offer, now: float) -> None:
        """Keep posts at the first points that answer."""
        if self._offers.get(offer.subject.hash_name) is not offer or offer.begins is None or now < offer.begins:
            return

        def answers(point: RelayTarget) -> bool | None:
            return offer.posts[point.identity].answers if point.identity in offer.posts else None

        # To ourselves no circuit is built where none is needed.
        offer.ring.but = None if self.own is None else self.own.target.identity
        chosen = {point.identity: point for point in offer.ring.choose(answers, POINTS, now)}
        if self.own is not None:
            chosen[OWN] = self.own.target
        answering = [offer.posts[name] for name in chosen if name in offer.posts and offer.posts[name].answers]
        settled = all(post.settled(now) for post in answering)
        for identity, post in list(offer.posts.items()):
            # One that stood in for a silent point stays until the point has answered for a while.
            if identity not in chosen and (settled or not post.standing or identity == OWN):
                del offer.posts[identity]
                offer.retired[post] = None
                post.retire(now)
        while len(offer.retired) > MAX_RETIRED:
            min(offer.retired, key=lambda post: len(post.guests)).close(now, EndReason.RESOURCELIMIT)
        new = [name for name in chosen if name not in offer.posts]
        offer.posts |= {name: _Post(self, offer, chosen[name], now) for name in new}
        for name in new:
            offer.posts[name].build(now)


class _Post:
    """One offer at one point."""

    def __init__(self, service: RdvService, offer: _Offer, point: RelayTarget, now: float) -> None:
        self.point = point
        # Whether the point answers; None before it is known. No other offer learns of it: its entries may lie.
        self.answers: bool | None = None
        self.own = service.own if service.own is not None and point is service.own.target else None
        self._service = service
        self._offer = offer
        self._machine = StateMachine(TABLE, service.outbox, self._timed_out, now)
        self._attempt = 0
        self._circuit: ClientCircuit | SharedCircuit | OwnCircuit | None = None
        self._since = 0.0  # when its circuit was built, in steady time
        self._advertised: list[Name] = []
        self.guests = Guests(
            service.limits, service.guests, service.outbox, service.rng, offer.serve, lambda now: self._release(now)
        )
        self._backoff = Backoff(service.rng, BACKOFF_FIRST, BACKOFF_LIMIT)
        self._day_delay = DAY_CHANGE_SPREAD * fraction(service.rng)
        self._timer: Timer | None = None  # the next attempt, or change of day

    @property
    def standing(self) -> bool:
        return self._machine.state is Phase.STANDING

    @property
    def advertised(self) -> bool:
        """Whether clients can find it."""
        return bool(self._advertised)

    def settled(self, now: float) -> bool:
        """Whether it has stood for a while."""
        return self.standing and self._stood(now)

    def _stood(self, now: float) -> bool:
        return self._service.outbox.steady(now) - self._since >= STABLE_AFTER

    def woke(self, now: float) -> None:
        self._backoff.reset()
        soon = now + WAKE_SPREAD * fraction(self._service.rng)
        if self.standing:
            self._call_at(soon, self._renew)
        elif self._machine.state is Phase.RESTING:
            self._rest(soon, now)

    def close(self, now: float, reason: int = EndReason.DONE) -> None:
        """Withdraw the adverts and end the sessions; the circuit ends once that has gone out."""
        self.guests.end(reason, now)
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

        def ready(circuit: ClientCircuit | SharedCircuit | OwnCircuit, now: float) -> None:
            if attempt == self._attempt:
                self._ready(circuit, now)
            else:
                circuit.destroy(DestroyReason.FINISHED, now)

        def failed(why: Why, now: float) -> None:
            if attempt == self._attempt:
                self._failed(why, now)

        service = self._service
        if self.own is not None:
            ready(self.own.circuit(), now)
        elif service.groups is not None:
            service.groups.join(self.point, ready, failed, now)
        else:
            service.circuits.rdv_circuit(self.point, self._offer.subject.hash_name, True, ready, failed, now)

    def _ready(self, circuit: ClientCircuit | SharedCircuit | OwnCircuit, now: float) -> None:
        self._machine.move("built", now)
        self.answers = True
        self._circuit = circuit
        self._since = self._service.outbox.steady(now)
        circuit.on_begin = self._on_begin
        circuit.on_closed = self._on_closed
        self._advertised = []
        self._renew(now)
        self._service.outbox.call_at(now + STABLE_AFTER, lambda now: self._service.place(self._offer, now))

    def _failed(self, why: Why, now: float) -> None:
        self._machine.move("fail", now)
        if why.code is PathWhy.RELAY_SILENT:  # the point did not answer, over any path
            self.answers = False
            pause = SILENT_FOR * (1 + fraction(self._service.rng))
            self._rest(None if self._since else now + pause, now)
            self._service.changed(self._offer, now)
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
        self._service.changed(self._offer, now)

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
        if self.guests.any:
            return
        self._closed("close", now)
        self._circuit = circuit.on_begin = circuit.on_closed = None
        self._service.outbox.call_at(now + LINGER, lambda now: circuit.destroy(DestroyReason.FINISHED, now))

    def _closed(self, input: str, now: float) -> None:
        if not self._machine.final:
            self._machine.move(input, now)
        self._offer.retired.pop(self, None)

    # -- adverts

    def _renew(self, now: float) -> None:
        """Advertise the names in use now: at once, or where offers share circuits when it is this one's turn."""
        groups = self._service.groups
        if groups is None or self.own is not None:
            self._in_turn(now)
        else:
            self._stop_timer()
            self._timer = groups.turn(self.point, self._in_turn, now)

    def _in_turn(self, now: float) -> None:
        """And again some time after they change. If all circuits of a node changed names at one moment by its clock, a
        point could tell which circuits belong to one node."""
        circuit, service, point, new = self._circuit, self._service, self.point.identity, not self._advertised
        if circuit is not None:
            self._advertise(self._offer.subject.adverts(service.crypto, point, circuit.binding, now))
        self._call_at(next_change(now, point) + self._day_delay, self._renew)
        if new:
            service.changed(self._offer, now)

    def _advertise(self, wanted: Sequence[Advert]) -> None:
        names = [advert.name for advert in wanted]
        adverts = [advert for advert in wanted if advert.name not in self._advertised]
        adverts += [Advert.remove(name) for name in self._advertised if name not in names]
        self._advertised = names
        if adverts and self._circuit is not None:
            self._circuit.send_message(RelayCommand.DB_INFO, DbInfo(tuple(adverts)).encode())

    # -- clients

    def _on_begin(self, target: str, stream: Stream, now: float) -> Session | None:
        service = self._service
        try:
            name = parse_rdv_target(target)
        except ParseError:
            return None
        if not self.standing or name not in self._advertised:
            return None
        self.guests.let_in(now)
        session: Session = Session(
            service.crypto,
            service.rng,
            service.outbox,
            self._offer.subject.keys(name),
            name.blinded,
            now=now,
            initiator=False,
            attach=self.guests.attach,
            is_new=self.guests.is_new,
            on_over=lambda reason, local, now: self.guests.over(session, now),
        )
        self.guests.came(session)
        session.bind(stream)
        return session

    # -- timers

    def _call_at(self, when: float, call: Callable[[float], None]) -> None:
        self._stop_timer()
        self._timer = self._service.outbox.call_at(when, call)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
