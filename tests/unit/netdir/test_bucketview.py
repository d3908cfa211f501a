"""The View of a large network: samples, rings and look-ups out of few buckets."""

from collections import Counter
from dataclasses import replace

import pytest

from convergence.effects import Load, Store
from convergence.netdir.buckets import ATTEMPTS, Buckets
from convergence.netdir.bucketview import (
    ENOUGH,
    ENOUGH_SAMPLED,
    HELD,
    MAX_SAMPLED,
    OVERLAP,
    SAMPLED,
    SILENT,
    BucketView,
)
from convergence.netdir.epochs import FEW, MANY, epoch_of
from convergence.netdir.headers import EPOCH, Headers
from convergence.netdir.lookup import look_up_shown
from convergence.netdir.memory import PAUSE
from convergence.netdir.nodes import HINT_LIFETIME, NodeDirectory
from convergence.netdir.rings import stable_since
from convergence.netdir.view import Class, place_of, place_of_name
from convergence.outbox import Outbox
from convergence.wire.buckets import DAY, MAX_DEPTH, RingKind, SharedValue
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.target import Role
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.buckets import BEFORE, CRYPTO, FACILITATOR, NOW, VALUE, Made

ROLES = Role.RELAY | Role.RDV


def signed(number, *, published=NOW, lifetime=30 * 3600, roles=ROLES, dialled=True):
    """A descriptor that its node signed."""
    seed = number.to_bytes(32, "big")
    transports = (Transport(1, f"ws://192.0.2.{number % 250}:9000/") if dialled else Transport.rtc(()),)
    dates = int(published), int(published) + lifetime
    unsigned = Descriptor(CRYPTO.ed25519_public(seed), b"k" * 32, *dates, roles, transports)
    return unsigned.sign(lambda message: CRYPTO.ed25519_sign(seed, message))


NODES = [signed(number) for number in range(600)]
FROM = 4
"""Of the eight buckets of these, how many samples are drawn from: SAMPLED nodes."""


class List:
    """The View of a list."""

    def count(self, kind, now):
        return 7

    def sample(self, kind, count, now, then):
        then(["list"], now)

    def closest(self, kind, name, count, now, then, *, place=None):
        then([["list"]], now)


