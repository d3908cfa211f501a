"""Faults, one by one: each transfer completes, verified, or ends with a reason that people understand."""

import pytest

from convergence.codes import Dropped, TransferWhy
from convergence.effects import Failure
from convergence.events import SourceDropped
from convergence.ordb.download import MAX_BATCH
from convergence.path.place import HOP_TIMEOUT
from convergence.path.pool import POOL_SIZE, PROBE_EVERY
from convergence.rdv.blind import DAY, day_begins, day_of
from convergence.rdv.ring import POINTS
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.sharelink import ShareLink
from convergence.wire.target import Role
from tests.sim.people import (
    RELAY,
    arrived,
    content,
    get,
    network,
    relays_of,
    settle,
    share,
    share_and_stand,
    standing,
    transfer,
)
from tests.sim.world import World
from tests.views import points_of

DATA = content("fault", 9 * PIECE_SIZE + 1000)


@pytest.fixture
def pair():
    """A world with a file shared by "alice", and "bob" who wants it."""
    world = network("pair", 10)
    alice = world.add("alice", circuits=1)
    bob = world.add("bob", circuits=1)
    world.run(5)
    return world, alice, bob, share_and_stand(world, alice, DATA)


def begin(world, host, link, pieces=2):
    """Open a link and wait until some pieces, and not all, are here."""
    transfer_id = get(host, link)
    assert world.run(60, lambda: len(transfer(host, transfer_id).download.present) >= pieces)
    assert transfer(host, transfer_id).state == "running"
    return transfer_id


def assert_complete(world, host, transfer_id, data=DATA, seconds=300):
    assert settle(world, host, transfer_id, seconds) == "done", transfer(host, transfer_id).why
    assert arrived(host, transfer_id) == data
    assert transfer(host, transfer_id).download.duplicates == 0
    assert host.storage.rewritten == 0


def paths_in_use(host):
    """Hosts on each of a node's circuits to rendezvous points."""
    relays = {identity.hex(): relay for identity, relay in relays_of(host.world).items()}
    return [
        [relays[hop["identity"]] for hop in item["hops"] if hop["identity"] in relays]
        for item in host.node.pool.snapshot()
        if item["purpose"] == "rendezvous" and item["state"] == "in use"
    ]


def points(world, link):
    """Hosts of a file's points, as the facilitator's list has them now."""
    relays = relays_of(world)
    descriptors = next(iter(relays.values())).node.directory.nodes(Role.RDV, world.now)
    return [relays[point.identity] for point in points_of(ShareLink.parse(link).hash_name, descriptors)]


def test_middle_relays_killed(pair):
    world, alice, bob, link = pair
    transfer_id = begin(world, bob, link)
    for host in (bob, alice):
        world.kill(paths_in_use(host)[0][0])
        world.run(0.5)
    assert_complete(world, bob, transfer_id)


def test_rdv_point_killed(pair):
    world, alice, bob, link = pair
    transfer_id = begin(world, bob, link)
    world.kill(paths_in_use(bob)[0][-1])
    assert_complete(world, bob, transfer_id)


def test_all_points_killed_while_others_join(pair):
    world, alice, bob, link = pair
    transfer_id = begin(world, bob, link)
    for number, point in enumerate(points(world, link)):
        world.add(f"late{number}", RELAY, circuits=0)
        world.kill(point)
        world.run(0.3)
    assert_complete(world, bob, transfer_id, seconds=900)
    # Later comers find the new points.
    world.run(400)
    carol = world.add("carol", circuits=0)
    world.run(5)
    assert_complete(world, carol, get(carol, link))


def test_sender_stops_and_comes_back(pair):
    world, alice, bob, link = pair
    transfer_id = begin(world, bob, link)
    world.leave(alice)
    world.run(60)
    assert transfer(bob, transfer_id).state == "waiting"
    assert transfer(bob, transfer_id).why.code == TransferWhy.SENDER_AWAY
    world.run(3600)
    assert transfer(bob, transfer_id).state == "waiting"
    world.revive(alice)
    assert_complete(world, bob, transfer_id)


