"""Circuits of the Tor network, over relays in memory: what guards hear of them, and what follows from it."""

import pytest

from convergence.codes import PathWhy
from convergence.effects import Load, Store
from convergence.path.buildtimes import BuildTimes
from convergence.path.exits import ExitConnections
from convergence.path.guardrecord import Reachable
from convergence.path.guards import Guards
from convergence.path.place import ATTEMPTS, HOP_TIMEOUT, Stage
from convergence.path.torpath import TorPaths
from convergence.tor.circuits import BUCKET, STORE_EVERY, TorCircuits
from convergence.tor.sets import Sets
from convergence.wire.relay import IPV6_OKAY, Begin
from tests.unit.circuit.rig import CRYPTO, START, Net
from tests.unit.netdir.authorities import PROTOCOLS
from tests.unit.path.tornetwork import EXIT, GUARD, MIDDLE, Made, TorNetwork


class Paths(TorPaths):
    def hop_ended(self, path, hop, stood, now): ...


class Scene:
    """A client of a network of guards, middle relays and exits; `unreachable` ones cannot be dialled."""

    def __init__(self, guards=8, middles=4, exits=4, size=0, policy6="", protocols=PROTOCOLS, legs=False):
        self.net = Net("tor paths")
        self.client = self.net.add("client", relays=False)
        kinds = [(GUARD, "")] * guards + [(MIDDLE, "")] * middles + [(EXIT, "accept 443")] * exits
        machines = self.net.relays(len(kinds))
        self.made = [
            Made(number, flags, 1000, policy, policy6=policy6, machine=machine, protocols=protocols)
            for number, ((flags, policy), machine) in enumerate(zip(kinds, machines, strict=True), 1)
        ]
        self.guards = Guards(self.client.outbox, self.client.rng, "tor")
        paths = Paths(self.client.rng, self.guards)
        self.view = TorNetwork(self.made, valid_after=int(START)).view()
        paths.update(self.view, START)
        self.unreachable = set()
        self.dialled = []
        self.held = None  # if it is a list, links are made only when what is in it is called
        self.pool = TorCircuits(
            self.client.outbox, CRYPTO, self.client.rng, self, paths, paths, Sets if legs else None, size=size
        )
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

    def exit(self, port=443):
        self.pool.exit_circuit(
            "host.example",
            port,
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


@pytest.fixture
def hurried():
    """It has learned that circuits stand within half a second. One middle relay hangs, and others do not."""
    scene = Scene(middles=8)
    for _ in range(200):
        scene.pool.times.built(0.5)
    slow = next(made for made in scene.made if made.flags == MIDDLE)
    slow.machine._create = lambda *args: None
    return scene, slow


def started(scene, slow):
    """Ask until a path goes over the one that hangs."""
    while not any(slow.machine.target.identity == place.path[1].identity for place in scene.pool._places.values()):
        for circuit in scene.got:
            circuit.destroy(0, scene.net.now)
        scene.got.clear()
        scene.exit()
    assert not scene.got


def test_a_circuit_that_takes_longer_than_most_is_replaced_at_once(hurried):
    scene, slow = hurried
    started(scene, slow)
    scene.net.tick(0.51)
    assert len(scene.got) == 1 and slow.machine.target.identity not in [hop.identity for hop in scene.got[0].path]
    assert len(scene.pool._places) == 2, "it is built on, to learn how long that takes"
    scene.net.tick(HOP_TIMEOUT)
    assert len(scene.pool._places) == 1 and len(scene.got) == 1 and not scene.trouble
    assert scene.guards.primary[0].reachable is Reachable.YES


def test_a_circuit_that_stands_late_is_measured_and_not_used(hurried):
    scene, slow = hurried
    held = []
    slow.machine._create = lambda *arguments: held.append(arguments)
    started(scene, slow)
    scene.net.tick(2)
    [used] = scene.got
    type(slow.machine)._create(slow.machine, *held[0])
    scene.net.pump()
    assert scene.got == [used] and len(scene.pool._places) == 1
    assert scene.pool.times.encode().endswith((2000).to_bytes(2, "big"))


def test_the_last_path_of_a_request_may_be_slow(hurried):
    scene, _ = hurried
    for made in scene.made:
        if made.ed25519 != scene.primary[0]:
            made.machine._create = lambda *args: None
    scene.exit()
    for _ in range(ATTEMPTS - 1):
        scene.net.tick(0.51)
    assert len(scene.pool._places) == ATTEMPTS
    scene.net.tick(1)
    assert not scene.trouble
    scene.net.tick(HOP_TIMEOUT)
    assert len(scene.trouble) == 1 and not scene.pool._places


def test_what_was_learned_is_kept(scene):
    scene.pool.start(scene.net.now, "tor")
    for _ in range(STORE_EVERY):
        scene.exit()
    [stored] = [effect for effect in scene.client.effects if isinstance(effect, Store) and effect.items[0][0] == BUCKET]
    assert stored.items == [(BUCKET, b"tor", scene.pool.times.encode())]
    [load] = [effect for effect in scene.client.effects if isinstance(effect, Load) and effect.bucket == BUCKET]
    for value in (b"junk!", bytes([1, 2]) * 200):
        scene.pool.times = BuildTimes()
        scene.pool.start(scene.net.now, "tor")
        scene.net.pump()
        load = [effect for effect in scene.client.effects if isinstance(effect, Load) and effect.bucket == BUCKET][-1]
        scene.client.outbox.done(load.request, value, scene.net.now)
        assert (scene.pool.times.timeout(3) is None) == (value == b"junk!")


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