class Rig:
    """One node, and a facilitator (shared by nodes of one test) that answers at once."""

    def __init__(self, nodes=NODES, *, made=None, store=None, seed="node", take=True):
        self.made = made or Made()
        if made is None:
            for node in nodes:
                self.made.put(node)
            self.made.now = float(NOW // DAY * DAY + 2 * OVERLAP)
        self.outbox = Outbox()
        self.directory = NodeDirectory(CRYPTO, FACILITATOR)
        self.headers = Headers(CRYPTO, lambda: self.directory.facilitator, lambda now: self.view.header_changed(now))
        self.asked = []  # (kind, index, key)
        self.down = False
        self.changes = []
        self.store = {} if store is None else store
        self.buckets = Buckets(self.outbox, self.headers, self._fetch)
        self.view = BucketView(
            self.outbox,
            CRYPTO,
            SeededRng(seed),
            self.headers,
            self.buckets,
            self.directory,
            List(),
            "network",
            self.changes.append,
        )
        if take and made is None:
            self.sign()

    @property
    def now(self):
        return self.made.now

    def sign(self, value=VALUE, before=BEFORE, *, take=True):
        header = self.made.sign(value, before)
        if take:
            self.headers.take(header.encode(), self.now)
        return header

    def _fetch(self, request, key, attempt, then, now):
        self.asked.append((request.kind, request.index, key))
        bucket = None if self.down else self.made.epochs.answer(request)
        then(b"" if bucket is None else bucket.encode(), now)

    def ask(self, question, *arguments):
        got = []
        getattr(self.view, question)(*arguments, self.now, lambda answer, now: got.append(answer))
        return got

    def sample(self, count=10, kind=Class.RELAYS):
        [nodes] = self.ask("sample", kind, count)
        return nodes

    def closest(self, name=b"n" * 32, count=3, kind=Class.POINTS):
        [rings] = self.ask("closest", kind, name, count)
        return rings

    def wait(self, seconds):
        self.made.now += seconds
        self.outbox.run_timers(self.now)
        self.serve()

    def serve(self):
        for effect in self.outbox.poll(self.now):
            match effect:
                case Store():
                    self.store.update({(bucket, key): value for bucket, key, value in effect.items})
                    self.outbox.done(effect.request, None, self.now)
                case Load():
                    self.outbox.done(effect.request, self.store.get((effect.bucket, effect.key)), self.now)


def ring_of(nodes, value, name):
    """The nodes from the place of a name on, worked out from all of them."""
    start = int.from_bytes(place_of_name(value, name), "big")
    place = lambda node: (int.from_bytes(place_of(value, node.identity), "big") - start) % (1 << 256)  # noqa: E731
    return sorted(nodes, key=place)


# What counts


def test_while_there_is_a_list_it_answers_and_a_header_takes_over():
    rig = Rig(take=False)
    assert rig.view.count(Class.ALL, NOW) == 7 and rig.sample() == ["list"] and rig.closest() == [["list"]]
    rig.sign()
    assert rig.view.count(Class.ALL, NOW) == 600 and len(rig.sample()) == 10
    rig.directory._published = rig.now + 1  # the facilitator gave a list: the network is small again
    assert rig.view.count(Class.ALL, NOW) == 7 and rig.sample() == ["list"]
    rig.sign()
    assert rig.view.count(Class.ALL, NOW) == 600


# Samples


def test_samples_come_from_few_buckets_that_are_asked_for_openly():
    rig = Rig()
    seen = {node.identity for _ in range(50) for node in rig.sample(128)}
    assert len(rig.asked) == FROM and {key for *_, key in rig.asked} == {None}
    assert {kind for kind, *_ in rig.asked} == {RingKind.STABLE}
    assert len({index for _, index, _ in rig.asked}) == FROM
    assert SAMPLED * 0.8 < len(seen) < SAMPLED * 1.2
    assert len({node.identity for node in rig.sample(128)}) == 128


def test_positions_that_are_in_one_bucket_give_as_many_buckets():
    rig = Rig()
    assert rig.headers.newest.ring(RingKind.STABLE).depth == 3
    rig.view._positions[RingKind.STABLE] = [(1 << 32) - 1 - position for position in range(4)]
    rig.sample()
    assert {index for _, index, _ in rig.asked} == {7, 0, 1, 2}


def test_each_node_of_these_buckets_comes_up_equally_often():
    rig = Rig(NODES[:200])
    assert rig.headers.newest.ring(RingKind.STABLE).depth == 1, "it is sampled whole"
    drawn = Counter(node.identity for _ in range(400) for node in rig.sample(20))
    assert len(drawn) == 200 and 15 < min(drawn.values()) and max(drawn.values()) < 75  # 40 each, on average


def test_each_node_is_in_the_buckets_of_some_node_as_likely_as_any_other():
    made = Rig().made
    counts = Counter()
    for number in range(30):
        rig = Rig(made=made, seed=f"node {number}")
        rig.headers.take(made.epochs.header.encode(), rig.now)
        counts.update({node.identity for node in rig.sample(600)})
    assert len(counts) == 600 and min(counts.values()) > 4  # of 30, in four of eight buckets


def counted(header, count, depth):
    """The header of another network."""
    return replace(header, rings=tuple(replace(ring, count=count, depth=depth) for ring in header.rings))


def test_as_many_are_sampled_however_many_there_are_and_however_full_buckets_are():
    rig = Rig(NODES[:100])
    for depth in (3, 10, MAX_DEPTH):
        for full in range(FEW, MANY + 1):
            indices = rig.view._sampled(RingKind.STABLE, counted(rig.headers.newest, full << depth, depth))
            assert 0.8 * SAMPLED <= len(set(indices)) * full <= 1.2 * SAMPLED


def test_a_header_that_counts_few_nodes_in_many_buckets_has_us_fetch_few():
    rig = Rig(NODES[:100])
    header = counted(rig.headers.newest, 1, MAX_DEPTH)
    assert len(rig.view._sampled(RingKind.STABLE, header)) == MAX_SAMPLED


def test_what_is_left_of_buckets_that_are_cut_in_two_is_sampled_on():
    rig = Rig(NODES[:100])
    whole, cut, again = (
        rig.view._sampled(RingKind.STABLE, counted(rig.headers.newest, count, depth))
        for count, depth in ((8000, 6), (8400, 7), (8000, 6))
    )
    assert (len(whole), len(cut)) == (2, 5)
    assert [index >> 1 for index in cut[:2]] == whole == again


def test_a_small_ring_is_sampled_whole_and_an_empty_one_gives_nobody():
    rig = Rig([*NODES[:5], signed(1000, roles=Role.EXIT)])
    assert len(rig.sample(100)) == 5
    assert [node.roles for node in rig.sample(100, Class.EXITS)] == [Role.EXIT]
    assert rig.sample(100, Class.TOR) == [] and rig.view.count(Class.TOR, rig.now) == 0


def test_keys_that_are_made_for_the_buckets_that_somebody_samples_are_not_drawn(monkeypatch):
    """He knows which ones these are, and the value: each of his nodes stands in one of them."""
    rig = Rig(take=False)
    rig.view._positions[RingKind.STABLE] = [part << 30 for part in range(3)]  # of eight buckets, 0, 2 and 4
    his, number = set(), 10_000
    while len(his) < 225:
        node = signed(number)
        number += 1
        if place_of(VALUE.value, node.identity)[0] >> 5 in (0, 2, 4):
            his.add(node.identity)
            rig.made.put(node, since=int(VALUE.fixed))
    for other in range(20_000, 20_100):  # and honest ones that are as young
        rig.made.put(signed(other), since=int(VALUE.fixed))
    rig.sign()
    assert rig.headers.newest.ring(RingKind.STABLE).depth == 3
    drawn = Counter(node.identity in his for _ in range(20) for node in rig.sample(128))
    assert drawn[True] == 0 and drawn[False] == 20 * 128
    # Without the rule, or where all are young, they are most of those that are drawn.
    monkeypatch.setattr("convergence.netdir.bucketview.MIN_OLD", 1000)
    rig.view._pools.clear()
    drawn = Counter(node.identity in his for _ in range(20) for node in rig.sample(128))
    assert drawn[True] > 0.4 * 20 * 128


def test_of_a_bucket_that_chance_made_a_little_fuller_young_nodes_are_drawn_too():
    rig = Rig(NODES[:150], take=False)
    young = NODES[150:200]
    for node in young:
        rig.made.put(node, since=int(VALUE.fixed))
    header = rig.sign()
    drawn = {node.identity for _ in range(20) for node in rig.sample(128)}
    sizes = sorted(len(kept.members) for kept in rig.buckets)
    assert header.ring(RingKind.STABLE).depth == 1 and 100 < sizes[1] <= 110
    assert {node.identity for node in young} <= drawn


def test_a_new_epoch_is_told_once():
    rig = Rig()
    rig.sample()
    rig.sign()
    rig.wait(2)
    assert len(rig.changes) == 1


# Relays that stay


def test_relays_are_drawn_from_those_that_have_been_there_for_long():
    rig = Rig(take=False)
    young, grown = ({number for number in range(first, first + 300)} for first in (1000, 2000))
    since = stable_since(epoch_of(rig.now) + 1)
    for number in (*young, *grown):
        rig.made.put(signed(number), since=since + (number in young))
    header = rig.sign()
    assert header.ring(RingKind.STABLE).count == 900 and header.ring(RingKind.RELAYS).count == 1200
    drawn = {
        node.identity for _ in range(20) for kind in (Class.RELAYS, Class.DIALLED) for node in rig.sample(128, kind)
    }
    assert drawn & {signed(number).identity for number in grown}
    assert not drawn & {signed(number).identity for number in young}
    assert {kind for kind, *_ in rig.asked} == {RingKind.STABLE} and len(rig.asked) == 3


@pytest.mark.parametrize("stable", [ENOUGH - 1, ENOUGH])
def test_where_few_are_stable_all_relays_are_drawn_from(stable):
    rig = Rig(NODES[:stable], take=False)
    for number in range(1000, 1300):
        rig.made.put(signed(number), since=int(rig.now))
    rig.sign()
    rig.sample()
    rig.sample(kind=Class.DIALLED)
    kinds = {kind for kind, *_ in rig.asked}
    assert kinds == ({RingKind.STABLE} if stable == ENOUGH else {RingKind.RELAYS, RingKind.DIALLED})


def test_where_few_of_the_stable_ones_have_an_address_others_are_asked_for():
    browsers = [signed(number, dialled=False) for number in range(1000, 1100)]
    rig = Rig([*browsers, *NODES[: ENOUGH_SAMPLED - 1]], take=False)
    rig.made.put(NODES[100], since=int(rig.now))
    rig.sign()
    assert {node.identity for node in rig.sample(128, Class.DIALLED)} == {
        node.identity for node in (*NODES[: ENOUGH_SAMPLED - 1], NODES[100])
    }


def test_what_samples_are_drawn_from_is_fetched_anew_after_hours_and_at_midnight():
    """And then only what is new: see test_buckets."""
    rig = Rig()
    first = rig.sample(128)
    for node in first[:5]:
        rig.made.epochs.drop(node.identity)
    gone = {node.identity for node in first[:5]}
    for _ in range(HELD - 1):
        rig.sign()
        rig.sample()
    assert len(rig.asked) == FROM
    rig.sign()
    assert not gone & {node.identity for _ in range(20) for node in rig.sample(128)}
    assert len(rig.asked) == 2 * FROM
    rig.sign(SharedValue(b"w" * 32, VALUE.fixed), VALUE)
    assert len(rig.sample(128)) == 128 and len(rig.asked) == 3 * FROM


def test_what_runs_out_sooner_is_fetched_anew_sooner():
    """In every other epoch at most, whatever the facilitator says."""
    rig = Rig(take=False)
    rig.made = Made()
    for number in range(1000, 1100):
        rig.made.put(signed(number, lifetime=1800))
    rig.sign()
    assert len(rig.sample()) == 10 and len(rig.asked) == 1
    rig.made.now = NOW + 1799 - EPOCH
    rig.sign()
    rig.sample()
    assert len(rig.asked) == 1
    for asked in (2, 2, 3):
        rig.sign()
        for _ in range(3):
            assert rig.sample() == [] and len(rig.asked) == asked
    for number in range(1000, 1100):
        rig.made.put(signed(number, published=rig.now))
    rig.sign()
    rig.sign()
    assert len(rig.sample()) == 10 and len(rig.asked) == 4


def test_a_few_that_run_out_sooner_have_nothing_fetched_anew():
    rig = Rig([signed(number, lifetime=3600 if number < 20 else 30 * 3600) for number in range(100)])
    rig.sample()
    asked = len(rig.asked)
    for _ in range(8):
        rig.sign()
    assert len(rig.sample(100)) == 80 and len(rig.asked) == asked


def test_while_nobody_answers_what_is_here_serves_on():
    rig = Rig()
    rig.sample()
    rig.down = True
    for _ in range(HELD + 2):
        rig.sign()
    asked = len(rig.asked)
    for _ in range(3):
        assert len(rig.sample(128)) == 128
    assert len(rig.asked) == asked + FROM * ATTEMPTS, "they are asked once an epoch"


def another_day(rig):
    return rig.sign(SharedValue(b"w" * 32, VALUE.fixed), VALUE)


def a_larger_ring(rig):
    for number in range(1000, 1500):
        rig.made.put(signed(number))
    return rig.sign()


@pytest.mark.parametrize("changes", [another_day, a_larger_ring])
def test_where_no_bucket_of_a_new_order_can_be_had_those_of_before_serve_on(changes):
    """The facilitator signs the first header of a day, and is gone: neighbours pass the header on."""
    rig = Rig()
    before = {node.identity for _ in range(20) for node in rig.sample(128)}
    rig.wait(PAUSE)
    again = Rig(made=rig.made, store=rig.store, seed="another run")
    again.view.restore(again.now)
    again.serve()
    for node in NODES:  # others have it extend circuits to whom they choose: these buckets are not drawn from
        rig.ask("get", node.identity)
    header = changes(rig)
    again.headers.take(header.encode(), again.now)
    for node in (rig, again):
        node.closest()  # other buckets come
        node.down = True
        assert {found.identity for _ in range(20) for found in node.sample(128)} == before
        node.down = False
        assert {found.identity for _ in range(20) for found in node.sample(128)} != before


def test_who_told_neighbours_less_than_the_facilitator_is_there_for_as_long_as_that_holds():
    rig = Rig([signed(number, lifetime=6 * 3600) for number in range(100)])
    told = signed(5, published=rig.now, lifetime=900)
    assert rig.directory.hear(told.encode(), rig.now)
    assert told in rig.sample(128)
    rig.made.now += 900
    assert rig.ask("get", told.identity)[0].expires > rig.now and told not in rig.sample(128)
    assert told.identity in {node.identity for node in rig.sample(128)}


def test_a_descriptor_that_its_node_did_not_sign_is_not_used():
    """The facilitator must not give a node other keys than its own."""
    false = replace(NODES[0], ntor_key=b"x" * 32)
    rig = Rig([false, *NODES[1:10]])
    assert len(rig.sample(100)) == 9
    assert rig.ask("get", false.identity) == [None]
    assert all(false.identity != node.identity for node in rig.closest(count=100)[0])
    assert rig.directory.get(false.identity) is None


def test_servers_whose_descriptors_ran_out_count_while_the_facilitator_is_gone():
    brief = [signed(number, lifetime=5000) for number in range(20)]
    rig = Rig([*brief, *NODES[20:23]])
    points = rig.closest()
    rig.made.now += SILENT - 1
    assert {node.identity for node in rig.sample(100)} == {node.identity for node in NODES[20:23]}
    rig.made.now += 1
    assert len(rig.sample(100)) == 23, "whoever tells news has no say in the choice"
    assert rig.closest() == points
    rig.made.now += HINT_LIFETIME
    assert {node.identity for node in rig.sample(100)} == {node.identity for node in NODES[20:23]}


def test_news_of_a_node_counts_more_than_its_bucket():
    rig = Rig([signed(number, lifetime=5000) for number in range(20)])
    rig.made.now += SILENT - 1
    renewed, paused = signed(1, published=rig.made.now), signed(2, published=rig.made.now, roles=Role(0))
    for node in (renewed, paused):
        rig.directory.learn(node, rig.made.now)
    assert rig.sample(100) == [renewed]
    rig.made.now += 1
    found = {node.identity for node in rig.sample(100)}
    assert len(found) == 19 and paused.identity not in found


def test_what_is_drawn_can_be_found_by_others():
    rig = Rig()
    for node in rig.sample(50):
        assert rig.directory.get(node.identity, rig.now) == node


# Rings


@pytest.mark.parametrize("count", [3, 12, 128, 1000])
def test_the_points_of_a_name_are_the_next_ones_whatever_buckets_they_are_in(count):
    rig = Rig()
    for number in range(20):
        name = bytes([number]) * 32
        [found] = rig.closest(name, count)
        assert [node.identity for node in found] == [
            node.identity for node in ring_of(NODES, VALUE.value, name)[:count]
        ][: len(found)]
        assert len(found) == min(count, 600)


def test_the_neighbours_of_a_point_are_those_behind_its_own_place():
    rig = Rig()
    got = []
    identity = NODES[5].identity
    rig.view.closest(Class.POINTS, identity, 4, rig.now, lambda rings, now: got.append(rings), place=place_of)
    start = int.from_bytes(place_of(VALUE.value, identity), "big")
    behind = sorted(
        NODES, key=lambda node: (int.from_bytes(place_of(VALUE.value, node.identity), "big") - start) % (1 << 256)
    )
    assert got == [[behind[:4]]] and behind[0] == NODES[5]


def test_points_are_asked_for_under_the_name_alone():
    rig = Rig()
    rig.closest(b"a" * 32)
    rig.closest(b"b" * 32)
    assert {key for *_, key in rig.asked} <= {b"a" * 32, b"b" * 32} and rig.asked
    assert {kind for kind, *_ in rig.asked} == {RingKind.POINTS}


def test_around_midnight_the_points_of_both_values_count():
    rig = Rig(take=False)
    rig.made.now = float(NOW // DAY * DAY) - EPOCH  # the next epoch begins at midnight
    rig.sign()
    now, before = rig.closest()
    assert [node.identity for node in before] == [node.identity for node in ring_of(NODES, BEFORE.value, b"n" * 32)[:3]]
    assert [node.identity for node in now] == [node.identity for node in ring_of(NODES, VALUE.value, b"n" * 32)[:3]]
    rig.made.now += OVERLAP
    rig.sign()
    assert len(rig.closest()) == 1


def test_two_nodes_one_epoch_apart_meet_at_the_same_points():
    """Also over the midnight at which the value changes, and though nodes came and went."""
    one, names = Rig(take=False), [bytes([number]) * 32 for number in range(30)]
    one.made.now = float(NOW // DAY * DAY) + DAY - 2 * EPOCH
    other = Rig(made=one.made, seed="other")
    one.sign()
    other.headers.take(one.made.epochs.header.encode(), one.now)
    for number in range(30):
        one.made.epochs.drop(NODES[number].identity)
    later = SharedValue(b"w" * 32, VALUE.fixed + DAY)
    one.sign(later, VALUE)  # at midnight
    assert one.now % DAY == 0 and one.headers.newest.epoch == other.headers.newest.epoch + 1
    for name in names:
        first = {node.identity for ring in one.closest(name) for node in ring}
        second = {node.identity for ring in other.closest(name) for node in ring}
        assert first & second


def test_half_a_ring_is_no_answer():
    rig = Rig()
    rig.down = True
    assert rig.ask("closest", Class.POINTS, b"n" * 32, 3) == []
    rig.down = False
    assert len(rig.closest()[0]) == 3


def test_points_that_are_here_are_given_though_nobody_answers_any_more():
    rig = Rig()
    first = rig.closest()
    rig.down = True
    rig.sign()
    rig.sign()
    assert rig.closest() == first


# Nodes by name


def test_a_node_is_found_by_its_identity():
    rig, young = Rig(take=False), signed(1000)
    rig.made.put(young, since=int(rig.now))
    rig.sign()
    assert rig.ask("get", NODES[5].identity) == [NODES[5]]
    assert [kind for kind, *_ in rig.asked] == [RingKind.STABLE]
    assert rig.ask("get", NODES[5].identity) == [NODES[5]] and len(rig.asked) == 1
    assert rig.ask("get", young.identity) == [young] and rig.asked[-1][0] == RingKind.ALL
    assert rig.ask("get", bytes(32)) == [None] and {key for *_, key in rig.asked} == {None}


def moved(rig, number):
    """The node has another address, and another key, from the next epoch on."""
    rig.made.now += EPOCH
    node = signed(number, published=rig.now, roles=ROLES | Role.EXIT)
    rig.made.put(node)
    rig.sign()
    return node


def test_of_two_buckets_that_a_node_is_in_the_newer_one_tells_where_it_is():
    rig = Rig()
    drawn = rig.sample(1)
    kept = next(member.node for bucket in rig.buckets for member in bucket.members if member.node not in drawn)
    now = moved(rig, NODES.index(kept))
    rig.view.hold(now.identity, Role.RDV, rig.now)
    assert rig.ask("get", now.identity) == [now]


def test_a_node_that_is_not_where_it_was_is_looked_for_anew():
    """Buckets of stable relays serve for hours, and so does what was learnt from them."""
    rig = Rig()
    was = NODES[5]
    assert rig.ask("get", was.identity) == [was]
    now = moved(rig, 5)
    rig.sign()
    asked = len(rig.asked)
    assert rig.ask("get", was.identity) == [was] and len(rig.asked) == asked
    rig.view.unreached(was.identity)
    rig.view.get(was.identity, rig.now, lambda node, now: None, quietly=True)
    assert len(rig.asked) == asked
    assert rig.ask("get", was.identity) == [now] == rig.ask("get", was.identity)
    assert len(rig.asked) == asked + 1
    for _ in range(3):  # who names nodes that are gone has us ask once
        rig.view.unreached(was.identity)
        assert rig.ask("get", was.identity) == [now]
    assert len(rig.asked) == asked + 1


def test_a_node_whose_descriptor_in_an_old_bucket_ran_out_is_looked_for():
    """It restarted, and said for two hours what holds for one only; buckets that nobody draws from grow old."""
    rig = Rig(take=False)
    brief = signed(1000, lifetime=2 * 3600)
    rig.made.put(brief)
    rig.sign()
    assert rig.ask("get", brief.identity) == [brief]
    rig.view.hold(brief.identity, Role.RDV, rig.now)
    rig.made.now = brief.expires - EPOCH
    again = signed(1000, published=rig.now, lifetime=2 * 3600)
    rig.made.put(again)
    rig.sign()
    assert rig.ask("get", brief.identity) == [again]
    rig.made.now = again.expires - EPOCH
    rig.sign()
    assert rig.ask("get", brief.identity) == [None], "it is listed no longer with a descriptor that holds"
    assert {kind for kind, *_ in rig.asked[-2:]} == {RingKind.STABLE, RingKind.ALL}


def test_a_node_that_is_nowhere_any_more_counts_as_it_is_known():
    """The facilitator may have lost it: whoever wants it may try again."""
    rig = Rig()
    assert rig.ask("get", NODES[5].identity) == [NODES[5]]
    rig.made.epochs.drop(NODES[5].identity)
    rig.sign()
    rig.sign()
    rig.view.unreached(NODES[5].identity)
    assert rig.ask("get", NODES[5].identity) == [NODES[5]]


def test_few_nodes_are_remembered_that_were_not_reached(monkeypatch):
    monkeypatch.setattr("convergence.netdir.bucketview.MAX_UNREACHED", 3)
    rig = Rig()
    for number in range(10):
        rig.view.unreached(bytes([number]))
    assert list(rig.view._unreached) == [bytes([number]) for number in (7, 8, 9)]


def test_where_few_are_stable_a_node_is_looked_for_among_all():
    rig = Rig(NODES[: ENOUGH - 1])
    assert rig.ask("get", NODES[5].identity) == [NODES[5]] and [kind for kind, *_ in rig.asked] == [RingKind.ALL]


def test_nobody_is_asked_for_a_node_that_a_point_named():
    """The point chose it. With a friend, a neighbour or the facilitator, it would see whose question follows."""
    rig, found = Rig(), []
    for _ in range(2):
        look_up_shown(rig.view, rig.directory, NODES[5].encode(), rig.now, lambda node, now: found.append(node))
        assert rig.asked == [] or len(found) == 2
        rig.ask("get", NODES[5].identity)
    assert found == [None, NODES[5].target], "it is known once it is here for another reason"
    assert len(rig.asked) == 1


def test_a_point_has_the_buckets_that_it_is_in():
    rig = Rig()
    rig.view.hold(NODES[5].identity, Role.RDV, rig.now)
    assert rig.asked and {key for *_, key in rig.asked} == {None}
    held = {kept.bucket.kind: kept.members for kept in rig.buckets}
    for kind in (RingKind.POINTS, RingKind.POINTS_BEFORE):
        assert NODES[5].identity in {member.node.identity for member in held[kind]}
    asked = len(rig.asked)
    rig.view.hold(NODES[5].identity, Role.RDV, rig.now)
    assert len(rig.asked) == asked
    small = Rig(take=False)
    small.view.hold(NODES[5].identity, ROLES, small.now)
    assert small.asked == []


def test_a_relay_knows_some_relays_and_finds_them_in_whatever_bucket_is_here():
    rig = Rig()
    rig.view.hold(NODES[5].identity, Role.RELAY, rig.now)
    asked = len(rig.asked)
    assert asked == FROM
    known = [member.node for kept in rig.buckets for member in kept.members]
    for node in known:
        assert rig.ask("get", node.identity) == [node]
    assert len(rig.asked) == asked


def test_a_node_looks_for_itself_where_others_look_and_not_openly():
    rig = Rig()
    assert rig.ask("lists", NODES[5].identity) == [True] and rig.ask("lists", bytes(32)) == [False]
    assert {key for *_, key in rig.asked} == {"ourselves"}
    rig.down = True
    rig.sign()
    rig.sign(SharedValue(b"w" * 32, VALUE.fixed), VALUE)
    assert rig.ask("lists", NODES[5].identity) == []
    assert Rig(take=False).ask("lists", NODES[5].identity) == []


@pytest.mark.parametrize(
    "kind",
    [RingKind.RELAYS, RingKind.DIALLED, RingKind.STABLE, RingKind.POINTS, RingKind.POINTS_BEFORE],
)
def test_a_node_that_is_left_out_of_one_ring_only_finds_out(kind):
    """Not at the first look: another ring is looked at each time."""
    rig = Rig()
    node = NODES[5]
    assert {answer for _ in range(30) for answer in rig.ask("lists", node.identity)} == {True}
    nodes = rig.made.epochs.nodes
    was = nodes[node.identity]
    nodes.put(was._replace(classes=was.classes & ~(1 << kind)))
    rig.sign()
    rig.sign()
    assert {answer for _ in range(30) for answer in rig.ask("lists", node.identity)} == {True, False}


def test_a_node_that_has_no_room_in_a_full_bucket_does_not_call_the_facilitator_a_liar(monkeypatch):
    """Somebody made keys for its bucket, and the oldest stay."""
    monkeypatch.setattr("convergence.netdir.epochs.MAX_IN_BUCKET", 20)
    monkeypatch.setattr("convergence.netdir.bucketview.MAX_IN_BUCKET", 20)
    rig = Rig(take=False)
    young = signed(1000)
    rig.made.put(young, since=int(NOW))
    rig.sign()
    assert rig.ask("lists", young.identity) == []


def test_a_node_that_is_too_young_for_a_point_is_not_left_out():
    rig = Rig(take=False)
    young = signed(1000)
    rig.made.put(young, since=int(NOW))
    rig.sign()
    assert {answer for _ in range(30) for answer in rig.ask("lists", young.identity)} == {True}


# The next run


def test_a_later_run_draws_from_the_same_buckets_and_needs_nobody_for_it():
    rig = Rig()
    seen = {node.identity for _ in range(50) for node in rig.sample(128)}
    rig.closest()
    rig.wait(PAUSE)
    assert ("buckets", b"network") in rig.store
    again = Rig(made=rig.made, store=rig.store, seed="another run")
    again.down = True
    again.view.restore(again.now)
    again.serve()
    again.wait(2)
    assert again.changes and again.view.count(Class.RELAYS, again.now) == 600
    assert {node.identity for _ in range(50) for node in again.sample(128)} == seen and not again.asked
    assert b"n" * 32 not in rig.store["buckets", b"network"]
    assert again.ask("closest", Class.POINTS, b"n" * 32, 3) == []  # what is shared here is not stored


def test_positions_stay_when_nodes_move_over_night():
    rig = Rig()
    rig.sample()
    rig.wait(PAUSE)
    again = Rig(made=rig.made, store=rig.store, seed="another run")
    again.view.restore(again.now)
    again.serve()
    for node in (rig, again):
        node.asked.clear()
    rig.sign(SharedValue(b"w" * 32, VALUE.fixed), VALUE)
    again.headers.take(rig.made.epochs.header.encode(), again.now)
    for node in (rig, again):
        node.sample()
    assert again.asked == rig.asked != []


def test_what_an_earlier_run_fetched_hours_before_it_ended_is_still_of_use():
    rig = Rig()
    rig.sample()
    for _ in range(HELD - 2):
        rig.sign()
    rig.wait(PAUSE)
    again = Rig(made=rig.made, store=rig.store, seed="another run")
    again.view.restore(again.now)
    again.serve()
    rig.sign()
    again.headers.take(rig.made.epochs.header.encode(), again.now)
    assert len(again.sample(128)) == 128 and not again.asked


def test_who_was_off_for_a_day_draws_from_servers_of_then_until_there_is_news():
    """Whatever its clock says meanwhile."""
    tabs = [signed(number, dialled=False, lifetime=6 * 3600) for number in range(1000, 1050)]
    rig = Rig([*(signed(number, lifetime=6 * 3600) for number in range(300)), *tabs])
    rig.sample()
    rig.wait(PAUSE)
    again = Rig(made=rig.made, store=rig.store, seed="another run")
    again.down = True
    again.made.now += DAY
    again.view.restore(again.now)
    again.serve()
    for step in (0, -3600, 7200):
        again.made.now += step
        found = again.sample(128)
        assert len(found) == 128 and all(node.ws_url for node in found)
    again.down = False
    for number in range(2000, 2100):
        rig.made.put(signed(number, published=rig.now))
    rig.sign(SharedValue(b"w" * 32, VALUE.fixed + DAY), VALUE)
    again.headers.take(rig.made.epochs.header.encode(), again.now)
    assert {node.published > NOW for node in again.sample(128)} == {True}


@pytest.mark.parametrize("value", [b"", b"junk", bytes(6), b"\0\1\0\0\0\1x\0\0\0\0"])
def test_what_cannot_be_read_of_an_earlier_run_is_left(value):
    rig = Rig(store={("buckets", b"network"): value}, take=False)
    rig.view.restore(rig.now)
    rig.serve()
    assert not rig.view.large
    rig.sign()
    assert len(rig.sample()) == 10


def test_what_another_facilitator_signed_is_not_taken_over():
    rig = Rig()
    rig.sample()
    rig.wait(PAUSE)
    other = Rig(made=rig.made, store=rig.store)
    other.directory._facilitator = b"o" * 32
    other.view.restore(other.now)
    other.serve()
    assert not other.view.large and sum(1 for _ in other.buckets) == 0


def test_nothing_is_written_more_often_than_it_may(monkeypatch):
    rig = Rig()
    writes = []
    monkeypatch.setattr(rig.outbox, "store", lambda items, reply=None: writes.append(rig.now))
    for _ in range(300):
        rig.view._changed(rig.now)
        rig.wait(1)
    assert 3 <= len(writes) <= 6
