"""Networks in which nodes know each other late or in part."""

from collections import Counter

import pytest

from convergence.errors import DestroyReason
from convergence.netdir.knowledge import Knowledge
from convergence.netdir.view import Class
from convergence.path.pool import POOL_SIZE
from convergence.wire.sharelink import ShareLink
from tests.sim.people import (
    RELAY,
    assert_drained,
    content,
    get,
    network,
    settle,
    share_and_stand,
    standing,
)
from tests.views import points_of

DATA = content("views", 300_000)


class LateView:
    """Answers what its node asks after some time."""

    def __init__(self, outbox, view, delay):
        self.count = view.count
        for name in ("sample", "closest", "get"):
            setattr(self, name, self.late(outbox, getattr(view, name), delay))

    @staticmethod
    def late(outbox, question, delay):
        def ask(*arguments, **options):
            *asked, now, then = arguments
            outbox.call_at(now + delay, lambda now: question(*asked, now, then, **options))

        return ask


@pytest.fixture
def all_late(monkeypatch):
    """In what follows all nodes know late."""

    def listed(knowledge, original=Knowledge.listed):
        return LateView(knowledge._outbox, original(knowledge), 0.7)

    monkeypatch.setattr(Knowledge, "listed", listed)


def test_a_network_whose_nodes_know_each_other_late_carries_files_and_leaves_nothing(all_late):
    world = network("late", 10)
    alice, bob = world.add("alice"), world.add("bob")
    world.run(30)
    assert alice.node.pool.ready == bob.node.pool.ready == POOL_SIZE
    link = share_and_stand(world, alice, DATA)
    begun = world.now
    assert settle(world, bob, get(bob, link)) == "done" and world.now - begun < 10
    world.leave(alice)
    world.leave(bob)
    world.run(300)
    assert_drained(world)


def test_browsers_that_know_late_who_calls_are_introduced_all_the_same(all_late):
    world = network("late rtc", 0)
    for number in range(2):
        world.add(f"h{number}", RELAY, rtc=True, circuits=0)
    browsers = [world.add(f"b{number}", RELAY, browser=True, circuits=2) for number in range(4)]
    world.run(120)
    alice, bob = browsers[:2]
    link = share_and_stand(world, alice, DATA)
    assert settle(world, bob, get(bob, link)) == "done"


def without(host, gone):
    """The host's list lacks these nodes."""
    directory = host.node.directory
    original = directory.nodes
    directory.nodes = lambda role, now: [node for node in original(role, now) if node.identity not in gone]
    directory.version += 1
    host.driver.run(host.node._on_nodes)


def test_ends_whose_lists_differ_by_a_few_nodes_meet_at_the_first_points():
    world = network("few differ", 24)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(5)
    relays = [world.hosts[f"r{number}"].keys.identity for number in range(24)]
    missing = {alice: set(relays[:2]), bob: set(relays[2:4])}
    for host, gone in missing.items():
        without(host, gone)
    for number in range(4):
        link = share_and_stand(world, alice, content(f"views {number}", 1000))
        name = ShareLink.parse(link).hash_name
        known = alice.node.directory.nodes(RELAY, world.now)
        ring = alice.node.transfers._service._offers[name]
        assert {*ring.posts} == {node.identity for node in points_of(name, known)}
        begun = world.now
        assert settle(world, bob, get(bob, link)) == "done" and world.now - begun < 5
    names = [bytes([number]) * 32 for number in range(200)]
    lists = [host.node.directory.nodes(RELAY, world.now) for host in (alice, bob)]
    shared = [{node.identity for node in points_of(name, nodes)} for name in names for nodes in lists]
    common = [len(one & two) for one, two in zip(shared[::2], shared[1::2], strict=True)]
    assert min(common) >= 1 and common.count(2) + common.count(3) > 190 and common.count(3) > 60


def test_each_relay_carries_as_many_circuits_as_any_other():
    world = network("fair", 12)
    alice = world.add("alice", circuits=POOL_SIZE)
    world.run(10)
    carried = Counter()
    for _ in range(60):
        for place in list(alice.node.pool._ready):
            carried.update(node.identity for node in place.path)
            alice.driver.run(lambda now, place=place: place.circuit.destroy(DestroyReason.FINISHED, now))
        world.run(2)
    assert alice.node.view.count(Class.RELAYS, world.now) == len(carried) == 12
    mean = sum(carried.values()) / 12
    assert mean > 30 and min(carried.values()) > mean / 2 and max(carried.values()) < 1.6 * mean


def test_a_share_stands_at_the_points_of_a_ring_that_changed():
    world = network("ring changes", 12)
    alice = world.add("alice", circuits=0)
    world.run(5)
    name = ShareLink.parse(share_and_stand(world, alice, DATA)).hash_name
    offer = alice.node.transfers._service._offers[name]
    without(alice, {next(iter(offer.posts))})
    world.run(90)
    known = alice.node.directory.nodes(RELAY, world.now)
    assert {*offer.posts} == {node.identity for node in points_of(name, known)} and standing(alice)
