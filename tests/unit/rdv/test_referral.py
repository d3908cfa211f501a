"""Hops extension: whom an asker goes on to, and how little it costs when those who refer lie."""

from __future__ import annotations

from typing import Any

import pytest

from convergence.circuit.client import MAX_HOPS
from convergence.codes import ConnectWhy, TransferWhy
from convergence.errors import RemoteError
from convergence.netdir.listview import VALUE, ListView
from convergence.netdir.view import place_of
from convergence.rdv.client import REFER_LIMIT
from convergence.rdv.referral import MAX_MISSES, MAX_VISITED, REFERRALS, REVISIT_AFTER, Referrals, around
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.rdv import Name
from convergence.wire.target import RelayTarget, Role
from tests.unit.ordb.memory import CRYPTO
from tests.unit.rdv import test_connector as connecting
from tests.unit.rdv.network import ENTRY, NODES, FakeCircuit, Network
from tests.unit.rdv.network import Rig as FileRig
from tests.views import given_view, points_of


class GivenNodes:
    version = 0

    def __init__(self, known: list[Descriptor]) -> None:
        self.known = known

    def stands_until(self, now: float) -> float:
        return float("inf")

    def nodes(self, role: int, now: float) -> list[Descriptor]:
        return self.known


ONE, TWO, THREE, FOUR, FIVE, SIX = NODES[:6]


def named(own: bytes, nodes: list[Descriptor]) -> list[bytes]:
    """Identities, in the order in which the point names them."""
    told: list[list[bytes]] = []
    around(ListView(GivenNodes(nodes), None), own, 0.0, lambda named, now: told.append(named))  # type: ignore[arg-type]
    return [Descriptor.parse(raw).identity for raw in told[0]]


def signed(number: int, *transports: Transport) -> Descriptor:
    identity = number.to_bytes(32, "big")
    return Descriptor(identity, bytes(32), 0, 1, Role.RDV, transports, bytes(64))


def test_a_point_names_some_that_stand_beside_it_on_the_ring() -> None:
    nodes = [signed(number) for number in range(200)]
    order = sorted(nodes, key=lambda node: place_of(VALUE, node.identity))
    before = 0
    for at, node in enumerate(order):
        found = named(node.identity, nodes)
        near = [(order + order)[at + 200 + step if step < 0 else at + step].identity for step in range(-12, 4)]
        assert len(found) == REFERRALS and node.identity not in found and set(found) <= set(near)
        before += sum(identity in near[:12] for identity in found)
    assert 200 <= before <= 500, "two of three stand before it, more or less"


def test_in_a_small_network_a_point_names_all_others() -> None:
    nodes = [signed(number) for number in range(4)]
    for node in nodes:
        assert {*named(node.identity, nodes)} == {other.identity for other in nodes} - {node.identity}
    assert named(nodes[0].identity, nodes[:1]) == named(nodes[0].identity, []) == []


def test_what_does_not_fit_a_cell_is_not_named() -> None:
    long = [signed(number, *[Transport(1, f"ws://{'x' * 200}/")] * 2) for number in range(3)]
    assert len(long[0].encode()) > 498
    assert named(bytes([9]) * 32, [*long, signed(7)]) == [signed(7).identity]


class Seeker:
    """A file or a service that stands at some points, while whoever looks for it knows others only.

    Attributes:
        kinds: of names that it has. Each is asked for over circuits of its own, and referred by itself.
    """

    def __init__(self, kind: str, known: list[RelayTarget], there: list[RelayTarget]) -> None:
        self.files = FileRig(size=1) if kind == "file" else None
        self.services = connecting.Rig(known) if kind == "service" else None
        self.rig: Any = self.files or self.services
        self.kinds = 2 if self.files else 1
        self.subject = self.files.subject if self.files else connecting.PUBLIC
        self.network: Network = self.rig.network
        self._known = self.rig.nodes = known
        self._there = there

    def offer(self) -> None:
        """Whoever offers it has a View of his own."""
        rig = self.rig
        before = rig.directory, rig.view
        rig.directory, rig.view = given_view(self._there, rig.world.rng)
        rig.nodes = self._there
        if self.files:
            rig.service = rig.new_service(rig.node)
            rig.share()
        else:
            rig.serve()
        rig.nodes, (rig.directory, rig.view) = self._known, before

    def look(self, seconds: float) -> None:
        if self.files:
            self._getter = self.files.get(1)
        else:
            self._caller = self.services.connect(patience=seconds / 2)
        self.rig.world.advance(seconds)

    def go_on(self, seconds: float) -> None:
        """A file is looked for until it is found; for a service somebody asks again."""
        if self.files:
            self.rig.world.advance(seconds)
        else:
            self.look(seconds)

    @property
    def found(self) -> bool:
        if self.files:
            return self._getter.download.have_bytes > 0
        return self._caller.open

    @property
    def said_nobody(self) -> bool:
        if self.files:
            return self._getter.statuses[-1] is TransferWhy.NOBODY
        return self._caller.why is ConnectWhy.NOBODY

    def refer(self, at: RelayTarget, *to: RelayTarget | bytes) -> None:
        others = [node if isinstance(node, bytes) else node.identity for node in to]
        self.network.point(at.identity).others = others

    def asked_at(self, node: RelayTarget) -> list[Name]:
        return [name for identity, name, _ in self.network.begun if identity == node.identity]

    def went(self) -> list[list[int]]:
        """Paths that circuits were extended along, beyond the entry, in numbers."""
        return [[identity[0] for identity in path[1:]] for path in self.network.extended]


