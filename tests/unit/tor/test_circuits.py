"""Circuits of a client of Tor: exits that serve, some ahead, guards that hear how it went."""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from convergence.codes import PathWhy
from convergence.errors import Problem
from convergence.path.building import REPLACED_AFTER
from convergence.path.guards import Stage
from convergence.path.place import ATTEMPTS, HELD_TIMEOUT, HOP_TIMEOUT
from convergence.path.predicted import KEPT
from convergence.tor.circuits import SIZE, TorCircuits
from convergence.wire.linkspec import or_address, tor_specifiers
from convergence.wire.target import RelayTarget
from tests.unit.circuit.rig import CRYPTO, Net


class Use:
    """Of a guard; `waits`: better ones may still answer."""

    def __init__(self, waits):
        self.stage = Stage.BUILDING
        self.told = []
        self.on_usable = self.on_over = None
        self._waits = waits

    def worked(self, now):
        self.told.append("worked")
        self.stage = Stage.WAITING if self._waits else Stage.COMPLETE
        if not self._waits:
            self.on_usable(now)

    def failed(self, now):
        self.told.append("failed")
        self.stage = Stage.GONE

    def over(self, now):
        if self.stage is not Stage.GONE:
            self.told.append("over")
            self.stage = Stage.GONE


@dataclass
class Relay:
    target: RelayTarget
    ports: tuple = (80, 443)

    def allows(self, address, port):
        return port in self.ports


@dataclass
class Path:
    relays: tuple
    use: Use

    @property
    def targets(self):
        return tuple(relay.target for relay in self.relays)


@dataclass
class Scene:
    """Six relays. A path takes the first two, and the first other one that serves and is not to be avoided."""

    waits: bool = False
    paths: list = field(default_factory=list)
    got: list = field(default_factory=list)
    trouble: list = field(default_factory=list)

    def __post_init__(self):
        self.net = Net("tor")
        self.client = self.net.add("client", relays=False)
        self.machines = self.net.relays(6)
        self.relays = [Relay(machine.target) for machine in self.machines]
        self.circuits = TorCircuits(self.client.outbox, CRYPTO, self.client.rng, self.client, self)
        self.unreachable = False

    def exit_path(self, wanted, now, *, avoid=()):
        [item] = wanted
        suit = [relay for relay in self.relays[1:] if relay.target.identity not in avoid]
        exits = [relay for relay in suit[1:] if relay.allows(item.address, item.port)]
        if not exits:
            raise Problem(PathWhy.NO_EXIT)
        self.paths.append(Path((self.relays[0], suit[0], exits[0]), Use(self.waits)))
        return self.paths[-1]

    def point_path(self, point, now, *, avoid=()):
        suit = sorted(self.relays[1:5], key=lambda relay: relay.target.identity in avoid)
        self.paths.append(Path((self.relays[0], *suit[:2]), Use(self.waits)))
        return self.paths[-1]

    def hop_ended(self, path, hop, stood, now): ...

    def start(self):
        self.circuits.start(self.net.now)
        self.circuits.fill(self.net.now)
        self.net.pump()

    def ask(self, port=443, host="host.example", times=1):
        for _ in range(times):
            self.circuits.exit_circuit(
                host,
                port,
                lambda circuit, now: self.got.append(circuit),
                lambda why, now: self.trouble.append(why),
                self.net.now,
            )
        self.net.pump()

    def ask_point(self):
        """For a circuit to the last machine, which is a node of ours."""
        own = self.machines[5].target
        specifiers = tor_specifiers(IPv4Address("192.0.2.7"), 9443, bytes(20), own.identity)
        self.circuits.rdv_circuit(
            replace(own, tor_specifiers=specifiers),
            bytes(32),
            True,
            lambda circuit, now: self.got.append(circuit),
            lambda why, now: self.trouble.append(why),
            self.net.now,
        )
        self.net.pump()

    def deaf(self, number):
        """A relay that answers no handshake from now on."""
        self.machines[number]._create = lambda *arguments: None

    @property
    def uses(self):
        return [path.use.told for path in self.paths]


