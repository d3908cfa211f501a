"""Connections to a service over points that answer, refuse, hang, lie and vanish."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from convergence.codes import ConnectWhy, Limit
from convergence.errors import DestroyReason, EndReason, Problem
from convergence.netdir.view import Class
from convergence.pipes.pending import CONNECT_LIMIT
from convergence.rdv import connector as module
from convergence.rdv.blind import common_names, day_of
from convergence.rdv.connector import IDLE_LIMIT, PATIENCE, SECOND_AFTER, Connector
from convergence.rdv.guests import SERVICES
from convergence.rdv.keys import Subject
from convergence.rdv.service import RdvService
from convergence.rdv.session import ANSWER_TIMEOUT, OPEN_TIMEOUT, Session
from convergence.rdv.way import MAX_OPENING, Connection
from convergence.wire.rdv import Advert, DbInfo, Proof
from convergence.wire.relay import RelayCommand
from convergence.wire.target import Role
from tests.unit.ordb.memory import CRYPTO, World
from tests.unit.rdv.network import NODES, FakeCircuit, Network, target
from tests.views import given_view, points_of

HASH_NAME = b"s" * 32
PUBLIC = Subject.public(HASH_NAME)


class Echo:
    """What answers at the service."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None:
        self.pipe.write(data, now)
        self.pipe.consumed(len(data), now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        self.pipe.end(now)

    def aborted(self, code: int, now: float) -> None: ...

    def queued(self, position: int, now: float) -> None:
        raise AssertionError("services have no queue")

    def idle(self, now: float) -> bool:
        return False


class Mute:
    """Somebody who serves nothing: takes every stream, and says not a word on it."""

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None: ...

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None: ...

    def aborted(self, code: int, now: float) -> None: ...


class Caller:
    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.heard = b""
        self.open = self.heard_end = False
        self.code: int | None = None
        pipe.handler = self

    @property
    def why(self) -> Any:
        return None if self.pipe.why is None else self.pipe.why.code

    def opened(self, now: float) -> None:
        self.open = True

    def data(self, data: bytes, now: float) -> None:
        self.heard += data
        self.pipe.consumed(len(data), now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        self.heard_end = True

    def aborted(self, code: int, now: float) -> None:
        self.code = code


class Rig:
    def __init__(self, nodes: Any = NODES, subject: Subject = PUBLIC) -> None:
        self.world = World(1, smallest_cut=1000)
        self.network = Network(self.world)
        self.nodes = list(nodes)
        self.directory, self.view = given_view(self.nodes, self.world.rng)
        self.idle: list[float] = []
        self.client = self.world.node()
        self.connector = Connector(
            subject, self.network, self.view, self.client.outbox, CRYPTO, self.world.rng, on_idle=self.idle.append
        )
        self.connector.set_points(Class.POINTS, self.world.now)
        self.services: list[RdvService] = []

    def serve(self, subject: Subject = PUBLIC) -> RdvService:
        service = RdvService(self.network, self.view, self.world.node().outbox, CRYPTO, self.world.rng, SERVICES)
        service.set_points(Class.POINTS, self.world.now)
        service.offer(subject, Echo, self.world.now)
        self.services.append(service)
        self.world.advance(1)
        return service

    def advertise_mutely(self) -> None:
        """Somebody who has the name advertises it at all points, takes streams and hangs."""
        for node in points_of(HASH_NAME, [node for node in self.nodes if node.roles & Role.RDV]):

            def ready(circuit: FakeCircuit, now: float, identity: bytes = node.identity) -> None:
                circuit.on_begin = lambda target, stream, now: Mute()
                names = common_names(HASH_NAME, identity, now)
                adverts = tuple(Advert.add(name) for name in names)
                circuit.send_message(RelayCommand.DB_INFO, DbInfo(adverts).encode())

            self.network.rdv_circuit(node, HASH_NAME, True, ready, None, self.world.now)
        self.world.advance(1)

    def connect(self, **options: Any) -> Caller:
        return Caller(self.connector.connect(self.world.now, **options))

    def asked(self) -> list[Any]:
        """Circuits of the client that stand."""
        return [circuit for circuit in self.network.circuits if not circuit.provider and not circuit.closed]


def test_many_connections_share_the_circuits_to_the_points() -> None:
    rig = Rig()
    rig.serve()
    callers = [rig.connect() for _ in range(100)]
    for caller in callers:
        caller.pipe.write(b"x", rig.world.now)
    rig.world.advance(10)
    assert all(caller.heard == b"x" for caller in callers)
    assert len(rig.asked()) == 3
    loads = [len(circuit.streams) for circuit in rig.asked()]
    assert sum(loads) == 0 or max(loads) - min(loads) <= MAX_OPENING


def test_a_point_that_hangs_holds_nobody_up() -> None:
    rig = Rig()
    rig.serve()
    first = rig.connect()
    rig.world.advance(5)
    hung = rig.network.point(rig.asked()[0].point.identity)
    hung.silent = True
    callers = [rig.connect() for _ in range(30)]
    rig.world.advance(OPEN_TIMEOUT + 10)
    assert all(caller.open for caller in callers) and first.open


def test_a_circuit_that_hangs_is_not_used_again_but_its_connections_go_on() -> None:
    rig = Rig(NODES[:1])
    rig.serve()
    first = rig.connect()
    rig.world.advance(2)
    assert first.open
    (circuit,) = rig.asked()
    circuit.point.silent = True
    late = rig.connect()
    rig.world.advance(OPEN_TIMEOUT + 1)
    circuit.point.silent = False
    rig.world.advance(30)
    assert late.open and circuit in rig.asked() and len(rig.asked()) == 2
    first.pipe.write(b"still", rig.world.now)
    first.pipe.end(rig.world.now)
    rig.world.advance(5)
    assert first.heard == b"still" and first.heard_end
    assert circuit not in rig.asked(), "its last connection has ended"


def test_what_opens_on_a_circuit_that_was_given_up_meanwhile_goes_on() -> None:
    for hundredths in range(0, 60, 5):
        rig = Rig(NODES[:1])
        rig.serve()
        first = rig.connect()
        rig.world.advance(2)
        (circuit,) = rig.asked()
        circuit.point.silent = True
        hung = rig.connect()
        rig.world.advance(OPEN_TIMEOUT - 0.5 + hundredths / 100)
        circuit.point.silent = False
        last = rig.connect()  # begins on a circuit that is given up before it is answered
        rig.world.advance(30)
        assert first.open and hung.open and last.open
        for caller in (first, hung, last):
            caller.pipe.write(b"x", rig.world.now)
            caller.pipe.end(rig.world.now)
        rig.world.advance(5)
        assert all(caller.heard == b"x" and caller.heard_end for caller in (first, hung, last))
        rig.world.advance(IDLE_LIMIT + 10)
        assert not rig.asked()


def test_a_begin_that_closes_its_circuit_is_tried_elsewhere_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that is full is closed by the cell that is one too many, before there is a handler to tell."""
    rig = Rig()
    rig.serve()
    first = rig.connect()
    rig.world.advance(5)
    original = FakeCircuit.open_stream

    def overflowing(circuit: FakeCircuit, target: str, handler: Any, now: float, flags: int = 0) -> Any:
        stream = original(circuit, target, None, now, flags)
        circuit.destroy(DestroyReason.CHANNEL_CLOSED, now)
        stream.handler = handler
        return stream

    monkeypatch.setattr(FakeCircuit, "open_stream", overflowing)
    second = rig.connect()
    rig.world.advance(0.1)
    monkeypatch.undo()
    rig.world.advance(5)
    assert first.pipe is not None and second.open


def test_a_provider_that_accepts_and_hangs_delays_and_does_not_prevent() -> None:
    rig = Rig()
    rig.serve()
    guests = [rig.connect() for _ in range(9)]
    rig.world.advance(5)
    assert all(guest.open for guest in guests)
    rig.advertise_mutely()  # as nobody stays with it, it is always the least busy one
    callers = [rig.connect() for _ in range(10)]
    rig.world.advance(4 * ANSWER_TIMEOUT + 5)
    assert all(caller.open for caller in callers)


def test_points_that_do_not_answer_are_passed_over() -> None:
    rig = Rig()
    for node in points_of(HASH_NAME, NODES[:6])[:2]:
        rig.network.point(node.identity).dead = True
    rig.serve()
    caller = rig.connect()
    rig.world.advance(20)
    assert caller.open


def test_where_no_point_answers_that_is_said() -> None:
    rig = Rig()
    for node in NODES:
        rig.network.point(node.identity).dead = True
    caller = rig.connect()
    rig.world.advance(CONNECT_LIMIT + 1)
    assert caller.code in (EndReason.NOROUTE, EndReason.TIMEOUT) and caller.pipe.why is not None


def test_nobody_is_said_when_patience_is_over_and_not_before() -> None:
    rig = Rig()
    early, patient = rig.connect(patience=0), rig.connect()
    rig.world.advance(PATIENCE - 2)
    assert early.why is ConnectWhy.NOBODY and patient.code is None
    rig.world.advance(60)
    assert patient.why is ConnectWhy.NOBODY and patient.code == EndReason.RESOLVEFAILED


SECRET = b"o" * 32
PRIVATE = Subject.private(HASH_NAME, CRYPTO.x25519_public(SECRET), SECRET)
KNOWN = Subject.private(HASH_NAME, CRYPTO.x25519_public(SECRET))  # as those have it who have the address


class Pretender(Subject):
    """Who has only the address and advertises the owner's name all the same."""

    def adverts(self, crypto: Any, point: bytes, binding: bytes, now: float) -> list[Advert]:
        return [Advert.add(name, Proof(day_of(now, point), bytes(64))) for name in self.names(crypto, point, now)]


def pretend(rig: Rig) -> None:
    """Points that check nothing are needed for that."""
    for node in NODES:
        rig.network.point(node.identity).lies = True
    rig.serve(Pretender(KNOWN.hash_name, KNOWN.owner, KNOWN.owned, None))


def test_points_that_lie_about_who_the_owner_is_delay_and_do_not_prevent() -> None:
    rig = Rig(subject=KNOWN)
    pretend(rig)
    rig.serve(PRIVATE)
    callers = [rig.connect() for _ in range(10)]
    rig.world.advance(60)
    assert all(caller.open for caller in callers)


def test_points_that_only_lie_are_recognised() -> None:
    rig = Rig(subject=KNOWN)
    pretend(rig)
    caller = rig.connect()
    rig.world.advance(60)
    assert caller.why is ConnectWhy.MISLED and not caller.open


def test_a_connection_that_is_given_up_while_it_opens_leaves_nothing() -> None:
    rig = Rig()
    rig.serve()
    caller = rig.connect()
    rig.world.advance(0.12)
    caller.pipe.abort(EndReason.DONE, rig.world.now)
    rig.world.advance(IDLE_LIMIT + 10)
    assert rig.idle and rig.connector.stopped and not rig.connector.connections and not rig.asked()
    assert rig.services[0].clients(HASH_NAME) == 0


def test_circuits_are_given_up_when_nobody_needs_them() -> None:
    rig = Rig()
    rig.serve()
    caller = rig.connect()
    rig.world.advance(5)
    caller.pipe.end(rig.world.now)
    rig.world.advance(IDLE_LIMIT - 20)
    assert caller.heard_end and rig.asked()
    again = rig.connect()
    rig.world.advance(IDLE_LIMIT)
    assert again.open and not rig.idle, "somebody came meanwhile"
    again.pipe.abort(EndReason.DONE, rig.world.now)
    rig.world.advance(IDLE_LIMIT + 10)
    assert rig.idle and not rig.asked()


def test_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    rig = Rig()
    rig.connect()
    rig.connect()
    with pytest.raises(Problem) as refused:
        rig.connect()
    assert refused.value.why.code is Limit.CONNECTIONS


def test_who_stops_is_told_apart_from_who_fails() -> None:
    rig = Rig()
    caller = rig.connect()
    rig.connector.stop(rig.world.now)
    assert caller.why is ConnectWhy.STOPPED and caller.code == EndReason.DONE


def test_a_service_that_is_full_takes_a_newcomer_in_place_of_one_that_was_quiet_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SERVICES", replace(SERVICES, served=2, quiet=600.0))
    rig = Rig()
    rig.serve()
    callers = [rig.connect() for _ in range(6)]  # three points
    rig.world.advance(5)
    assert all(caller.open for caller in callers)
    rig.world.advance(400)
    for caller in callers[:3]:
        caller.pipe.write(b"I am here", rig.world.now)
    rig.world.advance(150)
    early = rig.connect()
    rig.world.advance(PATIENCE + 5)
    assert early.why is ConnectWhy.BUSY, "nobody was quiet for long enough"
    assert not any(caller.code for caller in callers)
    rig.world.advance(100)
    late = [rig.connect() for _ in range(3)]
    rig.world.advance(40)
    assert all(caller.open for caller in late)
    assert [caller.code for caller in callers] == [None] * 3 + [EndReason.RESOURCELIMIT] * 3


def test_posts_whose_last_sessions_go_on_are_limited_and_the_least_used_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("convergence.rdv.service.MAX_RETIRED", 2)
    rig = Rig([target(1)])
    service = rig.serve()
    callers = []
    for number, count in ((1, 3), (2, 1), (3, 2), (4, 1)):
        rig.directory.known = [target(number)]
        rig.connector.set_points(Class.POINTS, rig.world.now)
        service.set_points(Class.POINTS, rig.world.now)
        rig.world.advance(5)
        callers.append([rig.connect() for _ in range(count)])
        rig.world.advance(5)
        assert all(caller.open for caller in callers[-1])
    codes = [{caller.code for caller in group} for group in callers]
    assert codes == [{None}, {EndReason.RESOURCELIMIT}, {None}, {None}]
    callers[0][0].pipe.write(b"still here", rig.world.now)
    rig.world.advance(5)
    assert callers[0][0].heard == b"still here"


def test_of_two_providers_that_answer_the_first_wins_and_the_other_is_left_at_once() -> None:
    rig = Rig()
    rig.serve()
    rig.serve()
    held: list[Any] = []

    def slow(self: Any, message: bytes, now: float) -> None:
        held.append((self, message)) if len(held) < 1 else original(self, message, now)

    original = Session._on_handshake
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_on_handshake", slow)
        caller = rig.connect()
        rig.world.advance(SECOND_AFTER - 0.5)
        assert held and not caller.open
        (attempt,) = caller.pipe.attempts
        rig.world.advance(1)
    assert caller.open and not caller.pipe.attempts and attempt.session.closed
    late, _ = held[0]
    assert late.closed, "who was slow hears that nobody waits"
    caller.pipe.write(b"hello", rig.world.now)
    rig.world.advance(20)
    assert caller.heard == b"hello" and caller.code is None
    assert sum(service.clients(HASH_NAME) for service in rig.services) == 1


def test_a_connection_that_is_given_up_while_two_are_asked_leaves_nothing() -> None:
    rig = Rig()
    rig.advertise_mutely()
    caller = rig.connect()
    rig.world.advance(SECOND_AFTER + 1)
    assert len(caller.pipe.attempts) == 2
    caller.pipe.abort(EndReason.DONE, rig.world.now)
    rig.world.advance(1)
    assert not caller.pipe.attempts and not any(way.load for way in rig.connector._ways.values())
    rig.world.advance(IDLE_LIMIT + 1)
    assert rig.idle and not rig.asked()
