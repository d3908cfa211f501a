"""Budgets and replays: limits hold in every window of a minute, whatever the order of events, and memory is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.introduction import guard
from convergence.introduction.guard import MINUTE, Budget, Once


def test_a_budget_is_per_key():
    budget = Budget(2)
    assert [budget.spend("a", 0.0) for _ in range(3)] == [True, True, False]
    assert budget.spend("b", 0.0)


def test_each_event_comes_back_after_a_minute():
    budget = Budget(2)
    assert budget.spend("a", 0.0) and budget.spend("a", 40.0)
    assert not budget.spend("a", 59.9)
    assert budget.spend("a", MINUTE)
    assert not budget.spend("a", 99.0)
    assert budget.spend("a", 100.0)


def test_asking_costs_nothing():
    budget = Budget(1)
    assert all(budget.allows("a", 0.0) for _ in range(5))
    assert budget.spend("a", 0.0) and not budget.allows("a", 0.0)


def test_what_is_refused_is_not_counted():
    budget = Budget(1)
    assert budget.spend("a", 0.0)
    assert not any(budget.spend("a", float(second)) for second in range(1, 60))
    assert budget.spend("a", MINUTE)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60), st.integers(1, 5))
def test_no_minute_holds_more_than_the_limit(events, limit):
    budget = Budget(limit)
    now, granted = 0.0, []
    for key, pause in events:
        now += pause
        if budget.spend(key, now):
            granted.append((key, now))
        assert sum(other == key and now - at < MINUTE for other, at in granted) <= limit


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60), st.integers(1, 5))
def test_nothing_within_the_limit_is_refused(events, limit):
    budget = Budget(limit)
    now, granted = 0.0, []
    for key, pause in events:
        now += pause
        used = sum(other == key and now - at < MINUTE for other, at in granted)
        assert budget.spend(key, now) == (used < limit)
        if used < limit:
            granted.append((key, now))


def test_the_keys_of_a_budget_are_bounded_and_leave_after_a_minute(monkeypatch):
    monkeypatch.setattr(guard, "MAX_KEYS", 3)
    budget = Budget(2)
    assert all(budget.spend(key, 0.0) for key in "abc")
    assert not budget.spend("d", 30.0)
    assert budget.spend("a", 30.0), "a key that is counted goes on"
    assert budget.spend("d", MINUTE)


def test_a_key_is_first_once():
    once = Once(10.0, 5)
    assert once.first("a", 0.0) and once.first("b", 0.0)
    assert not once.first("a", 0.0) and not once.first("a", 9.9)


def test_looking_does_not_make_it_seen():
    once = Once(10.0, 5)
    assert not once.seen("a", 0.0) and once.first("a", 0.0)
    assert once.seen("a", 10.0) and not once.seen("a", 10.1)


def test_a_key_is_forgotten_after_its_time():
    once = Once(10.0, 5)
    assert once.first("a", 0.0)
    assert not once.first("a", 9.0), "asking again does not change when it came"
    assert not once.first("a", 10.0)
    assert once.first("a", 10.1)


@pytest.mark.parametrize("limit", [1, 3])
def test_what_does_not_fit_is_refused_and_nothing_is_forgotten_early(limit):
    once = Once(10.0, limit)
    assert all(once.first(number, 0.0) for number in range(limit))
    assert not once.first("new", 5.0)
    assert not any(once.first(number, 5.0) for number in range(limit))
    assert once.first("new", 10.1)