@pytest.fixture(params=["file", "service"])
def kind(request: Any) -> str:
    return str(request.param)


def test_an_asker_goes_on_to_points_that_it_did_not_know(kind: str) -> None:
    seeker = Seeker(kind, [ONE], [FOUR])
    seeker.offer()
    seeker.refer(ONE, TWO)
    seeker.refer(TWO, ONE, THREE)
    seeker.refer(THREE, TWO, FOUR)
    seeker.look(9)
    assert seeker.found
    assert seeker.went() == [[1, 2], [1, 2, 3], [1, 2, 3, 4]], "over one circuit, step by step"
    assert [point for point, provider in seeker.network.built if not provider] == [ONE.identity]


def test_each_point_hears_its_own_name_only(kind: str) -> None:
    seeker = Seeker(kind, [ONE], [THREE])
    seeker.offer()
    seeker.refer(ONE, TWO)
    seeker.refer(TWO, THREE)
    seeker.look(9)
    for node in (ONE, TWO, THREE):
        names = seeker.subject.names(CRYPTO, node.identity, seeker.rig.world.now)
        assert set(seeker.asked_at(node)) == set(names[:1])


def test_a_circuit_has_no_more_than_five_hops(kind: str) -> None:
    seeker = Seeker(kind, [ONE], [FIVE])
    seeker.offer()
    for node, following in zip(NODES, NODES[1:5], strict=False):
        seeker.refer(node, following)
    seeker.look(60)
    assert not seeker.found and seeker.said_nobody
    assert max(map(len, seeker.network.extended)) == MAX_HOPS and not seeker.asked_at(FIVE)


@pytest.mark.parametrize("circle", [[ONE], [TWO, ONE], [TWO, THREE, ONE], [ENTRY]])
def test_circles_end(kind: str, circle: list[RelayTarget]) -> None:
    """Also the shortest: a point that names itself, or the relay before it."""
    seeker = Seeker(kind, [ONE], [SIX])
    seeker.network.known[ENTRY.identity] = ENTRY
    seeker.refer(ONE, circle[0])
    for node, following in zip(circle, circle[1:], strict=False):
        seeker.refer(node, following)
    seeker.look(REVISIT_AFTER / 2)
    assert not seeker.found
    assert len(seeker.went()) == seeker.kinds * (len(circle) - 1), "each was visited once"
    assert len(seeker.asked_at(ONE)) > 5, "its own point is asked again and again"


def test_a_dead_node_costs_one_extension_and_the_next_is_tried(kind: str) -> None:
    seeker = Seeker(kind, [ONE], [THREE])
    seeker.offer()
    seeker.refer(ONE, TWO, THREE)
    seeker.network.point(TWO.identity).dead = True
    seeker.look(9)
    assert seeker.found and seeker.went() == [[1, 2]] * seeker.kinds + [[1, 3]]
    once = [TWO.identity] * seeker.kinds
    assert seeker.network.looked_up == [*once, TWO.identity, THREE.identity], "for no circuit that is gone"


def test_what_no_look_up_finds_costs_no_circuit(kind: str) -> None:
    """Forged, unknown, expired: a View tells, or the descriptor's own signature and dates."""
    seeker = Seeker(kind, [ONE], [THREE])
    seeker.offer()
    seeker.refer(ONE, b"forged", b"unknown", THREE)
    seeker.look(9)
    assert seeker.found and seeker.went() == [[1, 3]]


def test_only_points_are_gone_on_to(kind: str) -> None:
    relay = Descriptor(b"\x63" * 32, bytes(32), 0, 1, Role.RELAY).target
    seeker = Seeker(kind, [ONE], [THREE])
    seeker.network.known[relay.identity] = relay
    seeker.refer(ONE, relay)
    seeker.look(30)
    assert seeker.network.looked_up and not seeker.went()


