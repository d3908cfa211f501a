"""Circuits of the Tor network, over relays in memory: what guards hear of them, and what follows from it."""

import pytest

from convergence.codes import PathWhy
from convergence.path.guards import Guards
from convergence.path.place import Stage
from convergence.path.torpath import TorPaths
from convergence.tor.circuits import TorCircuits
from tests.unit.circuit.rig import CRYPTO, START, Net
from tests.unit.path.tornetwork import EXIT, GUARD, MIDDLE, Made, TorNetwork


class Paths(TorPaths):
    def hop_ended(self, path, hop, stood, now): ...


class Scene:
    """A client of a network of guards, middle relays and exits; `unreachable` ones cannot be dialled."""

    def __init__(self, guards=8, middles=4, exits=4, size=0):
        self.net = Net("tor paths")
        self.client = self.net.add("client", relays=False)
        kinds = [(GUARD, "")] * guards + [(MIDDLE, "")] * middles + [(EXIT, "accept 443")] * exits
        machines = self.net.relays(len(kinds))
        self.made = [
            Made(number, flags, 1000, policy, machine=machine)
            for number, ((flags, policy), machine) in enumerate(zip(kinds, machines, strict=True), 1)
        ]
        self.guards = Guards(self.client.outbox, self.client.rng, "tor")
        paths = Paths(self.client.rng, self.guards)
        paths.update(TorNetwork(self.made, valid_after=int(START)).view(), START)
        self.unreachable = set()
        self.dialled = []
        self.pool = TorCircuits(self.client.outbox, CRYPTO, self.client.rng, self, paths, size=size)
        self.got, self.trouble = [], []

    def reach(self, identity, reply, now):
        """Stands for Neighbours."""
        self.dialled.append(identity)
        if identity in self.unreachable:
            reply(None, now)
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


def test_no_path_is_told_in_words():
    scene = Scene(exits=0)
    scene.exit()
    assert [why.code for why in scene.trouble] == [PathWhy.NO_EXIT]
