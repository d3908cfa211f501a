"""What a node knew of the network is there when it starts again, for as long as it may be of use."""

import pytest

from convergence.effects import Failure, Load, Store
from convergence.netdir import memory as module
from convergence.netdir.memory import BUCKET, PAUSE, NodeMemory
from convergence.netdir.nodes import FEW_NODES, HINT_LIFETIME, NodeDirectory
from convergence.outbox import Outbox
from convergence.wire.facilitator import Descriptors
from convergence.wire.target import Role
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.test_nodes import NOW, CountingCrypto, node, node_list


class Scene:
    def __init__(self, value=None):
        self.crypto = CountingCrypto()
        self.directory = NodeDirectory(self.crypto)
        self.outbox = Outbox()
        self.memory = NodeMemory(self.outbox, SeededRng("memory"), self.directory, "ws://facilitator/")
        self.stored = []
        self.value = value

    def start(self, now):
        began = []
        self.memory.restore(now, began.append)
        [asked] = self.outbox.poll(now)
        assert isinstance(asked, Load) and (asked.bucket, asked.key) == (BUCKET, b"ws://facilitator/")
        self.outbox.done(asked.request, self.value, now)
        assert began == [now]
        return self

    def pass_time(self, now):
        self.outbox.run_timers(now)
        for effect in self.outbox.poll(now):
            assert isinstance(effect, Store)
            [(bucket, _, value)] = effect.items
            self.stored.append(value)


def known(count=FEW_NODES, **options):
    """What a node stored that knew so many others."""
    scene = Scene()
    scene.directory.update(node_list(scene.crypto, [node(scene.crypto, n + 1, **options) for n in range(count)]), NOW)
    scene.memory.changed(NOW)
    scene.pass_time(NOW)
    [value] = scene.stored
    return value


def test_nodes_that_are_still_valid_are_known_at_once():
    scene = Scene(known()).start(NOW + 50)
    assert len(scene.directory.nodes(Role.RELAY, NOW + 50)) == FEW_NODES


def test_servers_whose_time_is_over_are_tried_for_a_week():
    scene = Scene(known(1)).start(NOW + HINT_LIFETIME)
    [hint] = scene.directory.nodes(Role.RELAY, NOW + HINT_LIFETIME)
    assert scene.directory.get(hint.identity, NOW + HINT_LIFETIME) == hint
    late = NOW + HINT_LIFETIME + 100
    assert scene.directory.nodes(Role.RELAY, late) == [] and scene.directory.get(hint.identity, late) is None
    assert scene.directory.newer(0, NOW + HINT_LIFETIME) == [], "they are passed on to nobody"


def test_hints_give_way_to_nodes_that_are_there():
    scene = Scene(known()).start(NOW + 200)
    there = [node(scene.crypto, 10 + n, published=int(NOW) + 200, expires=int(NOW) + 300) for n in range(FEW_NODES)]
    for item in there:
        scene.directory.hear(item.encode(), NOW + 200)
    assert set(scene.directory.nodes(Role.RELAY, NOW + 200)) == set(there)


def test_a_list_knows_better():
    scene = Scene(known()).start(NOW + 200)
    fresh = node(scene.crypto, 50, published=int(NOW) + 200, expires=int(NOW) + 900)
    scene.directory.update(node_list(scene.crypto, [fresh], published=int(NOW) + 200), NOW + 200)
    assert scene.directory.nodes(Role.RELAY, NOW + 200) == [fresh]
    late = Scene(known())
    late.directory.update(node_list(late.crypto, [fresh], published=int(NOW) + 200), NOW + 200)
    assert late.start(NOW + 201).directory.nodes(Role.RELAY, NOW + 201) == [fresh]


def test_what_was_changed_on_the_disk_is_not_believed():
    forged = node(CountingCrypto(), 1).encode()[:-1] + b"x"
    scene = Scene(Descriptors((forged,)).encode()).start(NOW)
    assert scene.directory.nodes(Role.RELAY, NOW) == []


@pytest.mark.parametrize("value", [None, b"\xff", Failure("io", "broken")])
def test_without_a_memory_a_node_starts_all_the_same(value):
    assert Scene(value).start(NOW).directory.nodes(Role.RELAY, NOW) == []


def test_writes_are_not_too_frequent_and_the_last_change_is_among_them():
    scene = Scene()
    for number in range(1, 4):
        scene.directory.hear(node(scene.crypto, number).encode(), NOW)
        scene.memory.changed(NOW)
        scene.pass_time(NOW)
    assert [len(Descriptors.parse(value).items) for value in scene.stored] == [1]
    scene.pass_time(NOW + PAUSE)
    assert [len(Descriptors.parse(value).items) for value in scene.stored] == [1, 3]
    assert scene.outbox.deadline() is None


def test_of_too_many_nodes_any_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_RECALLED", 5)
    everybody = Descriptors.parse(known(20)).items
    assert len(everybody) == 5
    crypto = CountingCrypto()
    assert set(everybody) != {node(crypto, n + 1).encode() for n in range(5)}