def test_a_thousand_referrals_end_the_circuit_that_they_came_on(kind: str) -> None:
    """The point is asked for none on the next circuit, which stands."""
    seeker = Seeker(kind, [ONE], [TWO])
    seeker.refer(ONE, *[number.to_bytes(4, "big") for number in range(1000)])
    seeker.look(20)
    assert not seeker.found and not seeker.network.looked_up
    assert [circuit.closed for circuit in seeker.network.circuits] == [True] * seeker.kinds + [False] * seeker.kinds
    assert len(seeker.asked_at(ONE)) > 2


def test_a_point_whose_referrals_lead_nowhere_is_asked_for_no_more_for_a_while(kind: str) -> None:
    """However many names it makes up, each of them new."""
    seeker = Seeker(kind, [ONE], [SIX])
    point = seeker.network.point(ONE.identity)
    fresh = iter(range(10_000))

    def begin(*rest: Any) -> None:
        point.others = [next(fresh).to_bytes(4, "big") for _ in range(REFERRALS)]
        type(point).begin(point, *rest)

    point.begin = begin  # type: ignore[method-assign]
    seeker.look(50)
    for _ in range(10):
        seeker.go_on(50)
    assert len(seeker.network.looked_up) == seeker.kinds * MAX_MISSES
    for _ in range(10):
        seeker.go_on(50)
    assert 1 < len(seeker.network.looked_up) / (seeker.kinds * MAX_MISSES) <= 2


def test_points_that_lead_on_and_on_take_an_asker_to_so_many_only(kind: str) -> None:
    """They work together: each names three more, which answer and know nobody."""
    seeker = Seeker(kind, [ONE, TWO, THREE], [SIX])
    more = [Descriptor(number.to_bytes(32, "big"), bytes(32), 0, 1, Role.RDV).target for number in range(1000, 1300)]
    seeker.network.known |= {node.identity: node for node in more}
    rest = iter(more)
    for node in [*NODES[:3], *more[:97]]:
        seeker.refer(node, *[next(rest) for _ in range(REFERRALS)])
    seeker.look(REVISIT_AFTER - 10)
    assert 0 < len(seeker.went()) <= seeker.kinds * MAX_VISITED


def test_who_was_nobody_is_asked_again_later() -> None:
    seeker = Seeker("file", [ONE], [TWO])
    seeker.refer(ONE, TWO)
    seeker.look(60)
    assert seeker.said_nobody and seeker.went() == [[1, 2]] * seeker.kinds
    seeker.offer()
    seeker.rig.world.advance(REVISIT_AFTER + 60)
    assert seeker.found


def test_a_look_up_that_nobody_answers_holds_up_for_a_time_only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeker = Seeker(kind, [ONE], [ONE])
    seeker.refer(ONE, TWO)
    monkeypatch.setattr(Network, "look_up", lambda *_: None)
    seeker.look(REFER_LIMIT / 2)
    assert not seeker.found
    seeker.offer()
    seeker.go_on(REFER_LIMIT)
    assert seeker.found


