"""Hops extension and dual peers in whole networks."""

from __future__ import annotations

from typing import Any

import pytest

from convergence.codes import ConnectWhy
from convergence.netdir.nodes import LIST_FRESH
from convergence.rdv.blind import common_names
from convergence.rdv.point import RdvPoint
from convergence.rdv.referral import MAX_MISSES
from convergence.wire.address import parse_address
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.rdv import Name, parse_rdv_target
from convergence.wire.sharelink import ShareLink
from convergence.wire.target import Role
from tests.chain import KNOWN, PLACES, ChainFacilitator, suits
from tests.sim.people import RELAY, Talker, arrived, connect, content, get, serve, settle, share
from tests.sim.world import Host, SeededRng, World

READY = 100


class Row:
    """Nine browsers, and the facilitator, which is killed once all have their circuits."""

    def __init__(self, seed: str) -> None:
        self.world = World(seed)
        self.facilitator = ChainFacilitator(self.world.crypto, SeededRng(seed), b"f" * 32)
        host = self.world.place("facilitator", self.facilitator)
        host.driver.run(self.facilitator.start)
        self.hosts: dict[int, Host] = {}
        for is_point, places in PLACES.items():
            for place in places:
                hops = {1: 2, 9: 3}.get(place, 1)
                roles = RELAY if is_point else Role.RELAY
                self.hosts[place] = self.world.add(f"b{place}", roles, browser=True, hops=hops)
                self.world.run(1)
        assert self.world.run(READY, lambda: all(self.knows(place) for place in self.hosts))
        self.world.run(10)
        self.world.kill(host)

    def knows(self, place: int) -> bool:
        node = self.hosts[place].node
        return len(node.directory.nodes(Role(0), self.world.now)) == len(KNOWN[place])

    def identity(self, place: int) -> bytes:
        keys = self.hosts[place].keys
        assert keys is not None
        return keys.identity

    def place_of(self, identity: bytes) -> int:
        return self.facilitator.places[identity]

    def suits(self, name: bytes) -> bool:
        return suits({place: self.identity(place) for place in self.hosts}, name)

    def name(self) -> str:
        names = (f"hash:what nine has {number}" for number in range(100))
        return next(name for name in names if self.suits(parse_address(name).hash_name))

    def name_but(self, taken: str) -> str:
        """Another one."""
        names = (f"hash:something else {number}" for number in range(100))
        return next(name for name in names if self.suits(parse_address(name).hash_name) and name != taken)

    def circuits(self, place: int) -> list[list[int]]:
        """Places along the circuits of a node that are in use."""
        found = self.hosts[place].node.pool.snapshot()
        used = [item for item in found if item["purpose"] == "rendezvous" and item["state"] == "in use"]
        return [[self.place_of(bytes.fromhex(hop["identity"])) for hop in item["hops"]] for item in used]


def talk(world: World, talker: Talker, data: bytes) -> None:
    talker.say(data)
    assert world.run(60, lambda: bytes(talker.heard) == data)


def test_what_one_does_not_know_and_only_nine_has_is_reached_through_all_nine() -> None:
    row = Row("row")
    started = row.world.now
    name = row.name()
    serve(row.hosts[9], name, echo=True)
    assert row.world.run(60, lambda: bool(row.hosts[6].node._point._adverts.names))
    talker = connect(row.hosts[1], name)
    talk(row.world, talker, b"hello")
    assert row.circuits(1) == [[2, 3, 4, 5, 6]]
    [outward] = row.circuits(9)
    assert sorted(outward) == [6, 7, 8] and outward[-1] == 6
    assert row.world.now - started < LIST_FRESH


def test_what_three_has_itself_it_serves_without_another_node() -> None:
    row = Row("dual")
    three = row.hosts[3]
    three.driver.run(lambda now: three.node.serve_directly(True, now))
    name = row.name()
    serve(three, name, echo=True)
    row.world.run(10)
    for place, host in row.hosts.items():
        if place not in (1, 2, 3):
            row.world.kill(host)
    talk(row.world, connect(row.hosts[1], name), b"hello")
    assert row.circuits(1) == [[2, 3]]


def test_a_node_that_was_not_told_to_serve_itself_is_not_found_out_by_asking_it() -> None:
    """Whoever has the name can ask each node under its own blinded name."""
    row = Row("hidden")
    name = row.name()
    serve(row.hosts[3], name, echo=True)
    assert row.world.run(60, lambda: bool(row.hosts[4].node._point._adverts.names)), "4 is its point"
    for place in (4, 5, 6):
        row.hosts[3].node._point.others = ()
        row.world.kill(row.hosts[place])
    stranger = connect(row.hosts[1], name, patience=5)
    assert row.world.run(60, lambda: stranger.code is not None) and not stranger.open
    assert stranger.pipe.why.code is ConnectWhy.NOBODY


