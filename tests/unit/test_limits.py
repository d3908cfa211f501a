"""What strangers may cost: limits hold in every minute, whatever the order of events, and memory is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence import limits
from convergence.limits import (
    MINUTE,
    Once,
    PerMinute,
    SharedPerMinute,
    TokenBucket,
    below_its_part,
    gives_way,
    most_in_parts,
)
from convergence.outbox import Outbox


def test_a_limit_is_per_key():
    counted = PerMinute(Outbox(), 2)
    assert [counted.spend("a", 0.0) for _ in range(3)] == [True, True, False]
    assert counted.spend("b", 0.0)


def test_each_event_comes_back_after_a_minute():
    counted = PerMinute(Outbox(), 2)
    assert counted.spend("a", 0.0) and counted.spend("a", 40.0)
    assert not counted.spend("a", 59.9)
    assert counted.spend("a", MINUTE)
    assert not counted.spend("a", 99.0)
    assert counted.spend("a", 100.0)


def test_asking_costs_nothing():
    counted = PerMinute(Outbox(), 1)
    assert all(counted.allows("a", 0.0) for _ in range(5))
    assert counted.spend("a", 0.0) and not counted.allows("a", 0.0)


def test_what_is_refused_is_not_counted():
    counted = PerMinute(Outbox(), 1)
    assert counted.spend("a", 0.0)
    assert not any(counted.spend("a", float(second)) for second in range(1, 60))
    assert counted.spend("a", MINUTE)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60), st.integers(1, 5))
def test_no_minute_holds_more_than_the_limit_and_nothing_within_it_is_refused(events, limit):
    counted = PerMinute(Outbox(), limit)
    now, granted = 0.0, []
    for key, pause in events:
        now += pause
        used = sum(other == key and now - at < MINUTE for other, at in granted)
        spent = counted.spend(key, now)
        assert spent == (used < limit)
        if spent:
            granted.append((key, now))
        assert sum(other == key and now - at < MINUTE for other, at in granted) <= limit


def test_the_keys_that_are_counted_are_bounded_and_leave_after_a_minute(monkeypatch):
    monkeypatch.setattr(limits, "MAX_KEYS", 3)
    counted = PerMinute(Outbox(), 2)
    assert all(counted.spend(key, 0.0) for key in "abc")
    assert not counted.spend("d", 30.0)
    assert counted.spend("a", 30.0), "a key that is counted goes on"
    assert counted.spend("d", MINUTE)


def test_a_key_is_first_once():
    once = Once(Outbox(), 10.0, 5)
    assert once.first("a", 0.0) and once.first("b", 0.0)
    assert not once.first("a", 0.0) and not once.first("a", 9.9)


def test_looking_does_not_make_it_seen():
    once = Once(Outbox(), 10.0, 5)
    assert not once.seen("a", 0.0) and once.first("a", 0.0)
    assert once.seen("a", 10.0) and not once.seen("a", 10.1)


def test_a_key_is_forgotten_after_its_time():
    once = Once(Outbox(), 10.0, 5)
    assert once.first("a", 0.0)
    assert not once.first("a", 9.0), "asking again does not change when it came"
    assert not once.first("a", 10.0)
    assert once.first("a", 10.1)


@pytest.mark.parametrize("limit", [1, 3])
def test_what_does_not_fit_is_refused_and_nothing_is_forgotten_early(limit):
    once = Once(Outbox(), 10.0, limit)
    assert all(once.first(number, 0.0) for number in range(limit))
    assert not once.first("new", 5.0)
    assert not any(once.first(number, 5.0) for number in range(limit))
    assert once.first("new", 10.1)


def test_a_bucket_gives_a_burst_and_then_a_rate():
    bucket = TokenBucket(Outbox(), 2.0, 3.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(0.5) for _ in range(2)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_debt_of_a_bucket_is_paid_back_by_time():
    bucket = TokenBucket(Outbox(), 2.0, 3.0)
    bucket.refill(0.0)
    bucket.left -= 9
    assert bucket.debt == 3.0
    bucket.refill(1.0)
    assert bucket.debt == 2.0
    assert not bucket.take(3.0)
    assert bucket.take(3.5)


@given(st.floats(-1e6, 1e6), st.floats(0, 59))
def test_a_clock_that_jumps_neither_gives_nor_takes(by, later):
    """Everything was used up before; what comes later comes as it would have come without the jump."""
    outbox = Outbox()
    bucket, minute, once = TokenBucket(outbox, 1.0, 1.0), PerMinute(outbox, 1), Once(outbox, 60.0, 9)
    start = 1e9
    assert bucket.take(start) and minute.spend("a", start) and once.first("a", start)
    outbox.shift(by)
    now = start + by + later
    assert not minute.allows("a", now) and once.seen("a", now)
    assert bucket.take(now) == (outbox.steady(now) - start >= 1.0)
    assert minute.spend("a", start + by + 61.0) and once.first("a", start + by + 61.0)


class Place:
    def __init__(self, source):
        self.source = source


def test_whoever_has_most_gives_its_first_place_away():
    places = [Place(source) for source in "abbbc"]
    assert gives_way(places, "a") is places[1]
    assert gives_way(places, "new") is places[1]
    assert gives_way(places, "b") is None
    assert gives_way([], "a") is None


@given(st.lists(st.sampled_from("abcdef"), max_size=200), st.integers(1, 12))
def test_in_the_end_all_who_want_places_have_their_equal_part(asked, limit):
    places = []
    for source in [*asked, *"abc" * limit]:
        if len(places) == limit:
            crowded = gives_way(places, source)
            if crowded is None:
                continue
            places.remove(crowded)
        places.append(Place(source))
    counts = [sum(place.source == source for place in places) for source in "abc"]
    assert len(places) == limit and min(counts) >= limit // len({*asked, *"abc"})


def test_what_nobody_gives_up_is_for_whoever_has_less_than_an_equal_part():
    assert not below_its_part("aaaa", "a", 4)
    assert below_its_part("aaaa", "b", 4) and not below_its_part("aaaabb", "b", 4)
    assert below_its_part("aaaabb", "c", 4) and not below_its_part("aaaabbc", "c", 4)


def test_a_shared_minute_is_not_used_up_by_one_source():
    shared = SharedPerMinute(Outbox(), 4)
    assert [shared.spend("a", 0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [shared.spend("b", 1.0) for _ in range(3)] == [True] * 2 + [False]
    assert not shared.allows("a", MINUTE - 0.1)
    assert shared.allows("a", MINUTE)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), max_size=300), st.integers(1, 9))
def test_a_shared_minute_is_bounded_however_many_sources_come(events, limit):
    shared, now, spent = SharedPerMinute(Outbox(), limit), 0.0, []
    for source, pause in events:
        now += pause
        if shared.spend(source, now):
            spent.append(now)
        assert sum(now - when < MINUTE for when in spent) <= most_in_parts(limit)


def test_a_shared_minute_stands_a_clock_that_jumps():
    outbox = Outbox()
    shared = SharedPerMinute(outbox, 1)
    assert shared.spend("a", 0.0)
    outbox.shift(1e6)
    assert not shared.allows("a", 1e6 + 59) and shared.allows("a", 1e6 + MINUTE)
