"""Conflux in whole networks: what two ways carry that differ in length and speed, and what is left when one ends.

Rates are of virtual time: a node's CPU costs nothing here.
"""

from __future__ import annotations

import pytest

from convergence.circuit.conflux import LinkedSet
from convergence.errors import EndReason
from convergence.tor.sets import ConfluxParams, SetCircuit, Stage
from convergence.wire.address import TcpAddress
from tests.sim.distance import DOWNLOAD, UPLOAD, Server, User
from tests.sim.tor import TorWorld
from tests.sim.world import Host, Line

WEB = TcpAddress("site.example", 80)
NEAR, FAR = 0.02, 0.1  # seconds, one way, from a client to its guards
SPEED = 2e6  # bytes/s of these lines: they are what limits the rate


class Scene(TorWorld):
    """A client whose guards are at different distances, and a site on the web."""

    def __init__(self, sets: int = 1) -> None:
        super().__init__("conflux", entries=0, relays=1)
        self.site = Server()
        self.world._addresses[WEB.target] = self.world.place(WEB.host, self.site)
        for number, relay in enumerate(self.made):
            pair = frozenset(("alice", relay.nickname))
            self.world.lines[pair] = Line(FAR if number % 2 else NEAR, SPEED)
            self.world.lines[frozenset((WEB.host, relay.nickname))] = Line(0.001, 50e6)
        self.alice = self.client()
        circuits = self.alice.node.tor.circuits
        assert self.ready(self.alice)
        circuits.sets.params = ConfluxParams(sets)
        circuits._predicted.used(WEB.port, self.world.now)  # as if somebody had been there within the hour
        circuits.nodes_changed(self.world.now)
        assert self.world.run(60, lambda: self.stand >= sets)

    @property
    def sets(self) -> list[SetCircuit]:
        return list(self.alice.node.tor.circuits.sets._sets)

    @property
    def stand(self) -> int:
        """Sets that are ready."""
        return sum(item.machine.state is Stage.READY for item in self.sets)

    @property
    def used(self) -> SetCircuit:
        [found] = [item for item in self.sets if item.machine.state is Stage.USED]
        return found

    def connect(self, asks: bytes, key: str = "") -> User:
        users: list[User] = []

        def start(now: float) -> None:
            pipe = self.alice.node.connect(WEB, now, isolation=key)
            users.append(User(self.alice, pipe, asks=asks, writes=asks == UPLOAD))
            pipe.handler = users[0]

        self.alice.driver.run(start)
        return users[0]

    def far_end(self) -> LinkedSet:
        """The exit's end of the set in use."""
        host = self.hosts[self.used.path[-1].identity]
        found = [item.linked for item in host.node._linking._sets.values() if item.linked.last_sent]
        assert len(found) == 1
        return found[0]

    def guard(self, number: int) -> Host:
        return self.hosts[self.used.circuits[number].path[0].identity]


def rate(scene: Scene, user: User, seconds: float = 4.0) -> float:
    before = user.heard
    scene.world.run(seconds)
    return (user.heard - before) / seconds


def test_two_ways_carry_more_than_the_better_one() -> None:
    single = Scene(sets=0)
    user = single.connect(DOWNLOAD)
    single.world.run(3)
    alone = rate(single, user)
    scene = Scene()
    user = scene.connect(DOWNLOAD)
    scene.world.run(3)
    both = rate(scene, user)
    assert alone < SPEED and both > 1.5 * alone
    assert all(leg.last_sent > 1000 for leg in scene.far_end().legs)
    assert scene.used.linked.waiting < 4 * FAR * SPEED / 498


def test_an_upload_takes_one_way_at_a_time_as_the_exit_wishes() -> None:
    """It has little to keep in order then."""
    scene = Scene()
    scene.connect(UPLOAD)
    scene.world.run(3)
    before = scene.site.heard
    most = 0
    for _ in range(30):
        scene.world.run(0.1)
        [linked] = [
            item.linked
            for host in scene.hosts.values()
            for item in host.node._linking._sets.values()
            if item.linked.delivered > 1000
        ]
        most = max(most, linked.waiting)
    assert 0.8 * SPEED < (scene.site.heard - before) / 3 < 1.3 * SPEED
    assert most < NEAR * SPEED / 498 * 4


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("moment", [0.05, 0.5, 2.0])
def test_when_a_way_ends_the_download_ends_with_a_code_or_goes_on(number: int, moment: float) -> None:
    scene = Scene()
    user = scene.connect(DOWNLOAD)
    assert scene.world.run(20, lambda: user.heard > 0)
    scene.world.run(moment)
    scene.world.kill(scene.guard(number))
    scene.world.run(60, lambda: user.code is not None)
    if user.code is None:
        assert rate(scene, user) > 0
    else:
        assert user.code == EndReason.DESTROY
    again = scene.connect(DOWNLOAD, "somebody else")
    assert scene.world.run(120, lambda: again.heard > 0)


def test_users_share_no_set() -> None:
    scene = Scene(sets=2)
    for key in ("ann", "ben"):
        scene.connect(DOWNLOAD, key)
    scene.world.run(2)
    assert sum(item.machine.state is Stage.USED for item in scene.sets) == 2
    assert len({id(item.linked) for item in scene.sets}) == len(scene.sets)
