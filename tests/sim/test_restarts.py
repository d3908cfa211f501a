"""Nodes that start while the facilitator is gone find the network again from what they knew."""

from convergence.netdir.nodes import HINT_LIFETIME
from convergence.path.entries import BUCKET
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.sharelink import ShareLink
from tests.sim.people import (
    PathRecord,
    arrived,
    content,
    get,
    network,
    relays_of,
    settle,
    share_and_stand,
    standing,
    transfer,
)
from tests.sim.world import World

DATA = content("restarts", 2 * PIECE_SIZE + 5)


def scene(seed):
    """A network whose facilitator is gone for good, and a file that alice shares."""
    world = network(seed, 8)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(5)
    link = share_and_stand(world, alice, DATA)
    world.kill(world.hosts["facilitator"])
    return world, alice, bob, link


def assert_arrives(world, host, link):
    transfer_id = get(host, link)
    assert settle(world, host, transfer_id) == "done", transfer(host, transfer_id)
    assert arrived(host, transfer_id) == DATA


def nodes(world: World):
    return [host for host in world.hosts.values() if host.name != "facilitator"]


def test_every_node_restarts_once_without_a_facilitator():
    world, alice, bob, link = scene("one by one")
    for host in nodes(world):
        world.kill(host)
        world.run(20)
        world.revive(host)
        world.run(20)
    assert world.run(120, lambda: standing(alice))
    assert_arrives(world, bob, link)


def test_a_network_that_was_down_altogether_finds_itself_again():
    """Longer than descriptors are valid: old ones are tried."""
    world, alice, bob, link = scene("all at once")
    for host in nodes(world):
        world.kill(host)
    world.run(HINT_LIFETIME / 2)
    for host in nodes(world):
        world.revive(host)
    assert world.run(300, lambda: standing(alice))
    assert_arrives(world, bob, link)


def test_entries_are_kept_over_restarts_and_forgotten_with_the_file(monkeypatch):
    world = network("kept entries", 16)
    paths = PathRecord(world, monkeypatch)
    alice = world.add("alice", circuits=0)
    world.run(5)
    link = share_and_stand(world, alice, DATA)
    name = ShareLink.parse(link).hash_name
    entries = paths.neighbours(name, provider=True)
    for _ in range(6):
        world.restart(alice)
        assert world.run(60, lambda: standing(alice))
    after = paths.neighbours(name, provider=True)
    assert entries <= after and len(after) <= 2
    kept = {key: value for (bucket, key), value in alice.storage.items.items() if bucket == BUCKET}
    assert len(kept) == 1
    assert not any(name in key + value for key, value in kept.items())
    [share_id] = alice.node.transfers.shares
    alice.driver.run(lambda now: alice.node.transfers.unshare(share_id, now))
    world.run(1)
    assert not any(bucket == BUCKET for bucket, _ in alice.storage.items)
    assert len(relays_of(world)) == 16
