"""Whose word counts against a relay: its own, and that of more partners than a minority has."""

from itertools import permutations

import pytest

from convergence.outbox import Outbox
from convergence.path.reputation import (
    BACK_OFF_FIRST,
    BACK_OFF_MAX,
    FORGET_AFTER,
    MAX_EXTENSIONS,
    MAX_REMEMBERED,
    MISJUDGED,
    REFUSED_PARTNERS,
    UNREACHED,
    Reputation,
    by_chance,
)


@pytest.fixture
def outbox():
    return Outbox()


@pytest.fixture
def reputation(outbox):
    return Reputation(outbox)


def test_back_off_doubles_up_to_its_limit(reputation):
    for failures in range(1, 40):
        reputation.failed(b"a", 1000.0)
        end = 1000 + min(BACK_OFF_FIRST * 2 ** (failures - 1), BACK_OFF_MAX)
        assert reputation.avoided([], end - 1) == [b"a"] and reputation.avoided([], end) == []


def test_whom_we_got_no_link_to_is_avoided_for_longer(reputation):
    reputation.failed(b"a", 0.0, unreached=True)
    end = BACK_OFF_FIRST * 2 ** (UNREACHED - 1)
    assert reputation.avoided([], end - 1) == [b"a"] and reputation.avoided([], end) == []


def test_avoided_ones_are_sorted_by_when_their_time_is_up(reputation):
    reputation.failed(b"a", 0.0)
    reputation.failed(b"a", 0.0)
    reputation.failed(b"b", 10.0)
    assert reputation.avoided([], 11.0) == [b"b", b"a"]
    assert reputation.avoided([], 10 + BACK_OFF_FIRST) == [b"a"]
    assert reputation.avoided([], 2 * BACK_OFF_FIRST) == []


def test_success_forgives_and_time_forgets(reputation):
    reputation.failed(b"a", 0.0)
    reputation.worked(b"a")
    reputation.worked(b"never failed")
    assert reputation.avoided([], 1.0) == []
    reputation.failed(b"b", 0.0)
    reputation.failed(b"b", FORGET_AFTER + 1)
    assert reputation.avoided([], FORGET_AFTER + BACK_OFF_FIRST) == [b"b"]
    assert reputation.avoided([], FORGET_AFTER + 1 + BACK_OFF_FIRST) == []


