"""Connections to the web in a whole network: through exits, apart by key; they outlive what can be outlived."""

from __future__ import annotations

import pytest

from convergence.effects import CloseLink, Protocol, Send
from convergence.errors import EndReason
from convergence.facilitator.client import REFRESH
from convergence.outbox import Outbox
from convergence.path.exits import ANSWER_LIMIT, EXITS_TRIED, LINGER
from convergence.wire.address import TcpAddress
from convergence.wire.target import Role
from tests.sim.people import RELAY, Talker, assert_drained, relays_of
from tests.sim.world import Host, World

WEB = TcpAddress("site.example", 80)


class Site:
    """A server on the web: sends back what it gets, and keeps what each of its connections said."""

    def __init__(self) -> None:
        self.said: dict[int, bytearray] = {}
        self.outbox = Outbox()

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: bytes | None = None) -> None:
        assert protocol is Protocol.TCP
        self.said[channel] = bytearray()

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        self.said[channel] += data
        self.outbox.emit(Send(channel, [data]))
        if data.endswith(b"bye"):
            self.outbox.emit(CloseLink(channel, "done"))

    def link_closed(self, channel: int, now: float, reason: str) -> None: ...

    def link_congested(self, channel: int, congested: bool, now: float) -> None: ...

    def woke(self, by: float, now: float) -> None: ...

    def timer(self, now: float) -> None: ...

    def deadline(self) -> float | None:
        return None

    def poll(self, now: float) -> list:
        return self.outbox.poll(now)


class Scene:
    def __init__(self, exits: int = 4) -> None:
        self.world = World("exits")
        self.world.facilitator()
        for number in range(6):
            self.world.add(f"r{number}", RELAY, circuits=0)
        for number in range(exits):
            self.world.add(f"exit{number}", Role.EXIT, circuits=0)
        self.world.run(REFRESH)
        self.alice = self.world.add("alice")
        self.site = Site()
        self.place = self.world.place("site", self.site)
        self.world._addresses[WEB.target] = self.place
        assert self.world.run(60, lambda: self.alice.node.pool.ready == 5)

    def connect(self, key: str = "") -> Talker:
        talkers: list[Talker] = []

        def start(now: float) -> None:
            pipe = self.alice.node.connect(WEB, now, isolation=key)
            talkers.append(Talker(self.alice, pipe))
            pipe.handler = talkers[0]

        self.alice.driver.run(start)
        return talkers[0]

    def echoes(self, talker: Talker, data: bytes) -> bool:
        before = len(talker.heard)
        talker.say(data)
        return self.world.run(30, lambda: talker.heard[before:] == data)

    @property
    def exits(self) -> set[Host]:
        """Those that have a stream open."""
        hosts = [host for host in self.world.hosts.values() if host.alive and host.name.startswith("exit")]
        return {host for host in hosts if host.node._exit._streams}

    def exit_circuits(self) -> int:
        return sum(item["purpose"] == "exit" for item in self.alice.node.pool.snapshot())

    def used(self) -> list[bytes]:
        """Exits at the end of circuits that stand."""
        items = self.alice.node.pool.snapshot()
        standing = [item["hops"] for item in items if item["purpose"] == "exit" and item["state"] == "in use"]
        return [bytes.fromhex(hops[-1]["identity"]) for hops in standing]

    def settle(self) -> None:
        """Alice leaves, and nothing is left of her anywhere."""
        self.alice.driver.run(self.alice.node.stop)
        self.world.run(10)
        self.world.kill(self.place)
        self.world.run(2 * LINGER)
        assert_drained(self.world)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_users_apart_reach_the_web_and_nothing_is_left(scene: Scene) -> None:
    talkers = [scene.connect(key) for key in ("a", "a", "b", "b", "b")]
    for number, talker in enumerate(talkers):
        assert scene.echoes(talker, b"hello %d" % number)
    assert scene.exit_circuits() == 2 and len(scene.site.said) == 5
    assert not any("alice" in host.seen for host in scene.exits), "three hops: no exit sees who asks"
    assert "alice" not in scene.place.seen
    for talker in talkers:
        talker.say(b"good bye")
    assert scene.world.run(10, lambda: all(talker.heard_end for talker in talkers))
    assert all(talker.heard.endswith(b"good bye") for talker in talkers)
    assert scene.world.run(2 * LINGER, lambda: not scene.exit_circuits())
    scene.settle()


def test_bytes_are_whole_and_in_order_both_ways(scene: Scene) -> None:
    talker, data = scene.connect(), bytes(range(256)) * 4000
    assert scene.echoes(talker, data)
    assert bytes(next(iter(scene.site.said.values()))) == data
    scene.settle()


def test_an_exit_that_dies_ends_what_was_open_and_new_connections_find_another(scene: Scene) -> None:
    for _ in range(3):
        talker = scene.connect()
        assert scene.echoes(talker, b"hello")
        (victim,) = scene.exits
        scene.world.kill(victim)
        assert scene.world.run(30, lambda talker=talker: talker.code == EndReason.DESTROY)
    talker = scene.connect()
    assert scene.echoes(talker, b"still here")
    scene.settle()


def test_exits_that_die_while_a_connection_opens_cost_it_nothing_but_time(scene: Scene) -> None:
    asked = scene.connect()
    doomed = []

    def begun() -> bool:
        doomed[:] = scene.exits
        return bool(doomed)

    assert scene.world.run(10, begun) and not asked.open
    scene.world.kill(doomed[0])
    assert scene.echoes(asked, b"hello") and asked.code is None
    scene.settle()


def test_an_exit_that_hangs_costs_time_only(scene: Scene) -> None:
    asked = scene.connect()
    assert scene.world.run(10, lambda: bool(scene.used()))  # BEGIN is under way to it
    (hanging,) = scene.used()
    relays_of(scene.world)[hanging].hung = True
    assert scene.world.run(2 * ANSWER_LIMIT, lambda: asked.open)
    assert scene.echoes(asked, b"hello")
    assert scene.used() != [hanging]


def test_a_site_that_is_down_and_a_network_without_exits_are_told(scene: Scene) -> None:
    scene.world.kill(scene.place)
    talker = scene.connect()
    assert scene.world.run(30, lambda: talker.code is not None) and not talker.open
    scene.settle()
    lonely = Scene(exits=0)
    talker = lonely.connect()
    assert lonely.world.run(30, lambda: talker.code == EndReason.DESTROY)
    assert talker.pipe.why is not None and talker.pipe.why.code == "no-exit"


def test_refusals_of_all_exits_are_told_after_three(scene: Scene) -> None:
    for name, host in scene.world.hosts.items():
        if name.startswith("exit"):
            host.node._exit._most = 0  # as if its places were all taken
    talker = scene.connect()
    assert scene.world.run(30, lambda: talker.code is not None)
    assert talker.code == EndReason.RESOURCELIMIT and scene.exit_circuits() == EXITS_TRIED
    scene.settle()


def test_a_node_that_stops_ends_its_connections(scene: Scene) -> None:
    talker = scene.connect("a")
    assert scene.echoes(talker, b"hello")
    opening = scene.connect("b")
    scene.settle()
    assert talker.code == opening.code == EndReason.DESTROY