def test_sender_vanishes_and_comes_back(pair):
    world, alice, bob, link = pair
    transfer_id = begin(world, bob, link)
    world.kill(alice)
    assert world.run(60, lambda: transfer(bob, transfer_id).why.code == TransferWhy.SENDER_AWAY)
    world.run(60)
    world.revive(alice)
    assert_complete(world, bob, transfer_id)


def test_receiver_restarts(pair):
    world, alice, bob, link = pair
    transfer_id = begin(world, bob, link, 3)
    first = transfer(bob, transfer_id).download
    fetched = first.pieces_fetched
    world.restart(bob)
    assert world.run(60, lambda: transfer_id in bob.node.transfers.transfers)
    assert_complete(world, bob, transfer_id)
    assert 0 < fetched < 10
    assert transfer(bob, transfer_id).download.pieces_fetched == 10 - fetched


def test_a_finished_transfer_survives_a_restart_and_is_served_on(pair):
    world, alice, bob, link = pair
    transfer_id = get(bob, link)
    assert_complete(world, bob, transfer_id)
    world.leave(alice)
    world.restart(bob)
    assert world.run(60, lambda: transfer_id in bob.node.transfers.transfers)
    assert_complete(world, bob, transfer_id)
    bob.driver.run(lambda now: bob.node.transfers.share_received(transfer_id, lambda *_: None, now))
    assert world.run(60, lambda: standing(bob))
    carol = world.add("carol", circuits=0)
    world.run(5)
    assert_complete(world, carol, get(carol, link))


def test_a_sender_of_wrong_bytes_is_dropped(pair):
    world, alice, bob, link = pair
    mallory = world.add("mallory", circuits=0)
    world.run(5)
    served = get(mallory, link)
    assert settle(world, mallory, served) == "done"
    mallory.driver.run(lambda now: mallory.node.transfers.share_received(served, lambda *_: None, now))
    assert world.run(60, lambda: standing(mallory))
    for bucket, key in list(mallory.storage.items):
        if bucket == "piece":
            mallory.storage.items[bucket, key] = bytes(len(mallory.storage.items[bucket, key]))
    for number in range(4):  # with one source at a time, some of them meet mallory first
        host = world.add(f"carol{number}", circuits=0, sources=1 + number)
        world.run(5)
        assert_complete(world, host, get(host, link))
    dropped = [event for host in world.hosts.values() for event in host.events if isinstance(event, SourceDropped)]
    assert any(event.why is Dropped.WRONG_BYTES for event in dropped)


def test_only_wrong_bytes_never_arrive(pair):
    world, alice, bob, link = pair
    for bucket, key in list(alice.storage.items):
        if bucket == "piece":
            alice.storage.items[bucket, key] = bytes(len(alice.storage.items[bucket, key]))
    transfer_id = get(bob, link)
    assert settle(world, bob, transfer_id, 120 + 60) == "failed"
    assert transfer(bob, transfer_id).why.code == TransferWhy.MISLED
    assert not any(bucket == "piece" for bucket, key in bob.storage.items)


def test_a_link_for_nothing(pair):
    world, alice, bob, link = pair
    transfer_id = get(bob, ShareLink(bytes(32), bytes(32)).format(""))
    assert world.run(60, lambda: transfer(bob, transfer_id).why.code == TransferWhy.NOBODY)
    assert settle(world, bob, transfer_id) == "looking", "somebody may come to share it"


def test_a_link_is_opened_before_its_sender_is_there(pair):
    world, alice, bob, link = pair
    world.leave(alice)
    transfer_id = get(bob, link)
    assert world.run(60, lambda: transfer(bob, transfer_id).why.code == TransferWhy.NOBODY)
    world.run(600)
    world.revive(alice)
    assert_complete(world, bob, transfer_id, seconds=60)


