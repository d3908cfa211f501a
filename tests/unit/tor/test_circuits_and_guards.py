"""Circuits of the Tor network, over relays in memory: what guards hear of them, and what follows from it."""

import pytest

from convergence.codes import PathWhy
from convergence.path.exits import ExitConnections
from convergence.path.guardrecord import Reachable
from convergence.path.guards import Guards
from convergence.path.place import Stage
from convergence.path.torpath import TorPaths
from convergence.tor.circuits import TorCircuits
from convergence.wire.relay import IPV6_OKAY, Begin
from tests.unit.circuit.rig import CRYPTO, START, Net
from tests.unit.path.tornetwork import EXIT, GUARD, MIDDLE, Made, TorNetwork


class Scene:
    """A client of a network of guards, middle relays and exits; `unreachable` ones cannot be dialled."""

    def __init__(self, guards=8, middles=4, exits=4, size=0, policy6=""):
        self.net = Net("tor paths")
        self.client = self.net.add("client", relays=False)
        kinds = [(GUARD, "")] * guards + [(MIDDLE, "")] * middles + [(EXIT, "accept 443")] * exits
        machines = self.net.relays(len(kinds))
        self.made = [
            Made(number, flags, 1000, policy, policy6=policy6, machine=machine)
            for number, ((flags, policy), machine) in enumerate(zip(kinds, machines, strict=True), 1)
        ]
        self.guards = Guards(self.client.outbox, self.client.rng, "tor")
        paths = TorPaths(self.client.rng, self.guards)
        paths.update(TorNetwork(self.made, valid_after=int(START)).view(), START)
        self.unreachable = set()
        self.dialled = []
        self.held = None  # if it is a list, links are made only when what is in it is called
        self.pool = TorCircuits(self.client.outbox, CRYPTO, self.client.rng, self, paths, size=size)
        self.got, self.trouble = [], []

    def reach(self, identity, reply, now):
        """Stands for Neighbours."""
        self.dialled.append(identity)
        if identity in self.unreachable:
            reply(None, now)
        elif self.held is not None:
            self.held.append(lambda: self.client.reach(identity, reply, self.net.now))
        else:
            self.client.reach(identity, reply, now)

    def exit(self):
        self.pool.exit_circuit(
            "host.example",
            443,
            lambda circuit, now: self.got.append(circuit),
            lambda why, now: self.trouble.append(why),
            self.net.now,
        )
        self.net.pump()

    @property
    def primary(self):
        """Ed25519 identities."""
        keys = {made.identity: made.ed25519 for made in self.made}
        return [keys[guard.identity] for guard in self.guards.primary]


@pytest.fixture
def scene():
    return Scene()


def test_circuits_are_built_and_begin_with_the_first_guard(scene):
    for _ in range(5):
        scene.exit()
        scene.net.tick(1)
    assert len(scene.got) == 5 and not scene.trouble
    assert set(scene.dialled) == {scene.primary[0]}
    assert all(circuit.built and len(circuit.path) == 3 for circuit in scene.got)
    for circuit in list(scene.got):
        circuit.destroy(0, scene.net.now)
    assert not scene.guards._uses, "nothing is kept of them"


def test_the_next_guard_serves_the_same_request(scene):
    scene.unreachable = set(scene.primary[:2])
    scene.exit()
    assert len(scene.got) == 1 and len(scene.dialled) == 3
    scene.net.tick(1)
    scene.exit()
    assert len(scene.dialled) == 4, "what failed is not tried again at once"


def test_a_relay_that_refuses_behind_the_guard_is_avoided_and_the_guard_is_not_blamed(scene):
    for made in scene.made:
        if made.flags == MIDDLE:
            made.machine.refuse_reach = True  # it extends to nobody
    for _ in range(3):
        scene.exit()
        scene.net.tick(1)
    assert set(scene.dialled) == {scene.primary[0]}
    assert len(scene.got) + len(scene.trouble) == 3


def test_a_guard_that_hangs_is_left_for_the_next_one(scene):
    first = scene.net.by_identity[scene.primary[0]]
    first._create = lambda *args: None
    scene.exit()
    assert not scene.got
    scene.net.tick(10)
    assert len(scene.got) == 1 and scene.got[0].path[0].identity != first.keys.identity


def test_when_the_line_comes_back_the_first_guard_serves_before_any_other():
    scene = Scene(guards=30, size=2)
    scene.pool.start(scene.net.now)
    scene.pool.fill(scene.net.now)
    scene.net.pump()
    first = scene.primary[0]
    assert scene.pool.ready == 2 and set(scene.dialled) == {first}
    for circuit in [place.circuit for place in scene.pool._ready]:
        scene.net.break_link(scene.client, scene.net.link_between(scene.client, scene.net.by_identity[first]))
        assert circuit.unlinked
    scene.unreachable = {made.ed25519 for made in scene.made}
    for _ in range(240):  # hours, in which somebody asks again and again
        scene.exit()
        scene.net.tick(60)
    assert scene.pool.ready == 0 and not scene.got
    assert len(set(scene.dialled)) <= 20, "no more than were sampled"
    scene.unreachable = set()
    for _ in range(5):
        scene.net.tick(60)
    assert scene.pool.ready == 2
    entries = [place.path[0].identity for place in scene.pool._ready]
    assert entries == [first] * 2
    assert not any(place.machine.state is Stage.HELD for place in scene.pool._places.values())


def test_a_circuit_that_waits_for_better_guards_is_replaced_by_one_through_them(scene):
    """Its request would else wait as long as the circuit."""
    for other in list(scene.primary):  # each is confirmed, so that no other becomes primary
        scene.unreachable = {*scene.primary} - {other}
        scene.exit()
        scene.net.tick(1)
    primary, confirmed = list(scene.primary), len(scene.got)
    scene.unreachable = set(primary)
    scene.held = []
    scene.exit()
    assert len(scene.got) == confirmed and scene.held, "one that is not primary is being reached"
    for guard in scene.guards.primary:
        guard.reachable = Reachable.MAYBE  # as after a while
    scene.unreachable, held, scene.held = set(), scene.held, None
    for reach in held:
        reach()
    scene.net.pump()
    scene.net.tick(0)
    assert len(scene.got) == confirmed + 1 and scene.got[-1].path[0].identity == primary[0]


@pytest.mark.parametrize(("policy6", "flags"), [("", 0), ("accept 443", IPV6_OKAY), ("accept 80", 0)])
def test_an_exit_is_told_that_ipv6_is_welcome_where_it_connects_to_it(policy6, flags):
    scene = Scene(policy6=policy6)
    connections, said = ExitConnections(scene.pool, scene.client.outbox), []
    for exit in scene.made[-4:]:
        exit.machine.services.begin = lambda circuit, stream_id, begin, now: said.append(begin)
    connections.connect("host.example", 443, "key", scene.net.now)
    scene.net.pump()
    assert said == [Begin("host.example", 443, flags)]


def test_no_path_is_told_in_words():
    scene = Scene(exits=0)
    scene.exit()
    assert [why.code for why in scene.trouble] == [PathWhy.NO_EXIT]
