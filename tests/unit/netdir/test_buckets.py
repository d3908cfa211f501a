"""Buckets that a node fetches: liars, silence, deltas, and what is kept."""

from dataclasses import replace

import pytest

from convergence.errors import RemoteError
from convergence.netdir import buckets as module
from convergence.netdir import epochs
from convergence.netdir.buckets import ATTEMPTS, FETCH_LIMIT, Buckets
from convergence.netdir.headers import Headers
from convergence.outbox import Outbox
from convergence.wire.buckets import Bucket, Entry, RingKind, SharedValue
from convergence.wire.target import Role
from tests.unit.netdir.buckets import CRYPTO, FACILITATOR, VALUE, Made, identity_of, node_of


class Rig:
    """A node's buckets, and what it asks for: `answer` to that, or let `auto` do it."""

    def __init__(self, count=300, auto=True):
        self.made = Made(count)
        self.outbox = Outbox()
        self.headers = Headers(CRYPTO, lambda: FACILITATOR)
        self.bad = []
        self.asked = []  # (request, key, attempt, then)
        self.lies = 0
        self.auto = auto
        self.buckets = Buckets(self.outbox, self.headers, self._fetch, lambda error, now: self.bad.append(error))
        self.sign()

    @property
    def now(self):
        return self.made.now

    def sign(self, *values):
        header = self.made.sign(*values)
        self.headers.take(header.encode(), self.now)
        return header

    def _fetch(self, request, key, attempt, then, now):
        self.asked.append((request, key, attempt, then))
        if self.auto:
            self.answer()

    def answer(self, raw=None):
        """The latest request, with what the facilitator says, or this."""
        request, *_, then = self.asked[-1]
        bucket = self.made.epochs.answer(request)
        self.lies += not then(bucket.encode() if raw is None else raw, self.now)

    def want(self, index=0, key=None, kind=RingKind.ALL):
        got = []
        self.buckets.want(kind, index, key, self.now, lambda members, now: got.append(members))
        return got

    def names(self, got):
        [members] = got
        return {member.node.identity for member in members}

    def wait(self, seconds):
        self.made.now += seconds
        self.outbox.run_timers(self.now)


def test_a_bucket_is_fetched_once_and_then_here():
    rig = Rig()
    all_names = set().union(*(rig.names(rig.want(index)) for index in range(4)))
    assert all_names == {identity_of(number) for number in range(300)}
    assert len(rig.asked) == 4
    assert rig.want(0) == rig.want(0) and len(rig.asked) == 4


def test_who_asks_while_it_is_fetched_waits_for_the_same_answer():
    rig = Rig(auto=False)
    one, other = rig.want(), rig.want()
    assert len(rig.asked) == 1 and one == other == []
    rig.answer()
    assert one == other != [None] and len(one) == 1


def test_what_is_fetched_openly_does_not_wait_for_what_goes_through_a_circuit():
    """Else two nodes that ask each other for the same bucket wait for each other."""
    rig = Rig(auto=False)
    private, again, other = rig.want(key="key"), rig.want(), rig.want(key="other key")
    assert [key for _, key, *_ in rig.asked] == ["key", None]
    rig.answer()
    assert len(again) == 1 and private == other == []
    *_, then = rig.asked[0]
    then(rig.made.bucket(RingKind.ALL, 0).encode(), rig.now)
    assert private == other == again


def test_a_bucket_of_the_epoch_before_does_and_an_older_one_is_fetched_by_what_is_new():
    rig = Rig()
    first = rig.want()
    rig.made.put(node_of(0, version=1))
    rig.sign()
    assert rig.want() == first and len(rig.asked) == 1
    header = rig.sign()
    fresh = rig.want()
    request = rig.asked[-1][0]
    assert (request.epoch, request.have) == (header.epoch, header.epoch - 2)
    assert rig.names(fresh) == rig.names(first)
    kept = rig.buckets.ours(request)
    assert all(isinstance(item, Entry) for item in kept.items) and kept.epoch == header.epoch


def test_a_refresh_fetches_a_bucket_of_the_epoch_before_anew():
    rig = Rig()
    rig.want()
    rig.sign()
    got = []
    for _ in range(2):
        rig.buckets.refresh(RingKind.ALL, 0, rig.now, lambda members, now: got.append(members))
    assert len(rig.asked) == 2 and len(got) == 2
    assert rig.asked[-1][0].have == rig.asked[-1][0].epoch - 1


def test_after_a_new_order_nothing_that_is_here_counts():
    rig = Rig()
    rig.want()
    rig.sign(SharedValue(b"w" * 32, VALUE.fixed), VALUE)
    rig.want()
    assert len(rig.asked) == 2 and rig.asked[-1][0].have == 0