def test_files_come_that_way_too() -> None:
    row = Row("files")
    nine, links = row.hosts[9], list[str]()
    files = [content(f"row {number}", PIECE_SIZE + 1000) for number in range(12)]
    for number, data in enumerate(files):
        share(nine, data, links.append, name=f"{number}.bin")
    row.world.run(5)
    link = next(link for link in links if row.suits(ShareLink.parse(link).hash_name))
    assert row.world.run(90, lambda: len(row.hosts[6].node._point._adverts.names) >= len(links) // 2)
    row.world.run(30)
    number = get(row.hosts[1], link)
    assert row.world.run(60, lambda: row.circuits(1) == [[2, 3, 4, 5, 6]])
    assert settle(row.world, row.hosts[1], number, 60) == "done"
    assert arrived(row.hosts[1], number) == files[links.index(link)]


# -- points that lie


def made_up(row: Row, number: int, **changed: Any) -> bytes:
    """The descriptor of a node that is not there, signed as it should be."""
    seed, now = number.to_bytes(32, "big"), int(row.world.now)
    values = {"published": now, "expires": now + 600, "roles": RELAY, "transports": (Transport.rtc(),)} | changed
    unsigned = Descriptor(row.world.crypto.ed25519_public(seed), b"k" * 32, **values)
    return unsigned.sign(lambda message: row.world.crypto.ed25519_sign(seed, message)).encode()


def forged(row: Row) -> list[bytes]:
    raw = made_up(row, 1)
    return [raw[:-1] + bytes([raw[-1] ^ 1]), raw[:-64] + bytes(64), b"\xff" * 300]


LIES = {
    "forged": forged,
    "of nobody": lambda row: [made_up(row, number) for number in range(3)],
    "of too long a life": lambda row: [made_up(row, 1, expires=int(row.world.now) + 86_400)],
    "of the past": lambda row: [made_up(row, 1, published=int(row.world.now) - 7200, expires=int(row.world.now) - 1)],
    "of itself": lambda row: [row.hosts[3].node.announcement.describe(row.world.now).encode()],
    "of the asker": lambda row: [row.hosts[1].node.announcement.describe(row.world.now).encode()],
    "of a thousand": lambda row: [made_up(row, number) for number in range(1000)],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_point_that_lies_costs_some_tries_and_stays_the_point_that_it_is(lie: str) -> None:
    """What it knows is still found there, the asker's other circuits stand, and later an honest referral leads on."""
    row = Row("lies")
    name = row.name()
    serve(row.hosts[9], name, echo=True)
    assert row.world.run(60, lambda: bool(row.hosts[6].node._point._adverts.names))
    one, point = row.hosts[1], row.hosts[3].node._point
    lies = LIES[lie](row)
    point.__class__ = type("Liar", (RdvPoint,), {"others": property(lambda self: lies, lambda self, value: None)})
    extended: list[bytes] = []
    extend = one.node.pool._extend

    def counting(place: Any, node: Any, *rest: Any) -> None:
        extended.append(node.identity)
        extend(place, node, *rest)

    one.node.pool._extend = counting
    lost = connect(one, name, patience=20)
    known = row.knows(1)
    assert row.world.run(90, lambda: lost.code is not None)
    assert lost.pipe.why.code in (ConnectWhy.NOBODY, ConnectWhy.NO_POINTS, ConnectWhy.TIMEOUT)
    assert len(extended) <= MAX_MISSES and row.knows(1) is known, "nobody was added to what it knows"
    point.__class__ = RdvPoint
    serve(row.hosts[4], other := row.name_but(name), echo=True)
    assert row.world.run(60, lambda: bool(point._adverts.names))
    talk(row.world, connect(one, other), b"still a point")


def test_no_point_hears_a_name_that_it_could_know_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """All points write down what they are asked for, and by which link: names are of this point, this day and nothing
    else, and only the first of them is beside the asker's entry."""
    row = Row("log")
    heard: dict[int, set[Name]] = {}
    places = {id(host.node._point): place for place, host in row.hosts.items()}
    begin = RdvPoint.begin

    def logging(self: RdvPoint, circuit: Any, stream_id: int, query: Any, now: float) -> None:
        heard.setdefault(places[id(self)], set()).add(parse_rdv_target(query.target))
        begin(self, circuit, stream_id, query, now)

    monkeypatch.setattr(RdvPoint, "begin", logging)
    name = row.name()
    serve(row.hosts[9], name, echo=True)
    assert row.world.run(60, lambda: bool(row.hosts[6].node._point._adverts.names))
    talk(row.world, connect(row.hosts[1], name), b"hello")
    hash_name = parse_address(name).hash_name
    own = {place: common_names(hash_name, row.identity(place), row.world.now)[0] for place in (3, 4, 5, 6)}
    assert len(set(own.values())) == 4
    for place, told in own.items():
        others = {name for other, name in own.items() if other != place} | {Name(hash_name)}
        assert told in heard[place] and not others & heard[place]
