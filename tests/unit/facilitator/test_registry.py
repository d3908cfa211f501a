"""A registry of many nodes: what each operation costs, and what is kept of a node."""

from functools import partial

import pytest

from convergence.effects import Consult, Scan, Store
from convergence.facilitator.registry import (
    GRACE,
    LIST_PAUSE,
    MAX_REGISTERED_EACH,
    SWEEP_INTERVAL,
    Refusal,
    Registry,
    RegistryLimits,
)
from convergence.outbox import Outbox
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.facilitator import NodeList
from convergence.wire.target import Role
from tests.unit.facilitator.world import CRYPTO, SEED, START
from tests.unit.work import work

RTC = (Transport.rtc(),)
LIFETIME = 3600


class Trusting:
    """Cryptography that checks nothing: nodes need no keys."""

    ed25519_public = staticmethod(CRYPTO.ed25519_public)

    def ed25519_sign(self, seed, message):
        return bytes(64)

    def ed25519_verify(self, public, signature, message):
        return True


def identity(number):
    return number.to_bytes(32, "big")


def describe(number, now, *, lifetime=LIFETIME, roles=Role.RELAY, transports=RTC):
    return Descriptor(identity(number), bytes(32), int(now), int(now) + lifetime, roles, transports, bytes(64))


class Rig:
    def __init__(self, **limits):
        self.now = START
        self.outbox = Outbox()
        self.lost = []
        self.registry = Registry(
            self.outbox,
            Trusting(),
            SEED,
            RegistryLimits(**limits),
            on_loaded=lambda node, at_once, now: None,
            on_dropped=lambda node, now: self.lost.append(int.from_bytes(node.identity, "big")),
        )
        self.registry.start(self.now)
        self.settle()

    def register(self, number, source="", channel=None, **more):
        """Raises Refusal. The channel stays open."""
        said = describe(number, self.now, **more)
        got = []
        self.registry.register(said, said.encode(), source, lambda node, now: got.append(node), self.now)
        self.registry.attach(got[0], 2 * number if channel is None else channel, self.now)
        self.settle()
        return got[0]

    def leave(self, number):
        self.registry.detach(self.registry.nodes[identity(number)], 2 * number, self.now)
        self.settle()

    def pass_time(self, seconds):
        until = self.now + seconds
        while (deadline := self.outbox.deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.outbox.run_timers(self.now)
            self.settle()
        self.now = until

    def settle(self):
        for effect in self.outbox.poll(self.now):
            if isinstance(effect, (Store, Scan, Consult)):
                self.outbox.done(effect.request, [] if isinstance(effect, Scan) else None, self.now)

    def listed(self):
        return [Descriptor.parse(raw) for raw in NodeList.parse(self.registry.signed_list(self.now)).descriptors]

    def there(self):
        return {int.from_bytes(key, "big") for key in self.registry.nodes}


def crowd(count, **limits):
    """A registry in which ten nodes come from each network."""
    rig = Rig(nodes=count, **limits)
    for number in range(count):
        rig.register(number, f"net {number // 10}")
    return rig


# What operations cost


@pytest.fixture(scope="module")
def sizes():
    return crowd(100), crowd(1000)


OPERATIONS = {
    "a newcomer for whom one gives way": lambda rig: rig.register(5000, "elsewhere"),
    "a node says something else": lambda rig: rig.register(7, "net 0", lifetime=LIFETIME + 1),
    "a node comes back on another channel": lambda rig: rig.register(8, "net 0", channel=999, lifetime=LIFETIME + 2),
    "a channel closes": lambda rig: rig.leave(9),
    "a node is gone for good": lambda rig: rig.pass_time(GRACE + 1),
    "looks for what has expired": lambda rig: rig.pass_time(10 * SWEEP_INTERVAL),
    "how many have channels": lambda rig: rig.registry.here,
}


def test_no_operation_costs_more_among_more_nodes(sizes):
    for small, large in [sizes]:
        for rig in (small, large):
            rig.now += 1  # for newer descriptors
            rig.lost.clear()
        for name, operation in OPERATIONS.items():
            few, many = (work(partial(operation, rig)) for rig in (small, large))
            assert many <= 1.1 * few + 20, f"{name}: {few} and {many}"
        assert small.lost and large.lost


def test_what_ends_costs_as_much_as_there_are_that_end():
    def ends(others):
        rig = Rig()
        for number in range(5):
            rig.register(number, lifetime=60)
        for number in range(5, 5 + others):
            rig.register(number)
        spent = work(lambda: rig.pass_time(60 + 2 * SWEEP_INTERVAL))
        assert sorted(rig.lost) == [0, 1, 2, 3, 4]
        return spent

    assert ends(500) <= 1.1 * ends(50)


# Who gives way


def test_whoever_has_most_loses_the_newest_node_each_time_and_nobody_else_loses_any():
    rig = Rig(nodes=30)
    for number in range(20):
        rig.register(number, "greedy")
    for number in range(20, 30):
        rig.register(number, f"net {number}")
    for number in range(30, 48):
        rig.register(number, f"net {number}")
    assert rig.lost == [*range(19, 1, -1)]
    rig.register(48, "greedy, too")
    assert rig.lost[-1] == 1 and len(rig.there()) == 30
    with pytest.raises(Refusal):
        rig.register(49, "net 49")  # who has more than it would have?


def test_a_source_has_its_limit_until_one_of_its_nodes_is_gone():
    rig = Rig(each=2)
    rig.register(1, "net")
    rig.register(2, "net")
    with pytest.raises(Refusal):
        rig.register(3, "net")
    rig.leave(1)
    rig.pass_time(GRACE)
    rig.register(3, "net")
    for number in range(10, 10 + MAX_REGISTERED_EACH):
        rig.register(number, "")  # sources that cannot be told apart


# When nodes end


def test_a_node_ends_with_its_newest_descriptor_be_it_sooner_or_later():
    rig = Rig()
    for number in (1, 2, 3):
        rig.register(number, lifetime=100)
    rig.now += 1
    rig.register(2, lifetime=300)
    rig.register(3, lifetime=20)
    rig.pass_time(20 + SWEEP_INTERVAL)
    assert rig.lost == [3]
    rig.pass_time(100)
    assert rig.lost == [3, 1]
    rig.pass_time(300)
    assert rig.lost == [3, 1, 2] and not rig.registry._expiry._slots


# Channels


def test_a_node_is_here_while_any_of_its_channels_is_open():
    rig = Rig()
    rig.register(1, channel=10)
    rig.register(1, channel=12)
    rig.register(2, channel=14)
    assert rig.registry.here == 2
    node = rig.registry.nodes[identity(1)]
    for channel, left in ((12, 2), (12, 2), (10, 1), (10, 1)):
        rig.registry.detach(node, channel, rig.now)
        assert rig.registry.here == left
    rig.registry.drop(rig.registry.nodes[identity(2)], "a test", rig.now)
    assert rig.registry.here == 0


# Lists


def test_a_long_list_is_signed_once_a_second_at_most(monkeypatch):
    monkeypatch.setattr("convergence.facilitator.registry.FEW_LISTED", 3)
    rig = Rig()
    for number in range(3):
        rig.register(number)
        assert len(rig.listed()) == number + 1
    rig.register(3)
    rig.pass_time(LIST_PAUSE)
    assert len(rig.listed()) == 4
    rig.register(4)
    rig.pass_time(LIST_PAUSE / 2)
    assert len(rig.listed()) == 4
    rig.pass_time(LIST_PAUSE)
    assert len(rig.listed()) == 5


def test_who_leaves_the_list_makes_room_for_who_came_next(monkeypatch):
    monkeypatch.setattr("convergence.facilitator.registry.MAX_LISTED", 2)
    rig = Rig()
    for number in (1, 2, 3):
        rig.register(number)
    assert [node.identity for node in rig.listed()] == [identity(1), identity(2)]
    rig.leave(1)
    rig.pass_time(GRACE)
    assert [node.identity for node in rig.listed()] == [identity(2), identity(3)]
    rig.register(2, roles=Role(0), lifetime=LIFETIME + 1)  # it pauses
    assert [node.identity for node in rig.listed()] == [identity(3)]


def test_a_summary_tells_how_many_there_are_and_names_some(monkeypatch):
    monkeypatch.setattr("convergence.facilitator.registry.MAX_TOLD", 2)
    rig = Rig()
    for number in (3, 2, 1):
        rig.register(number)
    rig.register(4, roles=Role(0))
    health = rig.registry.health(rig.now)
    assert (health["registered"], health["listed"]) == (4, 3)
    assert [node["identity"] for node in health["nodes"]] == [identity(number).hex()[:16] for number in (2, 3)]