LIES = {
    "nothing": lambda rig, bucket: b"",
    "garbage": lambda rig, bucket: b"garbage",
    "another bucket": lambda rig, bucket: rig.made.bucket(RingKind.ALL, 1).encode(),
    "another ring": lambda rig, bucket: rig.made.bucket(RingKind.RELAYS, 0).encode(),
    "a node left out": lambda rig, bucket: Bucket(*head(bucket), bucket.items[1:]).encode(),
    "a node added": lambda rig, bucket: Bucket(*head(bucket), (*bucket.items, entry("fake"))).encode(),
    "a node twice": lambda rig, bucket: Bucket(*head(bucket), (*bucket.items, bucket.items[0])).encode(),
    "two nodes changed places": lambda rig, bucket: Bucket(
        *head(bucket), (*bucket.items[1::-1], *bucket.items[2:])
    ).encode(),
    "more nodes than a bucket holds": lambda rig, bucket: (
        Bucket(*head(bucket), ()).encode() + 100_000 * bucket.items[0].encode()
    ),
    "another proof": lambda rig, bucket: Bucket(
        *head(bucket)[:3], (bytes(32), *bucket.proof[1:]), bucket.items
    ).encode(),
    "a proof that is too long": lambda rig, bucket: Bucket(
        *head(bucket)[:3], (*bucket.proof, bytes(32)), bucket.items
    ).encode(),
    "references to nothing": lambda rig, bucket: Bucket(*head(bucket), (b"12345678",)).encode(),
    "an epoch that there is not": lambda rig, bucket: Bucket(
        bucket.epoch + 1, bucket.kind, bucket.index, bucket.proof, bucket.items
    ).encode(),
}


def head(bucket):
    return bucket.epoch, bucket.kind, bucket.index, bucket.proof


def entry(name):
    return Entry(node_of(name).encode(), 5)


@pytest.mark.parametrize("lie", LIES)
def test_whoever_sends_something_else_is_not_believed_and_another_one_is_asked(lie):
    rig = Rig(auto=False)
    got = rig.want(key="key")
    rig.answer(LIES[lie](rig, rig.made.bucket(RingKind.ALL, 0)))
    assert got == [] and [attempt for *_, attempt, _ in rig.asked] == [1, 2]
    assert {key for _, key, *_ in rig.asked} == {"key"}
    rig.answer()
    assert len(rig.names(got)) == len(rig.made.bucket(RingKind.ALL, 0).items)
    assert not rig.bad


def test_after_some_sources_that_fail_what_is_here_has_to_do():
    rig = Rig()
    first = rig.want()
    rig.auto = False
    rig.sign()
    rig.sign()
    late, other = rig.want(), rig.want(1)
    for _ in range(ATTEMPTS):
        rig.wait(FETCH_LIMIT)
    assert late == first and other == [None]
    assert len(rig.asked) == 1 + 2 * ATTEMPTS
    rig.answer()  # too late, and harmless
    assert late == first


def test_a_late_answer_of_a_source_that_was_given_up_counts_for_nothing():
    rig = Rig(auto=False)
    got = rig.want()
    *_, first = rig.asked[0]
    rig.wait(FETCH_LIMIT)
    first(rig.made.bucket(RingKind.ALL, 0).encode(), rig.now)
    assert got == []
    rig.answer()
    assert len(got) == 1


def test_what_the_facilitator_must_not_sign_is_told_of_it(monkeypatch):
    monkeypatch.setattr(epochs, "_oldest", lambda inside: inside[::-1])
    rig = Rig()
    assert rig.want() == [None]
    assert len(rig.bad) == ATTEMPTS


def false(monkeypatch, change, **made):
    """What the facilitator says of a bucket in which it signed `change(its nodes)`."""

    def signed(inside):
        return [(node, node.entry.encode()) for node in change([node for node, _ in inside])]

    monkeypatch.setattr(epochs, "_oldest", signed)
    rig = Rig(**made)
    assert rig.want(kind=RingKind.EXITS) == [None] and not rig.lies
    return {str(error) for error in rig.bad}


def test_a_facilitator_that_signs_false_buckets_is_told_of(monkeypatch):
    exits = "a node in the bucket is of another kind than its ring"

    def disguised(members):
        return [
            member._replace(descriptor=node_of(number, Role.RELAY, identity=member.identity).encode(), since=5)
            for number, member in enumerate(members)
        ]

    assert false(monkeypatch, disguised) == {exits}


@pytest.mark.parametrize("change", [lambda members: members[::2], lambda members: [*members, *members]])
def test_a_count_that_is_not_that_of_the_nodes_is_told_of(monkeypatch, change):
    rig = Rig(40)
    header = rig.headers.newest
    ring = header.ring(RingKind.ALL)
    rings = tuple(replace(item, count=len(change([0] * 40))) if item is ring else item for item in header.rings)
    rig.headers.newest = rig.headers._kept[header.epoch] = replace(header, rings=rings)
    assert rig.want() == [None]
    assert {str(error) for error in rig.bad} == {"the bucket has other nodes than were counted"}