def test_a_link_with_another_key(pair):
    world, alice, bob, link = pair
    transfer_id = get(bob, ShareLink(ShareLink.parse(link).hash_name, bytes(32)).format(""))
    assert settle(world, bob, transfer_id, 120 + 60) == "failed"
    assert transfer(bob, transfer_id).why.code == TransferWhy.MISLED


def test_facilitator_dies_after_the_start(pair):
    world, alice, bob, link = pair
    world.kill(world.hosts["facilitator"])
    world.run(5)
    world.kill(points(world, link)[0])
    assert_complete(world, bob, get(bob, link))
    links = []
    share(bob, DATA[:1000], links.append)
    assert world.run(60, lambda: bool(links))
    assert_complete(world, alice, get(alice, links[0]), DATA[:1000])


def test_facilitator_comes_back_from_its_storage(pair):
    world, alice, bob, link = pair
    facilitator = world.hosts["facilitator"]
    before = facilitator.node.health(world.now)["nodes"]
    world.kill(facilitator)
    world.run(20)
    assert facilitator.storage.items
    world.facilitator()
    world.run(1)
    assert [item["identity"] for item in facilitator.node.health(world.now)["nodes"]] == [
        item["identity"] for item in before
    ]
    carol = world.add("carol", circuits=1)
    world.run(5)
    assert_complete(world, carol, get(carol, link))
    world.run(300)  # pauses between tries grow to minutes: the relays have found it again
    assert all(item["connected"] for item in facilitator.node.health(world.now)["nodes"])


def change_of_day(world, link, after):
    """The first change of day at a point of this file, at least `after` seconds from now: when, and the point."""
    points = points_of(ShareLink.parse(link).hash_name, [host.keys for host in relays_of(world).values()])
    changes = [(day_of(world.now + after, point.identity) + 1, point.identity) for point in points]
    return min((day * DAY + day_begins(identity), identity) for day, identity in changes)


def test_transfers_around_a_change_of_day():
    world = network("midnight", 8)
    alice = world.add("alice", circuits=0)
    world.run(5)
    link = share_and_stand(world, alice, DATA)
    change, identity = change_of_day(world, link, 6 * 3600)
    hosts = []
    for offset in (-5 * 3600, -3600 - 1, -3600 + 1, -300, -0.5, 300, 3600 - 1, 3600 + 60, 5 * 3600):
        world.run(change + offset - 5 - world.now)
        host = world.add(f"bob{len(hosts)}", circuits=0)
        world.run(change + offset - world.now)
        hosts.append((host, get(host, link)))
        world.run(30)
    for host, transfer_id in hosts:
        assert_complete(world, host, transfer_id)
    assert len(relays_of(world)[identity].node._point._adverts) == 1, "yesterday's is withdrawn"


@pytest.mark.parametrize("skew", [-590.0, 1500.0])  # a list from more than 600 s in the future is refused
def test_a_clock_that_is_wrong_near_the_change(skew):
    """Names of both days are in use for an hour around a change, so that clocks may differ."""
    world = network("clocks", 8)
    alice = world.add("alice", circuits=0)
    world.run(5)
    link = share_and_stand(world, alice, DATA)
    change, identity = change_of_day(world, link, 2 * 3600)
    for host in relays_of(world).values():
        if host.keys.identity != identity:
            host.node._point.begin = lambda circuit, stream_id, *_: circuit.endpoint.refuse(stream_id, 2)
    world.run(change + (100 if skew < 0 else -1000) - world.now)
    bob = world.add("bob", circuits=0, skew=skew)
    world.run(5)
    assert day_of(bob.now(), identity) != day_of(alice.now(), identity)
    assert_complete(world, bob, get(bob, link))


