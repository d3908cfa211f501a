"""Over long distances, in whole networks: what rate is reached, what waits where, who shares with whom, who is stopped.

Rates are of virtual time: a node's CPU costs nothing here. A round trip over the whole path takes 0.3 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convergence.circuit.congestion import CWND_MAX, XOFF_LIMIT
from convergence.circuit.flow import STREAM_WINDOW
from convergence.circuit.hop import NtorClient, begin_handshake
from convergence.errors import EndReason
from convergence.facilitator.client import REFRESH
from convergence.wire.address import TcpAddress, parse_address
from convergence.wire.cells import CELL_LEN
from convergence.wire.descriptor import Descriptor
from convergence.wire.relay import MAX_DATA
from convergence.wire.target import Protocols, Role
from pynode.transports import HIGH_WATER
from tests.sim.distance import DOWNLOAD, UPLOAD, Server, User, Waiting, Watch, rate
from tests.sim.people import RELAY, SETTLED, arrived, content, get, share_and_stand, standing, transfer
from tests.sim.world import Host, Line, World

WEB = TcpAddress("site.example", 80)
DEAF = TcpAddress("deaf.example", 80)
NAME = "hash:far away"
ROUND_TRIP = 0.3  # seconds
FAST, SLOW = 50e6, 5e6  # bytes/s
FIXED = STREAM_WINDOW * MAX_DATA / ROUND_TRIP  # bytes/s of a stream with fixed windows
START = 4.0  # seconds until a stream is at its rate


class Far:
    """A network, and a site on the web that is close to its exit.

    Args:
        hops: of the whole path; each has its part of the round trip.
    """

    def __init__(self, hops: int, *, relays: int, speed: float = FAST, round_trip: float = ROUND_TRIP) -> None:
        self.delay = round_trip / 2 / hops
        self.round_trip = round_trip
        self.world = World("far", line=Line(self.delay, speed))
        self.server, self.deaf = Server(), Server(reads=False)
        self.world.facilitator()
        for number in range(relays):
            self.world.add(f"r{number}", RELAY, circuits=0)
        self.exit = self.world.add("exit", Role.EXIT, circuits=0)
        for address, server in ((WEB, self.server), (DEAF, self.deaf)):
            place = self.world._addresses[address.target] = self.world.place(address.host, server)
            self.line(place, self.exit, Line(0.001, FAST))
        self.world.run(REFRESH)
        self.watch = Watch(self.world, [host for host in self.world.hosts.values() if host.keys is not None])

    def line(self, one: Host, two: Host, line: Line) -> None:
        self.world.lines[frozenset((one.name, two.name))] = line

    def person(self, name: str, speed: float | None = None) -> Host:
        """Somebody whose own lines may be of another speed."""
        if speed is not None:
            for host in self.world.hosts.values():
                self.world.lines[frozenset((name, host.name))] = Line(self.delay, speed)
        host = self.world.add(name, circuits=0)
        self.world.run(20)
        return host

    def connect(self, host: Host, asks: bytes, address: TcpAddress = WEB, *, key: object = None) -> User:
        """A connection to the web that moves bytes without end."""
        return self._user(
            host, lambda now: host.node.connect(address, now, isolation=key), asks=asks, writes=asks == UPLOAD
        )

    def serve(self, host: Host, **options: Any) -> list[User]:
        came: list[User] = []

        def accept(pipe: Any, now: float) -> User:
            came.append(User(host, pipe, **options))
            return came[-1]

        host.driver.run(lambda now: host.node.services.serve(parse_address(NAME), accept, now))

        def stands() -> bool:
            return all(
                item["points"] == item["points_wanted"] > 0 for item in host.node.services.snapshot()["services"]
            )

        assert self.world.run(60, stands)
        self.world.run(2)  # the last advert arrives
        return came

    def visit(self, host: Host, *, key: object = None, **options: Any) -> User:
        """A connection to the service."""
        return self._user(host, lambda now: host.node.connect(parse_address(NAME), now, isolation=key), **options)

    def rate(self, count: Callable[[], int], seconds: float = 3.0) -> float:
        return rate(self.world, count, seconds)

    def _user(self, host: Host, connect: Callable[[float], Any], **options: Any) -> User:
        users: list[User] = []

        def begin(now: float) -> None:
            pipe = connect(now)
            pipe.handler = User(host, pipe, **options)
            users.append(pipe.handler)

        host.driver.run(begin)
        return users[0]


# -- one stream


@pytest.mark.parametrize("asks", [DOWNLOAD, UPLOAD])
@pytest.mark.parametrize("speed", [FAST, SLOW])
def test_a_stream_through_an_exit_uses_the_line(asks: bytes, speed: float) -> None:
    far = Far(3, relays=3)
    user = far.connect(far.person("alice", speed), asks)
    far.world.run(START)
    reached = far.rate(lambda: user.heard if asks == DOWNLOAD else far.server.heard)
    assert reached > min(8 * FIXED, 0.9 * speed)
    assert far.watch.worst < 2 * speed * ROUND_TRIP, far.watch.most


@pytest.mark.parametrize("speed", [FAST, SLOW])
def test_a_service_over_two_hops_from_each_side_uses_the_line(speed: float) -> None:
    far = Far(4, relays=8)
    came = far.serve(far.person("provider"))
    visitor = far.visit(far.person("client", speed), writes=True)
    far.world.run(START)
    assert far.rate(lambda: came[0].heard) > min(8 * FIXED, 0.9 * speed)
    came[0].go(writes=True)
    visitor.go(writes=False)
    far.world.run(START)
    assert far.rate(lambda: visitor.heard) > min(8 * FIXED, 0.9 * speed)
    assert far.watch.worst < 2 * speed * ROUND_TRIP, far.watch.most


def test_a_file_uses_the_line() -> None:
    far = Far(4, relays=8)
    provider, client = far.person("provider"), far.person("client")
    data = content("far", 48 << 20)
    link = share_and_stand(far.world, provider, data)
    assert standing(provider)
    began = far.world.now
    transfer_id = get(client, link)
    assert far.world.run(60, lambda: transfer(client, transfer_id).state in SETTLED)
    assert arrived(client, transfer_id) == data
    assert len(data) / (far.world.now - began) > 8 * FIXED, "search, circuits and start included"
    assert far.watch.worst < 2 * FAST * ROUND_TRIP, far.watch.most


# -- several


@pytest.mark.parametrize("apart", [False, True])
def test_two_share_a_line(apart: bool) -> None:
    """Two streams of a circuit, and two circuits."""
    far = Far(3, relays=2)
    alice = far.person("alice")
    for host in far.world.hosts.values():
        if host.name.startswith("r"):
            far.line(host, far.exit, Line(far.delay, SLOW))
    users = [far.connect(alice, DOWNLOAD, key=number if apart else None) for number in range(2)]
    far.world.run(10)
    before = [user.heard for user in users]
    far.world.run(40)
    one, two = (user.heard - was for user, was in zip(users, before, strict=True))
    assert one + two > 0.9 * SLOW * 40
    assert 1 / 1.2 < one / two < 1.2


# -- readers that stop


def test_a_reader_that_stops_stops_its_writer_and_nobody_else() -> None:
    """At an origin: a stream beside another one of the same circuit."""
    far = Far(3, relays=2)
    alice = far.person("alice")
    stops, goes = (far.connect(alice, DOWNLOAD) for _ in range(2))
    far.world.run(START)
    before = far.rate(lambda: stops.heard + goes.heard, 2)
    stops.read(False)
    far.world.run(1)  # what was under way
    assert far.rate(lambda: stops.heard, 1) == 0
    assert stops.unread <= (CWND_MAX + XOFF_LIMIT) * MAX_DATA
    assert far.rate(lambda: goes.heard, 3) > 0.8 * before
    assert far.watch.worst < 2 * FAST * ROUND_TRIP, far.watch.most
    stops.read(True)
    far.world.run(2)
    assert far.rate(lambda: stops.heard, 3) > 0.3 * before


def test_a_server_that_stops_to_read_stops_the_origin_and_nobody_else() -> None:
    far = Far(3, relays=2)
    alice = far.person("alice")
    stops, goes = far.connect(alice, UPLOAD, DEAF), far.connect(alice, UPLOAD)
    far.world.run(2 * START)
    assert far.rate(lambda: far.deaf.heard, 1) == 0
    assert Waiting.at(far.exit).transport < HIGH_WATER + (CWND_MAX + XOFF_LIMIT) * MAX_DATA
    assert far.rate(lambda: far.server.heard, 3) > 8 * FIXED
    assert stops.code is goes.code is None


def test_a_visitor_that_stops_to_read_stops_his_stream_at_the_point_and_nobody_else() -> None:
    far = Far(4, relays=5)
    came = far.serve(far.person("provider"), writes=True)
    stops, goes = (far.visit(host) for host in (far.person("one"), far.person("other")))
    far.world.run(START)
    stops.read(False)
    far.world.run(2)
    assert far.rate(lambda: stops.heard, 1) == 0
    assert far.rate(lambda: goes.heard, 3) > 8 * FIXED
    waiting = [Waiting.at(host) for host in far.world.hosts.values() if host.keys is not None]
    assert sum(at.splices for at in waiting) < (CWND_MAX + XOFF_LIMIT) * CELL_LEN
    assert stops.unread < (CWND_MAX + XOFF_LIMIT) * MAX_DATA
    stops.read(True)
    far.world.run(2)
    assert far.rate(lambda: stops.heard, 3) > 8 * FIXED
    assert len(came) == 2 and not any(user.code for user in (*came, stops, goes))


# -- nodes of before congestion control


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of hosts that know neither ntor-v3 nor congestion control, as relays or as clients. Add them before the
    nodes."""
    names: set[str] = set()
    worlds: list[World] = []
    new_world = World.__init__

    def is_old(matches: Callable[[Host], bool]) -> bool:
        return any(matches(host) for name, host in worlds[-1].hosts.items() if name in names)

    def new(world: World, *arguments: Any, **named: Any) -> None:
        worlds.append(world)
        new_world(world, *arguments, **named)

    def descriptor(identity: bytes, *rest: Any, protocols: Protocols) -> Descriptor:
        before = is_old(lambda host: host.keys is not None and host.keys.identity == identity)
        return Descriptor(identity, *rest, protocols=Protocols(0) if before else protocols)

    def handshake(crypto: Any, rng: Any, target: Any) -> Any:
        begin = NtorClient if is_old(lambda host: host.node._rng is rng) else begin_handshake
        return begin(crypto, rng, target)

    monkeypatch.setattr(World, "__init__", new)
    monkeypatch.setattr("convergence.announcement.Descriptor", descriptor)
    monkeypatch.setattr("convergence.circuit.client.begin_handshake", handshake)
    return names


