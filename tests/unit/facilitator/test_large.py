"""A facilitator of a network that is too large for a list, and its clients, through real Drivers."""

import pytest

from convergence.facilitator.service import FETCHES_BURST
from convergence.netdir.draw import COMMIT_PHASE
from convergence.netdir.headers import EPOCH
from convergence.netdir.rings import check_bucket
from convergence.wire.buckets import DAY, Bucket, BucketRequest, RingKind, SharedValue
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import ErrorCode, ListRequest, NodeList, RecordType, encode_record
from convergence.wire.sharedrandom import Draw
from convergence.wire.target import Role
from tests.unit.facilitator.test_service import Rig
from tests.unit.facilitator.world import CRYPTO, SEED, START, MemoryStorage, World, node_seed
from tests.unit.netdir.test_headers import header_at


def aged(*numbers):
    """A store that knows these nodes for longer than anybody could know the value of the day."""
    storage, day = MemoryStorage(), int(START // DAY)
    fixed = (day - 1) * DAY + COMMIT_PHASE
    values = SharedValue(b"v" * 32, fixed).encode() + SharedValue(b"b" * 32, fixed - DAY).encode()
    storage.items["epochs", b"draw"] = day.to_bytes(4, "big") + values + bytes(2)
    for number in numbers:
        since = (fixed - 2 * DAY).to_bytes(8, "big")
        storage.items["age", CRYPTO.ed25519_public(node_seed(number)) + since] = b""
    return storage


@pytest.fixture
def large(monkeypatch):
    """A network of five nodes that is too large for a list, in its first epoch."""
    monkeypatch.setattr("convergence.facilitator.publisher.MIN_POINTS", 3)
    world = World(aged(1, 2, 3, 4), list_up_to=4)
    world.machines = [world.client(number) for number in range(1, 6)]
    world.run(EPOCH - 1)
    assert {len(machine.directory.nodes(Role(0), world.time)) for machine in world.machines} == {5}
    world.run(2 * 60)
    return world


def test_a_large_network_is_told_by_header_and_buckets(large):
    for machine in large.machines:
        header = machine.headers.newest
        counts = [header.ring(kind).count for kind in (RingKind.ALL, RingKind.POINTS, RingKind.POINTS_BEFORE)]
        assert counts == [5, 4, 4]  # one came only today
        got = []
        request = BucketRequest(header.epoch, RingKind.ALL, 0)
        machine.port.driver.run(
            lambda now, machine=machine, request=request, got=got: machine.client.fetch(
                request, lambda body, now: got.append(body), now
            )
        )
        large.settle()
        members = check_bucket(header, Bucket.parse(got[0]), {})
        identities = {CRYPTO.ed25519_public(node_seed(number)) for number in range(1, 6)}
        assert {member.node.identity for member in members} == identities
        assert all(member.node.verify(CRYPTO.ed25519_verify) for member in members)


def test_who_has_the_header_is_not_sent_it_again():
    rig, header = Rig(), header_at(START)
    rig.service._publisher.header = lambda now: header
    rig.open(2)
    for have in (0, header.epoch - 1, header.epoch, header.epoch + 1):
        answer = rig.send(2, encode_record(RecordType.LIST, ListRequest(have).encode()))
        assert answer == [(RecordType.HEADER, b"" if have == header.epoch else header.encode())]


def test_everybody_who_asks_is_told_how_values_are_drawn(large):
    day, got = int(large.time // DAY), []
    for wanted in (day + 1, day, day + 2):
        large.machines[0].port.driver.run(
            lambda now, wanted=wanted: large.machines[0].client.draw(wanted, lambda body, now: got.append(body), now)
        )
        large.settle()
    next_one, today, unknown = (Draw.parse(body) for body in got)
    assert [commit.facilitator for commit, number in next_one.parts if number is None] == [CRYPTO.ed25519_public(SEED)]
    assert today == unknown == Draw()  # what gave today's value is not known here


def test_who_leaves_is_in_no_bucket_of_the_next_epoch(large):
    large.kill(large.machines[4].port)
    large.run(EPOCH)
    assert large.machines[0].headers.newest.ring(RingKind.ALL).count == 4


def test_a_facilitator_that_restarts_goes_on_with_its_headers(large):
    before = large.machines[0].headers.newest
    large.restart_service()
    large.run(3 * 60)
    assert all(machine.client.connected for machine in large.machines)
    assert large.machines[0].headers.newest == before
    large.run(EPOCH)
    newest = large.machines[0].headers.newest
    assert newest.epoch > before.epoch and newest.ring(RingKind.POINTS).count == 4
    assert all(machine.headers.contradiction is None for machine in large.machines)


def test_a_list_holds_those_that_came_first_of_more_than_it_may(monkeypatch):
    monkeypatch.setattr("convergence.facilitator.registry.MAX_LISTED", 2)
    world = World()
    for number in range(1, 6):
        world.client(number)
        world.run(5)
    assert len(world.service.health(world.time)["nodes"]) == 5
    known = NodeList.parse(world.service.signed_list(world.time)).descriptors
    assert [Descriptor.parse(raw).identity for raw in known] == [
        CRYPTO.ed25519_public(node_seed(number)) for number in (1, 2)
    ]


def test_buckets_that_there_are_not_are_answered_by_nothing_and_requests_are_limited(monkeypatch):
    rig = Rig()
    rig.open(2)
    request = encode_record(RecordType.FETCH, BucketRequest(1, 1, 1).encode())
    for _ in range(int(FETCHES_BURST)):
        assert rig.send(2, request) == [(RecordType.BUCKET, b"")]
    assert rig.send(2, request) == [ErrorCode.RATE_LIMIT] and 2 in rig.closed
    rig.open(4)
    assert rig.send(4, encode_record(RecordType.FETCH, b"")) == [ErrorCode.BAD_RECORD]