@pytest.mark.parametrize("by", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_changes_nothing(outbox, reputation, by):
    start = 1_000_000.0
    reputation.failed(RELAYS[0], start)
    network(reputation, lambda before, after: before != RELAYS[1], start)
    before = reputation.avoided(RELAYS, start + 1), reputation.proven(start + 1)
    outbox.shift(by)
    assert (reputation.avoided(RELAYS, start + 1 + by), reputation.proven(start + 1 + by)) == before
    assert before == (RELAYS[:2], {*RELAYS} - {RELAYS[1]})
    assert reputation.avoided(RELAYS, start + BACK_OFF_FIRST + by) == [RELAYS[1]]


def test_memory_of_failures_is_bounded(reputation):
    for number in range(MAX_REMEMBERED + 10):
        reputation.failed(number.to_bytes(4, "big"), 0.0)
    avoided = reputation.avoided([], 1.0)
    assert len(avoided) == MAX_REMEMBERED
    assert (9).to_bytes(4, "big") not in avoided


# What relays do with each other


RELAYS = [bytes([number]) for number in range(10)]


def network(reputation, stands, now=0.0):
    """Every relay was extended to every other one; stands(before, after) says how it went."""
    for before, after in permutations(RELAYS, 2):
        reputation.extended(before, after, stands(before, after), now)


def test_one_refusal_says_nothing_of_either_end(reputation):
    for _ in range(100):
        reputation.extended(b"a", b"b", False, 0.0)
    reputation.extended(b"a", b"c", True, 0.0)
    reputation.extended(b"c", b"b", True, 0.0)
    assert reputation.avoided([b"a", b"b", b"c"], 1.0) == []


HOSTILE = RELAYS[:4]
REFUSALS = {
    "will not extend": lambda before, after: before in HOSTILE and after not in HOSTILE,
    "will not answer": lambda before, after: after in HOSTILE and before not in HOSTILE,
    "both": lambda before, after: (before in HOSTILE) != (after in HOSTILE),
}


@pytest.mark.parametrize("refuses", REFUSALS.values(), ids=REFUSALS)
def test_relays_that_refuse_all_but_their_own_kind_are_found_and_nobody_else_is(reputation, refuses):
    network(reputation, lambda before, after: not refuses(before, after))
    assert reputation.avoided(RELAYS, 1.0) == HOSTILE


def test_a_relay_that_a_minority_refuses_is_not_avoided_and_one_that_a_majority_refuses_is(reputation):
    target, minority = RELAYS[-1], {*HOSTILE}
    network(reputation, lambda before, after: target not in (before, after) or minority.isdisjoint((before, after)))
    assert reputation.avoided(RELAYS, 1.0) == []
    reputation.extended(target, RELAYS[4], False, 1.0)
    assert reputation.avoided(RELAYS, 1.0) == [target]


def test_only_relays_that_are_known_count(reputation):
    """Otherwise a few hostile ones that come back under other names would be many."""
    network(reputation, lambda before, after: before != RELAYS[0] or after not in RELAYS[1:6])
    assert reputation.avoided(RELAYS, 1.0) == RELAYS[:1]
    assert reputation.avoided(RELAYS[:5] + RELAYS[6:], 1.0) == []
    assert reputation.avoided(RELAYS[1:], 1.0) == []


def test_most_of_a_network_that_is_dead_is_no_fault_of_those_who_cannot_reach_it(reputation):
    alive = RELAYS[:3]
    for before in alive:
        for after in RELAYS:
            if after != before:
                reputation.extended(before, after, after in alive, 0.0)
    assert not {*reputation.avoided(RELAYS, 1.0)} & {*alive}


def test_who_refuses_is_avoided_for_a_time_and_what_it_did_last_counts(reputation):
    network(reputation, lambda before, after: True)
    for number, partner in enumerate(RELAYS[1:6], 1):
        assert reputation.avoided(RELAYS, number) == []
        reputation.extended(RELAYS[0], partner, False, number)
    assert reputation.avoided(RELAYS, 6.0) == RELAYS[:1]
    reputation.extended(RELAYS[0], RELAYS[1], True, 10.0)
    assert reputation.avoided(RELAYS, 11.0) == []
    reputation.extended(RELAYS[0], RELAYS[1], False, 12.0)
    assert reputation.avoided(RELAYS, 13.0) == RELAYS[:1]
    assert reputation.avoided(RELAYS, 13.0 + FORGET_AFTER) == []


def test_a_relay_that_works_with_nobody_is_found_before_anything_is_known_of_others(reputation):
    for partner in RELAYS[1:5]:
        assert reputation.avoided(RELAYS, 1.0) == []
        reputation.extended(RELAYS[0], partner, False, 0.0)
    assert reputation.avoided(RELAYS, 1.0) == RELAYS[:1]


def test_few_failures_are_accidents(reputation):
    few = RELAYS[:3]
    for before, after in permutations(few, 2):
        reputation.extended(before, after, before != few[0], 0.0)
    assert len(few) - 1 < REFUSED_PARTNERS and reputation.avoided(few, 1.0) == []


def test_in_a_large_network_a_share_of_the_partners_is_enough_if_chance_hardly_explains_it():
    """Figures of the hypergeometric distribution; the last one is the limit of a coin that is tossed 7 times."""
    assert by_chance(4, 4, 9) == pytest.approx(1 / 126)
    assert by_chance(5, 9, 9) == 0 and by_chance(4, 9, 9) == 1
    assert by_chance(3, 3, 6) == pytest.approx(1 / 20)
    needed = {others: next(n for n in range(1, 12) if by_chance(n, n, others) < MISJUDGED) for others in (6, 9, 19, 49)}
    assert needed == {6: 4, 9: 4, 19: 6, 49: 6}
    assert by_chance(7, 7, 10**6) == pytest.approx(2**-7, rel=1e-3)


def test_proven_are_those_who_stood_with_more_partners_than_they_failed_with(reputation):
    reputation.extended(b"a", b"b", True, 0.0)
    reputation.extended(b"b", b"c", True, 0.0)
    reputation.extended(b"c", b"d", False, 1.0)
    assert reputation.proven(2.0) == {b"a", b"b"}
    reputation.extended(b"c", b"a", True, 1.0)
    assert reputation.proven(2.0) == {b"a", b"b"}
    reputation.extended(b"c", b"b", True, 1.0)
    assert reputation.proven(2.0) == {b"a", b"b", b"c"}
    assert reputation.proven(FORGET_AFTER + 2) == set()


def test_memory_of_extensions_is_bounded(reputation):
    for number in range(MAX_EXTENSIONS + 1):
        reputation.extended(b"a", number.to_bytes(2, "big"), True, 0.0)
    assert len(reputation.proven(1.0)) == 1 + MAX_EXTENSIONS
    assert bytes(2) not in reputation.proven(1.0)
    assert sum(map(len, reputation._partners.values())) == 2 * MAX_EXTENSIONS
    assert reputation.proven(FORGET_AFTER + 1) == set() and not reputation._partners