def test_only_who_sends_what_was_not_signed_is_called_a_liar():
    """Not who has nothing, comes late, or refers to what is gone."""
    rig = Rig(auto=False)
    rig.want()
    honest = rig.made.bucket(RingKind.ALL, 0)
    *_, first = rig.asked[0]
    assert first(b"", rig.now)
    assert first(b"late", rig.now)
    *_, second = rig.asked[1]
    assert second(LIES["references to nothing"](rig, honest), rig.now)
    *_, third = rig.asked[2]
    assert not third(LIES["a node left out"](rig, honest), rig.now)


def test_nobody_is_called_a_liar_for_two_entries_that_share_a_reference():
    """A node can make them: 2^32 signatures. What is said in full is asked for then."""
    rig = Rig()
    first = rig.names(rig.want())
    rig.sign()
    rig.sign()
    [kept] = rig.buckets
    twin = type("Twin", (Entry,), {"reference": kept.bucket.items[0].reference})
    items = (*kept.bucket.items, twin(node_of("his other one").encode(), 5))
    rig.buckets._kept[RingKind.ALL, 0] = replace(kept, bucket=replace(kept.bucket, items=items))
    assert rig.names(rig.want()) == first
    assert [(request.have > 0, attempt) for request, _, attempt, _ in rig.asked] == [(False, 1), (True, 1), (False, 1)]
    assert not rig.lies and not rig.bad


def test_whoever_lies_of_what_is_new_and_then_of_all_is_a_liar():
    rig = Rig()
    first = rig.names(rig.want())
    rig.auto = False
    rig.sign()
    rig.sign()
    got = rig.want()
    false = LIES["a node left out"](rig, rig.made.bucket(RingKind.ALL, 0))
    for lies in (0, 1):
        assert not got
        rig.answer(false)
        assert rig.lies == lies
    rig.answer()
    assert rig.names(got) == first and [attempt for *_, attempt, _ in rig.asked] == [1, 1, 1, 2]


def test_a_bucket_of_an_hour_ago_is_no_answer():
    """Its header is known, and nodes of it are gone."""
    rig = Rig(auto=False)
    old = rig.made.bucket(RingKind.ALL, 0).encode()
    for _ in range(5):
        rig.sign()
    got = rig.want()
    for _ in range(ATTEMPTS):
        assert not got
        rig.answer(old)
    assert got == [None] and rig.lies == ATTEMPTS


def test_without_header_or_ring_there_is_nothing_to_fetch():
    rig = Rig()
    assert rig.want(kind=99) == [None]
    rig.headers = Headers(CRYPTO, lambda: FACILITATOR)
    rig.buckets = Buckets(rig.outbox, rig.headers, rig._fetch)
    assert rig.want() == [None] and not rig.asked


def test_only_so_many_are_fetched_at_once(monkeypatch):
    monkeypatch.setattr(module, "MAX_FETCHES", 3)
    rig = Rig(auto=False)
    got = [rig.want(index) for index in range(4)]
    assert len(rig.asked) == 3 and got[-1] == [None]


def test_buckets_are_kept_within_a_limit_and_those_in_use_stay(monkeypatch):
    rig = Rig(1000)
    size = len(rig.made.bucket(RingKind.ALL, 0).encode())
    monkeypatch.setattr(module, "MAX_BYTES", 3 * size)
    for index in (0, 1, 2, 0, 3, 0, 4):
        rig.want(index)
    assert len(rig.asked) == 5  # 0 was never fetched again
    assert sum(1 for _ in rig.buckets) <= 3


def test_what_is_here_is_counted_once_however_often_it_is_fetched_and_not_replaced_by_what_is_older():
    rig = Rig()
    rig.want()
    old = rig.made.bucket(RingKind.ALL, 0).encode()
    for _ in range(4):
        rig.sign()
        rig.want()
    [kept] = rig.buckets
    assert rig.buckets._size == kept.size
    with pytest.raises(RemoteError):
        rig.buckets.restore(old)
    assert [*rig.buckets] == [kept]


def test_what_is_kept_is_given_to_others_unless_it_is_older_than_what_they_want():
    rig = Rig()
    rig.want()
    request = rig.asked[0][0]
    assert rig.buckets.ours(request) == rig.made.epochs.answer(request)
    header = rig.sign()
    later = type(request)(header.epoch, RingKind.ALL, 0)
    assert rig.buckets.ours(later) is None and rig.buckets.ours(type(request)(1, RingKind.ALL, 1)) is None