@pytest.mark.parametrize("kind", ["quota", "io"])
def test_storage_fails_and_retry_goes_on(pair, kind):
    world, alice, bob, link = pair
    transfer_id = begin(world, bob, link)
    bob.storage.fail = Failure(kind, "full")
    assert world.run(60, lambda: transfer(bob, transfer_id).state == "paused")
    assert transfer(bob, transfer_id).why.code is {"quota": TransferWhy.NO_ROOM, "io": TransferWhy.STORAGE}[kind]
    fetched = transfer(bob, transfer_id).download.pieces_fetched
    world.run(600)
    assert transfer(bob, transfer_id).download.pieces_fetched <= fetched + MAX_BATCH * 3
    bob.driver.run(lambda now: bob.node.transfers.retry(transfer_id, now))
    world.run(5)
    assert transfer(bob, transfer_id).state == "paused"
    bob.storage.fail = None
    bob.driver.run(lambda now: bob.node.transfers.retry(transfer_id, now))
    assert_complete(world, bob, transfer_id)
    assert transfer(bob, transfer_id).download.pieces_fetched == 10


@pytest.mark.parametrize("hops", [1, 3, 5])
def test_other_numbers_of_hops(hops):
    world = network(f"hops{hops}", 10)
    alice = world.add("alice", circuits=2, hops=hops)
    bob = world.add("bob", circuits=2, hops=hops)
    world.run(10)
    link = share_and_stand(world, alice, DATA)
    assert {len(path) for path in paths_in_use(alice)} == {hops}
    assert alice.node.pool.ready == 2
    assert_complete(world, bob, get(bob, link))


def test_few_relays_are_enough():
    """Two sides of one entry each, and the point."""
    world = network("few", POINTS)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(5)
    links = []
    share(alice, DATA, links.append)
    world.run(60)
    assert_complete(world, bob, get(bob, links[0]))


def test_nobody_to_relay():
    world = World("empty")
    world.facilitator()
    bob = world.add("bob", circuits=1)
    world.run(5)
    transfer_id = get(bob, ShareLink(bytes(32), bytes(32)).format(""))
    assert world.run(60, lambda: transfer(bob, transfer_id).why.code == TransferWhy.NO_POINTS)


def test_the_same_content_shared_under_two_names():
    """Each has a link of its own, which survives a restart and the end of the other."""
    world = network("names", 8)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(5)
    first, second = (share_and_stand(world, alice, DATA, name=name) for name in ("a.bin", "b.bin"))
    assert first != second
    assert share_and_stand(world, alice, DATA, name="a.bin") == first
    world.restart(alice)
    assert world.run(60, lambda: len(alice.node.transfers.shares) == 2 and standing(alice))
    transfers = alice.node.transfers
    first_id = next(share_id for share_id, item in transfers.shares.items() if item.file.info.name == "a.bin")
    alice.driver.run(lambda now: transfers.unshare(first_id, now))
    world.run(5)
    assert_complete(world, bob, get(bob, second))
    gone = get(bob, first)
    assert world.run(60, lambda: transfer(bob, gone).why.code == TransferWhy.NOBODY)


def test_ready_circuits_through_a_relay_that_hangs_are_replaced():
    """It keeps its links open, so that only its silence tells."""
    world = network("hang", 8)
    peer = world.add("peer")
    assert world.run(10, lambda: peer.node.pool.ready == POOL_SIZE)
    ready = [item for item in peer.node.pool.snapshot() if item["state"] == "ready"]
    victim = relays_of(world)[bytes.fromhex(ready[0]["hops"][-1]["identity"])]
    world.run(5 * PROBE_EVERY)
    numbers = {item["id"] for item in ready}
    assert {item["id"] for item in peer.node.pool.snapshot()} == numbers, "those that answer stay"
    victim.hung = True
    world.run(PROBE_EVERY * 4 / 3 + 2 * HOP_TIMEOUT)
    now_ready = [item for item in peer.node.pool.snapshot() if item["state"] == "ready"]
    used = {hop["identity"] for item in now_ready for hop in item["hops"]}
    assert victim.keys.identity.hex() not in used
    assert world.run(30, lambda: peer.node.pool.ready == POOL_SIZE)
