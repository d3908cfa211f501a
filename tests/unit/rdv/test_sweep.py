"""How a node with very many names looks for their points in a network that is known in parts: each bucket once for all
names in it, and what relays in these buckets can make of the moments."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from convergence.netdir import buckets
from convergence.netdir.bucketview import OVERLAP
from convergence.netdir.headers import EPOCH
from convergence.netdir.view import Class, place_of, place_of_name
from convergence.rdv.guests import FILES
from convergence.rdv.keys import Subject
from convergence.rdv.ring import POINTS
from convergence.rdv.service import LOOKS, RdvService
from convergence.rdv.sweep import EVERY_NAME, LATEST, SOONEST, WITHIN
from convergence.wire.buckets import DAY, SharedValue
from tests.sim.crowd import small_buckets
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.buckets import BEFORE, CRYPTO, NOW, VALUE, Made
from tests.unit.netdir.test_bucketview import NODES, Rig

NAMES = [number.to_bytes(32, "big") for number in range(1000)]
NEXT = SharedValue(b"w" * 32, VALUE.fixed + DAY)


class Circuits:
    """Every point answers at once; which adverts it is given is not looked at."""

    def rdv_circuit(self, point: Any, name: bytes, provider: bool, ready: Any, failed: Any, now: float) -> None:
        ready(SimpleNamespace(binding=bytes(20), send_message=lambda *_: None, destroy=lambda *_: None), now)


class Owner:
    """A node with many names, in a network of 600 points in 64 buckets or so.

    Attributes:
        looks: (when, ring, bucket) of each that relays were asked for.
    """

    def __init__(self, names: list[bytes], *, group: bool = True, made: Any = None, seed: str = "owner") -> None:
        self.rig = Rig(made=made, seed=seed)
        if made is not None:
            self.rig.headers.take(made.epochs.header.encode(), made.now)
        self.looks: list[tuple[float, int, int]] = []
        fetch = self.rig.buckets._fetch

        def noted(request: Any, key: Any, *rest: Any) -> None:
            if key is not None:
                self.looks.append((self.now, request.kind, request.index))
            fetch(request, key, *rest)

        self.rig.buckets._fetch = noted
        outbox, rng = self.rig.outbox, SeededRng(seed)
        self.service = RdvService(Circuits(), self.rig.view, outbox, CRYPTO, rng, FILES, group=group)
        self.now = self.rig.now
        self.service.set_points(Class.POINTS, self.now)
        for name in names:
            self.service.offer(Subject.public(name), lambda pipe: None, self.now)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.rig.outbox.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.rig.outbox.run_timers(self.now)
            self.rig.outbox.poll(self.now)
        self.now = end

    def hear(self) -> None:
        """Of a new header."""
        self.rig.headers.take(self.rig.made.epochs.header.encode(), self.now)
        self.service.set_points(Class.POINTS, self.now)

    def at(self, name: bytes) -> set[bytes]:
        """The points where a name is advertised."""
        return {point for point, post in self.service._offers[name].posts.items() if post.advertised}


@pytest.fixture(autouse=True)
def many_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    small_buckets(monkeypatch)


def points_in(value: bytes, name: bytes) -> set[bytes]:
    ring = sorted((place_of(value, node.identity), node.identity) for node in NODES)
    first = bisect_left(ring, (place_of_name(value, name), b""))
    return {identity for _, identity in (ring + ring)[first : first + POINTS]}


def live(seconds: float, *owners: Owner, values: tuple[SharedValue, ...] = ()) -> None:
    """With a new header in each epoch."""
    for _ in range(int(seconds // EPOCH)):
        for owner in owners:
            owner.wait(EPOCH)
        owners[0].rig.sign(*values, take=False)
        for owner in owners:
            owner.hear()


def buckets_of(owner: Owner, since: float = 0.0) -> Counter[tuple[int, int]]:
    """How often each was looked up."""
    return Counter((ring, index) for when, ring, index in owner.looks if when >= since)


def test_a_thousand_names_are_found_with_one_look_up_of_each_bucket() -> None:
    owner = Owner(NAMES)
    owner.wait(len(NAMES) / LOOKS + 60)
    assert all(owner.at(name) == points_in(VALUE.value, name) for name in NAMES)
    assert 64 <= sum(buckets_of(owner).values()) == len(buckets_of(owner)) <= 66


def test_where_few_buckets_can_be_kept_names_that_stand_together_are_looked_for_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buckets, "MAX_BYTES", 40_000)
    owner = Owner(NAMES[:500])
    owner.wait(500 / LOOKS + 60)
    assert sum(1 for _ in owner.rig.buckets) < 30
    assert sum(buckets_of(owner).values()) < 3 * 64, "with their neighbours, since buckets are so small here"


def test_then_each_bucket_is_looked_up_a_few_times_a_day_and_at_all_hours() -> None:
    """One by one it would be each name in every second epoch."""
    owner, hours = Owner(NAMES), 5
    owner.wait(len(NAMES) / LOOKS + 60)
    since, one_by_one = owner.now, len(NAMES) * hours * 3600 / (2 * EPOCH)
    live(hours * 3600, owner)
    looks = buckets_of(owner, since)
    assert set(looks) == set(buckets_of(owner)), "none is forgotten"
    assert sum(looks.values()) < 0.03 * one_by_one
    by_hour = Counter(int(when - since) // 3600 for when, *_ in owner.looks if when >= since + LATEST / 2)
    assert max(by_hour.values()) < sum(by_hour.values()) / 2


def test_a_node_with_few_names_looks_as_often_as_buckets_change() -> None:
    owner = Owner(NAMES[:1])
    live(6 * 3600, owner)
    times = [when for when, *_ in owner.looks]
    assert max(after - before for before, after in pairwise(times)) <= 1.5 * SOONEST + WITHIN + 2 * EPOCH


def test_after_a_midnight_all_names_stand_at_the_new_points_while_the_old_ones_count() -> None:
    made, names = Made(), NAMES[:100]
    for node in NODES:
        made.put(node)
    made.now = float(NOW // DAY * DAY) + DAY - 3 * EPOCH
    made.sign(VALUE, BEFORE)
    owner = Owner(names, made=made)
    live(EPOCH, owner, values=(VALUE, BEFORE))
    since = owner.now
    live(OVERLAP, owner, values=(NEXT, VALUE))
    assert owner.now % DAY < OVERLAP
    for name in names:
        assert owner.at(name) >= points_in(NEXT.value, name) | points_in(VALUE.value, name)
    begun = Counter(int(when - since - EPOCH) // 300 for when, *_ in owner.looks if when >= since)
    assert max(begun.values()) < sum(begun.values()) / 2, "not all at one time"
    live(1.5 * EVERY_NAME * len(names) + WITHIN + EPOCH, owner, values=(NEXT, VALUE))
    assert all(owner.at(name) == points_in(NEXT.value, name) for name in names)


def test_relays_in_all_buckets_cannot_tell_by_moments_and_order_which_look_ups_are_of_one_owner() -> None:
    """They work together, and see when each bucket is looked up, but not by whom: each look-up has a circuit of its
    own. They guess that what comes next belongs to what came before, unless the buckets are neighbours: there one name
    may need both."""
    one = Owner(NAMES[:40], group=False)
    other = Owner(NAMES[40:80], group=False, made=one.rig.made, seed="other")
    live(3 * 3600, one, other)
    settled = one.now - 2 * 3600
    seen = sorted((when, index, owner) for owner in (0, 1) for when, _, index in (one, other)[owner].looks)
    pairs = [
        (index, after, owner == next_owner)
        for (when, index, owner), (_, after, next_owner) in pairwise(seen)
        if when >= settled and min((index - after) % 64, (after - index) % 64) > 3
    ]
    assert len(pairs) > 100
    assert 0.4 < sum(right for *_, right in pairs) / len(pairs) < 0.6, "no better than by lot"
    assert 0.4 < sum(after > index for index, after, _ in pairs) / len(pairs) < 0.6, "nor in the order of the ring"


def test_names_of_an_owner_who_lets_nothing_be_shared_are_not_looked_for_in_one_go() -> None:
    owner = Owner(NAMES[:100], group=False)
    owner.wait(20)
    assert 2 <= len(owner.looks) < 40
    owner.wait(600)
    assert all(name in owner.service._offers and len(owner.service._offers[name].ring) for name in NAMES[:100])


def test_who_slept_over_a_midnight_looks_for_all_names_at_once() -> None:
    owner = Owner(NAMES[:100])
    owner.wait(60)
    owner.rig.made.now += DAY
    owner.now = owner.rig.made.now
    owner.rig.sign(NEXT, VALUE, take=False)
    owner.hear()
    owner.wait(100 / LOOKS + 60)
    assert all(owner.at(name) == points_in(NEXT.value, name) for name in NAMES[:100])


def test_a_node_that_offers_nothing_any_more_does_not_wake_up() -> None:
    owner = Owner(NAMES[:5])
    owner.wait(60)
    for name in NAMES[:5]:
        owner.service.withdraw(name, owner.now)
    looks = len(owner.looks)
    owner.wait(4 * SOONEST)
    assert len(owner.looks) == looks and owner.rig.outbox.deadline() is None
