"""Buckets as a facilitator makes them and a client checks them."""

import gc
from itertools import count, islice

import pytest

from convergence.errors import CryptoError, LocalError, RemoteError
from convergence.netdir import epochs as module
from convergence.netdir import rings
from convergence.netdir.epochs import FEW, MANY, NODES_A_STEP, Listing, epoch_of
from convergence.netdir.rings import BadBucket, check_bucket, index_of, stable_since
from convergence.netdir.view import place_of
from convergence.wire.buckets import MAX_IN_BUCKET, Bucket, Entry, RingKind, SharedValue
from convergence.wire.target import Role
from tests.unit.netdir.buckets import (
    BEFORE,
    CRYPTO,
    OLD,
    VALUE,
    Made,
    identity_of,
    known,
    node_of,
)


def everybody(made, kind):
    """The nodes of all buckets of a ring, each bucket checked."""
    header = made.epochs.header
    ring = header.ring(kind)
    buckets = [made.bucket(kind, index) for index in range(1 << ring.depth)]
    return [member for bucket in buckets for member in check_bucket(header, Bucket.parse(bucket.encode()), {})]


def test_all_buckets_together_are_all_nodes_in_the_order_of_the_ring():
    made = Made(1000)
    header = made.sign()
    assert header.verify(CRYPTO.ed25519_verify)
    for kind in RingKind:
        members = everybody(made, kind)
        assert header.ring(kind).count == len(members) == 1000
        assert {member.node.identity for member in members} == {identity_of(number) for number in range(1000)}
        value = BEFORE if kind in rings.BEFORE else VALUE
        places = [member.place for member in members]
        assert places == sorted(places) == sorted(place_of(value.value, identity_of(i)) for i in range(1000))