@pytest.fixture
def scene():
    return Scene()


def test_two_circuits_are_ready_for_the_web(scene):
    scene.start()
    assert scene.circuits.ready == 2 <= SIZE and scene.uses == [["worked"]] * 2


def test_a_ready_one_is_taken_and_replaced(scene):
    scene.start()
    scene.ask()
    assert len(scene.got) == 1 and scene.got[0].built and scene.circuits.ready == 1
    scene.net.tick(REPLACED_AFTER)
    assert scene.circuits.ready == 2
    assert [item["purpose"] for item in scene.circuits.snapshot()].count("exit") == 1
    assert scene.circuits.serves(scene.got[0], "host.example", 443)
    assert not scene.circuits.serves(scene.got[0], "host.example", 25)


def test_one_that_is_on_its_way_is_taken_and_replaced(scene):
    scene.circuits.start(scene.net.now)
    scene.circuits.fill(scene.net.now)
    first = scene.paths[0]
    scene.ask()
    assert [hop.identity for hop in scene.got[0].path] == [hop.identity for hop in first.targets]
    scene.net.tick(REPLACED_AFTER)
    assert scene.circuits.ready == 2 and len(scene.paths) == 3 and scene.uses == [["worked"]] * 3
    assert sorted(item["purpose"] for item in scene.circuits.snapshot()) == ["exit", "ready", "ready"]


def test_nobody_shares_one_that_is_on_its_way(scene):
    scene.circuits.start(scene.net.now)
    scene.circuits.fill(scene.net.now)
    scene.ask(times=3)
    assert len(set(map(id, scene.got))) == 3 and scene.circuits.ready == 0
    scene.net.tick(REPLACED_AFTER)
    assert scene.circuits.ready == 2 and len(scene.paths) == 5


def test_one_that_is_taken_on_its_way_and_comes_to_nothing_is_replaced_over_another_path(scene):
    scene.deaf(2)  # the exit of the first paths
    scene.circuits.start(scene.net.now)
    scene.circuits.fill(scene.net.now)
    scene.ask()
    assert not scene.got
    scene.net.tick(REPLACED_AFTER)
    scene.net.tick(HOP_TIMEOUT + 0.1)
    assert scene.got[0].built and scene.got[0].path[-1].identity != scene.machines[2].target.identity
    assert scene.circuits.ready == 2 and not scene.trouble


def test_what_no_ready_one_serves_gets_a_circuit_to_another_exit(scene):
    scene.relays[5].ports = (22,)
    scene.start()
    scene.ask(22)
    assert scene.got[0].path[-1].identity == scene.relays[5].target.identity
    assert not scene.circuits.serves(scene.got[0], "host.example", 443)
    assert {"exit", "ready"} == {item["purpose"] for item in scene.circuits.snapshot()}


def test_an_exit_that_refused_is_not_taken_again(scene):
    scene.start()
    ready = scene.circuits._ready[0].path[-1].identity
    scene.circuits.exit_circuit(
        "host.example", 443, lambda circuit, now: scene.got.append(circuit), None, scene.net.now, avoid=(ready,)
    )
    scene.net.pump()
    assert scene.got[0].path[-1].identity != ready


def test_that_no_exit_serves_is_told(scene):
    scene.ask(25)
    assert [why.code for why in scene.trouble] == [PathWhy.NO_EXIT] and not scene.got


def test_an_hour_after_the_last_request_nothing_is_made_ready(scene):
    scene.start()
    scene.net.now += KEPT + 1
    for place in list(scene.circuits._ready):
        place.circuit.destroy(0, scene.net.now)
    scene.circuits.fill(scene.net.now)
    scene.net.pump()
    assert scene.circuits.ready == 0


def test_a_guard_hears_that_its_circuit_is_gone(scene):
    scene.ask()
    assert scene.uses == [["worked"]]
    scene.got[0].destroy(0, scene.net.now)
    assert scene.uses == [["worked", "over"]]