def test_look_ups_that_nobody_answers_count_against_who_caused_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point may name nodes that stand where nobody gives an answer."""
    asked: list[bytes] = []
    seeker = Seeker("service", [ONE], [SIX])
    seeker.refer(ONE, TWO)
    monkeypatch.setattr(Network, "look_up", lambda network, descriptor, now, then: asked.append(descriptor))
    for _ in range(2 * MAX_MISSES):
        seeker.look(40)
    assert len(asked) == MAX_MISSES


def test_a_point_that_leads_elsewhere_holds_up_no_other_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """One source is wanted, so one point is asked after the other; where it names others, the next one is asked too."""
    seeker = Seeker("file", [ONE, TWO, THREE], [])
    *others, last = points_of(seeker.subject.hash_name, [ONE, TWO, THREE])
    seeker._there = [last]
    seeker.offer()
    for node in others:
        seeker.refer(node, FOUR)
    monkeypatch.setattr(Network, "look_up", lambda *_: None)
    seeker.look(REFER_LIMIT / 4)
    assert seeker.found


def test_whoever_left_meanwhile_goes_nowhere(kind: str) -> None:
    seeker = Seeker(kind, [ONE], [TWO])
    seeker.offer()
    seeker.refer(ONE, TWO)
    seeker.network.delay = 1.0
    seeker.look(1.5)
    assert seeker.went() == [[1, 2]], "it is on its way"
    if seeker.files:
        seeker._getter.client.stop(seeker.rig.world.now)
    else:
        seeker.services.connector.stop(seeker.rig.world.now)
    seeker.rig.world.advance(30)
    assert not seeker.found and not seeker.asked_at(TWO)
    assert all(circuit.closed for circuit in seeker.network.circuits if not circuit.provider)


def test_a_point_where_somebody_was_found_is_returned_to_as_often_as_need_be() -> None:
    """Connections come and go; each next one finds the service where the last one did, or by the same way."""
    seeker = Seeker("service", [ONE], [TWO])
    seeker.offer()
    seeker.refer(ONE, TWO)
    for _ in range(2 * MAX_MISSES):
        seeker.look(3)
        assert seeker.found
        seeker.network.kill_circuits(provider=False)
        seeker.rig.world.advance(3)


def test_several_connections_at_once_all_get_there() -> None:
    seeker = Seeker("service", [ONE], [TWO])
    seeker.offer()
    seeker.refer(ONE, TWO)
    callers = [seeker.services.connect() for _ in range(40)] if seeker.services else []
    seeker.rig.world.advance(12)
    assert all(caller.open for caller in callers)


def test_how_long_a_circuit_is_does_not_show_in_its_query(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeker = Seeker(kind, [ONE], [TWO])
    seeker.refer(ONE, TWO)
    flags = []
    for may in (True, False):
        monkeypatch.setattr(Network, "may_extend", lambda *_, may=may: may)
        before = len(seeker.network.circuits)
        seeker.look(60)
        flags += [list(circuit.flags.values())[0] for circuit in seeker.network.circuits[before:][:1]]
        seeker.network.kill_circuits(provider=False)
    assert len(flags) == 2 and flags[0] == flags[1] != 0 and seeker.went()


class Asker:
    """One request, whose look-ups are answered when `answer` is called."""

    def __init__(self) -> None:
        self.rig = FileRig(size=1)
        self.referrals = Referrals(self.rig.network, self.rig.node.outbox)
        self.looked_up: list[Any] = []
        self.ready: list[float] = []
        self.failed: list[float] = []
        self.rig.network.look_up = lambda *look_up: self.looked_up.append(look_up)  # type: ignore[method-assign]

    def ask(self, node: RelayTarget) -> FakeCircuit:
        circuit = FakeCircuit(self.rig.network, self.rig.network.point(node.identity), False)
        self.referrals.flags(circuit, self.rig.world.now)  # type: ignore[arg-type]
        return circuit

    def follow(self, circuit: FakeCircuit, *told: RelayTarget) -> None:
        for node in told:
            circuit.on_info(node.identity)
        self.referrals.follow(circuit, self.ready.append, self.failed.append, self.rig.world.now)  # type: ignore[arg-type]

    def answer(self) -> None:
        descriptor, now, then = self.looked_up.pop()
        then(self.rig.network.known[descriptor], now)


def test_nobody_goes_on_to_a_point_that_is_asked_anyway() -> None:
    asker = Asker()
    asker.ask(TWO)
    asker.follow(asker.ask(ONE), TWO)
    asker.answer()
    assert asker.failed and not asker.rig.network.extended
    assert not any(asker.referrals._misses.values()), "points beside each other name each other"


def test_a_circuit_that_closes_meanwhile_goes_nowhere() -> None:
    asker = Asker()
    circuit = asker.ask(ONE)
    asker.follow(circuit, TWO, THREE)
    circuit.destroy(0, 0.0)
    asker.answer()
    assert len(asker.failed) == 1 and not asker.looked_up and not asker.rig.network.extended
    asker.follow(circuit)
    assert len(asker.failed) == 2


def test_points_that_are_remembered_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergence.rdv.referral.MAX_VISITED", 3)
    asker = Asker()
    for own, other in ((ONE, TWO), (THREE, FOUR)):
        asker.follow(asker.ask(own), other)
        asker.answer()
    assert [path[-1] for path in asker.rig.network.extended] == [TWO.identity] and len(asker.failed) == 1


def test_however_many_are_named_in_time_so_many_are_kept() -> None:
    """A point that named fewer than it may, often, may name the rest at once."""
    asker = Asker()
    circuit = asker.ask(ONE)
    for _ in range(10):
        asker.referrals.flags(circuit, 0.0)  # type: ignore[arg-type]
    for number in range(11 * REFERRALS):
        circuit.on_info(bytes([number]))
    assert list(circuit.on_info.descriptors) == [bytes([number]) for number in range(REFERRALS)]
    with pytest.raises(RemoteError):
        circuit.on_info(b"one more")