def test_a_bucket_has_about_a_hundred_nodes_and_is_found_by_the_place():
    made = Made(3000)
    header = made.sign()
    ring = header.ring(RingKind.ALL)
    sizes = [len(made.bucket(RingKind.ALL, index).items) for index in range(1 << ring.depth)]
    assert all(FEW // 2 < size < 2 * MANY for size in sizes) and sum(sizes) == 3000
    for number in range(100):
        place = place_of(VALUE.value, identity_of(number))
        found = check_bucket(header, made.bucket(RingKind.ALL, index_of(place, ring.depth)), {})
        assert place in [member.place for member in found]


def test_a_ring_holds_the_nodes_of_its_kind():
    made = Made()
    for name, roles in (("relay", Role.RELAY), ("point", Role.RDV), ("exit", Role.EXIT), ("none", Role(0))):
        made.put(node_of(name, roles))
    made.put(node_of("tor", Role.TOR | Role.RELAY))
    header = made.sign()
    counts = {RingKind(ring.kind).name: ring.count for ring in header.rings}
    assert counts == {
        **{"ALL": 4, "RELAYS": 2, "DIALLED": 2, "STABLE": 2, "EXITS": 1, "TOR": 1},
        **{"POINTS": 1, "TOR_POINTS": 1, "POINTS_BEFORE": 1, "TOR_POINTS_BEFORE": 1},
    }


def test_who_comes_after_the_value_could_be_known_is_in_all_rings_but_those_of_points():
    made = Made()
    made.put(node_of("old"), BEFORE.fixed - 1)
    made.put(node_of("older than this value"), VALUE.fixed - 1)
    made.put(node_of("young"), VALUE.fixed)
    header = made.sign()
    counts = {RingKind(ring.kind).name: ring.count for ring in header.rings}
    assert counts == {
        **{"ALL": 3, "RELAYS": 3, "DIALLED": 3, "STABLE": 3, "EXITS": 3, "TOR": 3},
        **{"POINTS": 2, "TOR_POINTS": 2, "POINTS_BEFORE": 1, "TOR_POINTS_BEFORE": 1},
    }
    header = made.sign(SharedValue(b"w" * 32, VALUE.fixed + 1), VALUE)
    assert (header.ring(RingKind.POINTS).count, header.ring(RingKind.POINTS_BEFORE).count) == (3, 2)


def test_relays_are_stable_once_they_have_been_there_for_long():
    made = Made()
    since = stable_since(epoch_of(made.now) + 1)
    made.put(node_of("long"), since)
    made.put(node_of("not so long"), since + 1)
    made.put(node_of("no relay", Role.RDV), since)
    made.sign()
    assert [member.node.identity for member in everybody(made, RingKind.STABLE)] == [identity_of("long")]
    made.sign()
    assert len(everybody(made, RingKind.STABLE)) == 2


def test_who_becomes_stable_is_new_to_those_who_have_the_bucket():
    """Whoever asks has it of other rings, perhaps, and not of this one."""
    made = Made(60)
    made.put(node_of("new"), stable_since(epoch_of(made.now) + 1) + 1)
    first = made.sign().epoch
    whole = made.bucket(RingKind.STABLE, 0)
    header = made.sign()
    delta = made.bucket(RingKind.STABLE, 0, have=first)
    assert sum(isinstance(item, Entry) for item in delta.items) == 1
    assert len(check_bucket(header, delta, known(whole))) == 61


def test_another_facilitator_finds_the_same_nodes_stable_whenever_it_looks():
    """A cut may be made in the epoch before the one that it is signed for."""
    made = Made(60)
    made.put(node_of("nearly"), stable_since(epoch_of(made.now) + 1) + 1)
    cut = made.epochs.freeze(epoch_of(made.now) + 1, VALUE, BEFORE)
    while not cut.step():
        pass
    made.now += 1200
    header = made.epochs.serve(made.epochs.propose(cut, None, made.now), cut)
    assert header.epoch == cut.epoch + 1 and header.ring(RingKind.STABLE).count == 60
    again = made.epochs.repeat(header, Listing(node._replace(signed=0) for node in cut.nodes))
    while not again.step():
        pass
    assert again.rings == header.rings
    assert len(everybody(made, RingKind.STABLE)) == 60


def test_a_node_that_leaves_or_changes_its_roles_leaves_its_rings():
    made = Made(10)
    made.epochs.drop(identity_of(3))
    made.epochs.drop(identity_of("nobody"))
    made.put(node_of(4, Role.EXIT))
    header = made.sign()
    assert identity_of(3) not in {member.node.identity for member in everybody(made, RingKind.ALL)}
    assert (header.ring(RingKind.ALL).count, header.ring(RingKind.RELAYS).count) == (9, 8)


def test_a_registration_costs_no_hash_and_a_cut_has_small_steps(monkeypatch):
    """However many nodes there are."""
    made = Made(1)
    hashed = []
    monkeypatch.setattr(module, "place_of", lambda *args: hashed.append(1) or place_of(*args))
    for size in (2000, 8000):
        for number in range(len(made.epochs.nodes), size):
            made.put(node_of(number, version=1))
        assert not hashed
        cut = made.epochs.freeze(epoch_of(made.now), VALUE, BEFORE)
        most = 0
        while not cut.step():
            most = max(most, len(hashed))
            hashed.clear()
        assert most == 2 * NODES_A_STEP  # in two orders
        assert cut.steps < 2.5 * size / NODES_A_STEP + 2 * size / (FEW * module.SLICES_A_STEP) + 9
        hashed.clear()


def test_a_collection_of_garbage_does_not_look_into_the_nodes_of_a_cut():
    """Else the first ones after an epoch has begun would take a microsecond a node, three times."""
    made = Made(1000)
    made.sign()
    made.put(node_of("late"))
    cut = made.epochs.cut
    for nodes in (made.epochs.nodes, made.epochs.nodes.copy(), cut.nodes):
        assert len(nodes) >= 1000 and not any(gc.is_tracked(table) for table in vars(nodes).values())
    slices = [part for order in cut._orders for part in order.slices]
    assert slices and not any(gc.is_tracked(run) for part in slices for run in part)


def test_who_comes_and_goes_while_a_cut_is_made_is_in_the_next_one():
    made = Made(3000)
    first = made.sign()
    cut = made.epochs.freeze(first.epoch + 1, VALUE, BEFORE)
    cut.step()
    made.put(node_of("late"))
    made.epochs.drop(identity_of(7))
    assert made.bucket(RingKind.ALL, 0) is not None  # of the epoch before, meanwhile
    while not cut.step():
        pass
    made.now += 600
    made.epochs.serve(made.epochs.propose(cut, None, made.now), cut)
    found = {member.node.identity for member in everybody(made, RingKind.ALL)}
    assert found == {identity_of(number) for number in range(3000)}
    assert made.sign().ring(RingKind.ALL).count == 3000
    assert {member.node.identity for member in everybody(made, RingKind.ALL)} ^ found == {
        identity_of("late"),
        identity_of(7),
    }


def test_a_cut_that_another_one_made_is_repeated_bit_by_bit():
    """Also by whoever does not know how many buckets there were before."""
    made = Made(700)
    made.sign()
    for number in range(400):
        made.epochs.drop(identity_of(number))
    header = made.sign()  # of 300 nodes, who come to 4 buckets only from above
    assert header.ring(RingKind.ALL).depth == 2
    again = Made(5)
    cut = again.epochs.repeat(header, made.epochs.nodes.copy())
    while not cut.step():
        pass
    assert cut.rings == header.rings
    again.epochs.serve(header, cut)
    assert again.bucket(RingKind.POINTS, 1) == made.bucket(RingKind.POINTS, 1)
    assert again.epochs.header == header


def test_a_ring_that_shrinks_gets_fewer_buckets_again():
    made = Made(1000)
    assert made.sign().ring(RingKind.ALL).depth == 3
    for number in range(900):
        made.epochs.drop(identity_of(number))
    header = made.sign()
    assert header.ring(RingKind.ALL).depth == 1
    assert len(everybody(made, RingKind.ALL)) == 100


def test_of_too_many_nodes_for_one_bucket_the_oldest_stay():
    """Whoever makes keys for one bucket crowds out what came as late as they did."""
    made = Made(MANY)
    names = (("ground", number) for number in count())
    ground = islice((name for name in names if place_of(VALUE.value, identity_of(name))[0] < 16), 400)
    for age, name in enumerate(ground):
        made.put(node_of(name), OLD + 1 + age)
    header = made.sign()
    found = {member.node.identity for member in everybody(made, RingKind.ALL)}
    assert header.ring(RingKind.ALL).count == len(found) < MANY + MAX_IN_BUCKET
    assert {identity_of(number) for number in range(MANY)} <= found


# Deltas


def test_who_has_a_bucket_of_an_earlier_epoch_gets_what_is_new():
    made = Made(100)
    first = made.sign().epoch
    whole = made.bucket(RingKind.ALL, 0)
    made.put(node_of(7, version=1))
    made.put(node_of("new"))
    made.epochs.drop(identity_of(8))
    header = made.sign()
    delta = made.bucket(RingKind.ALL, 0, have=first)
    assert sum(isinstance(item, Entry) for item in delta.items) == 2
    assert len(delta.encode()) < len(whole.encode()) / 10
    assert check_bucket(header, delta, known(whole)) == check_bucket(header, made.bucket(RingKind.ALL, 0), {})


def test_an_order_that_changed_makes_no_deltas():
    made = Made(100)
    first = made.sign().epoch
    header = made.sign(SharedValue(b"w" * 32, VALUE.fixed), VALUE)
    whole = made.bucket(RingKind.ALL, 0, have=first)
    assert all(isinstance(item, Entry) for item in whole.items)
    assert len(check_bucket(header, whole, {})) == 100


def test_an_answer_does_not_believe_what_the_asker_says_to_have():
    made = Made(10)
    header = made.sign()
    for have in (header.epoch, header.epoch + 1, 1):
        assert all(isinstance(item, Entry) for item in made.bucket(RingKind.ALL, 0, have=have).items)


def test_buckets_of_the_epoch_before_are_served_too_and_as_they_were():
    made = Made(100)
    first = made.sign()
    before = made.bucket(RingKind.ALL, 0)
    made.epochs.drop(identity_of(0))
    made.sign()
    assert made.bucket(RingKind.ALL, 0, epoch=first.epoch) == before
    assert len(check_bucket(first, before, {})) == 100
    made.sign()
    assert made.bucket(RingKind.ALL, 0, epoch=first.epoch) is None
    assert made.bucket(RingKind.ALL, 1) is None and made.bucket(99, 0) is None


def test_no_second_header_of_an_epoch_is_signed():
    made = Made(1)
    made.sign()
    for now in (made.now + 1, made.now - 600):
        with pytest.raises(LocalError):
            made.epochs.sign(VALUE, BEFORE, None, now)


# Lies


def test_a_facilitator_that_calls_a_young_relay_stable_is_found_out(monkeypatch):
    made = Made(60)
    made.put(node_of("young"), stable_since(epoch_of(made.now) + 1) + 1)
    monkeypatch.setattr(module, "_STABLE", 0)
    header = made.sign()
    with pytest.raises(BadBucket):
        check_bucket(header, made.bucket(RingKind.STABLE, 0), {})
    assert len(check_bucket(header, made.bucket(RingKind.ALL, 0), {})) == 61


def test_a_bucket_that_is_not_the_signed_one_is_refused():
    made = Made(300)
    header = made.sign()
    bucket = made.bucket(RingKind.ALL, 1)
    other = made.bucket(RingKind.ALL, 2)
    fake = Entry(node_of("fake").encode(), OLD)
    for items, index, proof in (
        (bucket.items[1:], 1, bucket.proof),  # a node is left out
        ((*bucket.items, fake), 1, bucket.proof),
        ((fake, *bucket.items[1:]), 1, bucket.proof),
        (bucket.items[::-1], 1, bucket.proof),
        ((Entry(bucket.items[0].descriptor, 1), *bucket.items[1:]), 1, bucket.proof),  # older than it is
        (bucket.items, 1, bucket.proof[:-1]),
        (bucket.items, 1, other.proof),
        (bucket.items, 2, bucket.proof),
        (bucket.items, 5, bucket.proof),
    ):
        with pytest.raises(CryptoError):
            check_bucket(header, Bucket(header.epoch, RingKind.ALL, index, proof, items), {})
    with pytest.raises(CryptoError):
        check_bucket(header, Bucket(header.epoch, RingKind.POINTS_BEFORE, 1, bucket.proof, bucket.items), {})


def test_a_bucket_of_another_epoch_or_ring_or_with_strange_references_is_refused():
    made = Made(300)
    header = made.sign()
    bucket = made.bucket(RingKind.ALL, 1)
    for wrong in (
        Bucket(header.epoch - 1, RingKind.ALL, 1, bucket.proof, bucket.items),
        Bucket(header.epoch, 77, 1, bucket.proof, bucket.items),
        Bucket(header.epoch, RingKind.ALL, 1, bucket.proof, (b"unknown!", *bucket.items[1:])),
    ):
        with pytest.raises(RemoteError):
            check_bucket(header, wrong, known(bucket))
    swapped = {bucket.items[0].reference: bucket.items[1]}
    with pytest.raises(CryptoError):
        check_bucket(header, Bucket(header.epoch, RingKind.ALL, 1, bucket.proof, (bucket.items[0].reference,)), swapped)


@pytest.mark.parametrize("lie", ["young", "order", "twice", "elsewhere"])
def test_a_facilitator_that_signs_what_is_no_bucket_is_found_out(lie, monkeypatch):
    made = Made(300)
    if lie == "young":
        monkeypatch.setattr(module, "_AGED", 0)
        made.put(node_of("young"), VALUE.fixed)
    else:
        real = module._oldest

        def false(inside):
            return inside[::-1] if lie == "order" else inside[:1] + inside

        if lie == "elsewhere":
            monkeypatch.setattr(module, "index_of", lambda place, depth: index_of(place, depth) ^ 1)
        else:
            monkeypatch.setattr(module, "_oldest", lambda inside: real(false(inside)))
    header = made.sign()
    depth = header.ring(RingKind.POINTS).depth
    index = index_of(place_of(VALUE.value, identity_of("young")), depth)
    with pytest.raises(BadBucket):
        check_bucket(header, made.bucket(RingKind.POINTS, index), {})


def test_a_descriptor_that_cannot_be_read_costs_its_node_only():
    made = Made(5)
    node = node_of("later version")
    made.epochs.put(node, b"\2" + node.encode()[1:], OLD)
    header = made.sign()
    assert len(check_bucket(header, made.bucket(RingKind.ALL, 0), {})) == 5