def test_a_guard_that_does_not_answer_is_to_blame(scene):
    scene.deaf(0)
    scene.ask()
    for _ in range(ATTEMPTS):
        scene.net.tick(HOP_TIMEOUT + 0.1)
    assert scene.uses == [["failed"]] * ATTEMPTS
    assert [why.code for why in scene.trouble] == [PathWhy.ENTRY_SILENT]


def test_a_guard_is_not_to_blame_for_a_later_hop(scene):
    """Whoever could have it blamed would lead us to guards of his own."""
    scene.deaf(1)
    scene.ask()
    scene.net.tick(HOP_TIMEOUT + 0.1)
    assert scene.uses == [["over"], ["worked"]] and scene.got[0].built
    assert scene.relays[1].target.identity not in [hop.identity for hop in scene.got[0].path]


def test_a_circuit_waits_for_better_guards():
    scene = Scene(waits=True)
    scene.ask()
    assert not scene.got and scene.uses == [["worked"]]
    scene.paths[0].use.on_usable(scene.net.now)
    assert len(scene.got) == 1 and scene.got[0].built


@pytest.mark.parametrize("end", ["time", "guard"])
def test_a_circuit_that_may_not_be_used_in_time_is_replaced(end):
    scene = Scene(waits=True)
    scene.ask()
    scene.waits = False
    if end == "time":
        scene.net.tick(HELD_TIMEOUT + 0.1)
    else:
        scene.paths[0].use.stage = Stage.GONE
        scene.paths[0].use.on_over(scene.net.now)
        scene.net.pump()
    assert len(scene.got) == 1 and scene.got[0].built and len(scene.paths) == 2
    assert scene.paths[0].use.stage is Stage.GONE


def test_a_circuit_to_a_rendezvous_point_ends_at_a_node_that_is_named_as_relays_of_tor_are(scene):
    scene.ask_point()
    *relays, point = scene.got[0].path
    assert [hop.identity for hop in relays] == [relay.target.identity for relay in scene.relays[:3]]
    assert point.identity == scene.machines[5].target.identity and scene.got[0].built
    assert or_address(point.specifiers) == ("192.0.2.7", 9443)
    assert scene.uses == [["worked"]]
    assert [item["purpose"] for item in scene.circuits.snapshot()] == ["rendezvous"]


def test_a_rendezvous_point_that_does_not_answer_is_tried_over_other_relays(scene):
    scene.deaf(5)
    scene.ask_point()
    for _ in range(ATTEMPTS):
        scene.net.tick(HOP_TIMEOUT + 0.1)
    assert scene.uses == [["over"]] * ATTEMPTS
    assert [why.code for why in scene.trouble] == [PathWhy.RELAY_SILENT]
    assert len({path.relays[2].target.identity for path in scene.paths}) > 1


def test_a_circuit_to_a_directory_has_one_hop(scene):
    use = Use(False)
    scene.circuits.directory_circuit(
        scene.relays[3].target, use, lambda circuit, now: scene.got.append(circuit), None, scene.net.now
    )
    scene.net.pump()
    assert [hop.identity for hop in scene.got[0].path] == [scene.relays[3].target.identity]
    assert use.told == ["worked"]


def test_a_directory_that_does_not_answer_is_tried_once(scene):
    scene.deaf(3)
    use = Use(False)
    scene.circuits.directory_circuit(
        scene.relays[3].target, use, scene.got.append, lambda why, now: scene.trouble.append(why), scene.net.now
    )
    scene.net.pump()
    scene.net.tick(HOP_TIMEOUT + 0.1)
    assert len(scene.trouble) == 1 and use.told == ["failed"]


def test_nothing_is_left_after_the_end(scene):
    scene.start()
    scene.ask()
    scene.circuits.stop(scene.net.now)
    scene.net.pump()
    assert all(path.use.stage is Stage.GONE for path in scene.paths) and not scene.circuits.snapshot()
