"""Hops extension and dual peers in whole networks."""

from __future__ import annotations

from typing import Any

from convergence.netdir.nodes import LIST_FRESH
from convergence.path.select import entry_side
from convergence.wire.address import parse_address
from convergence.wire.target import Role
from tests.chain import KNOWN, PLACES, ChainFacilitator
from tests.sim.people import RELAY, Talker, connect, serve
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
        """Whether 2 is an entry for who asks, and 7 or 8 for who serves at 6: in so small a network chance decides."""
        asking = entry_side(self._targets(1), name, False, self.identity(3))
        serving = entry_side(self._targets(9), name, True, self.identity(6))
        serving_side = {self.place_of(node.identity) for node in serving}
        return self.identity(2) in [node.identity for node in asking] and bool({7, 8} & serving_side)

    def _targets(self, place: int) -> list[Any]:
        return [node.target for node in self.hosts[place].node.directory.nodes(Role(0), self.world.now)]

    def name(self) -> str:
        names = (f"hash:what nine has {number}" for number in range(100))
        return next(name for name in names if self.suits(parse_address(name).hash_name))

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
    assert row.world.run(60, lambda: bool(row.hosts[6].node._point._files))
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