@pytest.mark.parametrize(
    ("names", "fast"),
    [(("r0", "r1"), True), (("exit",), False), (("alice",), False), (("r0", "r1", "exit", "alice"), False)],
)
def test_old_nodes_on_the_way_cost_nothing_and_old_ends_have_fixed_windows(
    old: set[str], names: tuple[str, ...], fast: bool
) -> None:
    old.update(names)
    far = Far(3, relays=2)
    alice = far.person("alice")
    users = [far.connect(alice, DOWNLOAD), far.connect(alice, UPLOAD)]
    far.world.run(START)
    for count in (lambda: users[0].heard, lambda: far.server.heard):
        reached = far.rate(count)
        assert reached > 8 * FIXED if fast else 0.85 * FIXED < reached < 1.01 * FIXED


@pytest.mark.parametrize("names", [("provider",), ("client",), ("r0", "r1", "r2", "r3", "r4"), ("provider", "client")])
def test_a_point_joins_old_and_new_ends(old: set[str], names: tuple[str, ...]) -> None:
    old.update(names)
    far = Far(4, relays=5)
    came = far.serve(far.person("provider"), writes=True)
    visitor = far.visit(far.person("client"), writes=True)
    far.world.run(START)
    for count in (lambda: visitor.heard, lambda: came[0].heard):
        # Each half of the way has a window of its own. A record of Noise that has not come whole gives no credit.
        assert 0.75 * 2 * FIXED < far.rate(count) < 1.01 * 2 * FIXED
    assert far.watch.worst < 2 * FAST * ROUND_TRIP, far.watch.most
    assert came[0].code is visitor.code is None


# -- who does not heed


def test_origins_that_do_not_heed_xoff_cost_an_exit_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergence.circuit.exit.MAX_WAITING", 8 << 20)
    monkeypatch.setattr("convergence.circuit.congestion.XonXoff.control", lambda self, command, payload: None)
    far = Far(3, relays=3, round_trip=0.05)
    alice, mallory = far.person("alice"), far.person("mallory")
    honest = [far.connect(alice, DOWNLOAD), far.connect(alice, UPLOAD)]
    deaf = [far.connect(mallory, UPLOAD, DEAF, key=number % 4) for number in range(8)]
    assert far.world.run(60, lambda: all(user.code == EndReason.RESOURCELIMIT for user in deaf))
    most = far.watch.most[far.exit.name].transport
    assert most < len(deaf) * HIGH_WATER + 2 * (8 << 20), "the rest is the shell's high-water marks"
    assert [user.code for user in honest] == [None, None]
    assert far.exit.node._exit._waiting.used == 0
