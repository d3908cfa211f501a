"""A dual peer: a node that is asked as a point for what it offers, and serves it itself."""

from __future__ import annotations

from typing import Any

import pytest

from convergence.errors import EndReason, StreamError
from convergence.rdv.guests import FILES
from convergence.rdv.keys import Subject
from convergence.rdv.own import OwnCircuit, OwnPoint
from convergence.rdv.service import START_SPREAD
from convergence.wire.rdv import Advert, DbInfo, Name, format_rdv_target
from convergence.wire.relay import REFERRALS_OKAY, RelayCommand
from tests.unit.circuit.rig import Recorder
from tests.unit.rdv.network import NODES, Rig
from tests.unit.rdv.test_point import NAME, Place

OTHER = Name(bytes(32))


class Offer:
    """Something that the point's own node offers."""

    def __init__(self, place: Place, name: Name = NAME) -> None:
        if place.point.own is None:
            place.point.own = OwnPoint(place.machine.keys.identity)
        self.circuit: OwnCircuit = place.point.own.circuit()
        self.circuit.on_begin = self._begin
        self.name = name
        self.asked: list[Recorder] = []
        self.refusal: EndReason | None = None
        self.tell(Advert.add(name))

    def tell(self, advert: Advert) -> None:
        self.circuit.send_message(RelayCommand.DB_INFO, DbInfo((advert,)).encode())

    def _begin(self, target: str, stream: Any, now: float) -> Recorder:
        assert target == format_rdv_target(self.name)
        if self.refusal is not None:
            raise StreamError("no", self.refusal)
        self.asked.append(Recorder(stream))
        return self.asked[-1]


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_query_for_what_the_node_offers_is_served_by_it_without_any_circuit(place: Place) -> None:
    offer = Offer(place)
    stream, handler = place.query()
    [served] = offer.asked
    assert handler.calls == ["opened"] and served.calls == ["opened"]
    stream.write(b"question", place.net.now)
    served.pipe.write(b"answer", place.net.now)
    place.net.pump()
    assert served.received == b"question" and handler.received == b"answer"
    assert not place.offers() and len(place.machine.circuits) == 1, "the asker's"


def test_other_names_are_left_to_those_who_advertise_them(place: Place) -> None:
    offer, provider = Offer(place), place.provider(OTHER)
    _, handler = place.query(name=OTHER)
    assert handler.calls == ["opened"] and len(provider.asked) == 1 and not offer.asked


def test_whoever_is_busy_himself_leaves_it_to_others(place: Place) -> None:
    offer, provider = Offer(place), place.provider()
    offer.refusal = EndReason.RESOURCELIMIT
    stream, handler = place.query()
    assert handler.calls == ["opened"] and len(provider.asked) == 1
    stream.write(b"question", place.net.now)
    place.net.pump()
    assert provider.asked[0][1].received == b"question"


def test_a_busy_node_says_so_and_refers_to_nobody(place: Place) -> None:
    offer = Offer(place)
    offer.refusal = EndReason.RESOURCELIMIT
    place.point.others = (b"descriptor",)
    told, circuit = [], place.circuit()
    circuit.on_info = told.append
    _, handler = place.net.open(circuit, format_rdv_target(NAME), flags=REFERRALS_OKAY)
    assert handler.reason == EndReason.RESOURCELIMIT and not told


def test_what_nobody_serves_any_more_is_not_found(place: Place) -> None:
    """The sessions of an offer that is withdrawn go on for a while; its adverts are gone first, and its hook then."""
    offer = Offer(place)
    offer.circuit.on_begin = None
    _, handler = place.query()
    assert handler.reason == EndReason.RESOLVEFAILED


def test_what_is_withdrawn_is_not_found_any_more(place: Place) -> None:
    offer = Offer(place)
    offer.tell(Advert.remove(NAME))
    _, handler = place.query()
    assert handler.reason == EndReason.RESOLVEFAILED and not offer.asked


def test_sessions_end_with_the_askers_circuit(place: Place) -> None:
    offer = Offer(place)
    circuit = place.circuit()
    place.query(circuit)
    circuit.destroy(0, place.net.now)
    place.net.pump()
    assert offer.asked[0].reason == EndReason.DESTROY


# -- the post of an offer at this very node


def names(own: OwnPoint) -> int:
    return len(own._offers)


def test_an_offer_stands_here_and_at_as_many_points_as_ever() -> None:
    """Not at this node over a circuit, though it is one of the points."""
    rig = Rig()
    own = OwnPoint(rig.points[0].identity)
    rig.service.own = own
    rig.share()
    assert names(own) == 1 and rig.standing[-1] == (3, 3)
    built = {identity for identity, _ in rig.network.built}
    assert len(built) == 3 and own.target.identity not in built


def test_it_is_switched_on_and_off_while_a_file_is_shared() -> None:
    rig = Rig()
    rig.share()
    own = OwnPoint(rig.points[0].identity)
    rig.service.use_own(own, rig.world.now)
    assert names(own) == 1
    rig.world.advance(60)
    assert not rig.points[0].adverts or not any(rig.points[0].adverts.values()), "no circuit leads to ourselves"
    assert rig.standing[-1] == (3, 3)
    rig.service.use_own(None, rig.world.now)
    assert names(own) == 0
    rig.world.advance(60)
    assert rig.standing[-1] == (3, 3) and any(rig.points[0].adverts.values())


def test_a_withdrawn_file_is_served_here_no_more() -> None:
    rig = Rig()
    own = rig.service.own = OwnPoint(NODES[0].identity)
    rig.share()
    rig.service.withdraw(rig.file.hash_name, rig.world.now)
    assert names(own) == 0


def test_each_of_many_files_comes_at_a_time_of_its_own_here_too() -> None:
    rig = Rig()
    own = rig.service.own = OwnPoint(NODES[0].identity)
    rig.share()
    for number in range(8):
        subject = Subject.file(bytes([number]) * 32, rig.file.key)
        rig.service.offer(subject, rig.sender.serve, rig.world.now)
    rig.world.advance(9 * START_SPREAD)
    assert names(own) == 9


def test_clients_here_have_the_limits_of_any_point() -> None:
    rig = Rig()
    own = rig.service.own = OwnPoint(NODES[0].identity)
    rig.share()
    [(name, circuit)] = own._offers.items()
    assert circuit.on_begin is not None
    for _ in range(FILES.shaking + 10):
        near, middle = rig.world.pair()
        middle.handler = circuit.on_begin(format_rdv_target(name), middle, rig.world.now)
    post = rig.service._offers[rig.file.hash_name].posts[b""]
    assert len(post.guests._shaking) == FILES.shaking
