"""Whose word counts against a relay: its own, and that of many who have nothing to do with each other."""

from itertools import permutations

from convergence.path.reputation import (
    BACK_OFF_FIRST,
    BACK_OFF_MAX,
    FORGET_AFTER,
    MAX_EXTENSIONS,
    MAX_REMEMBERED,
    REFUSED_PARTNERS,
    UNREACHED,
    Reputation,
)


def test_back_off_doubles_up_to_its_limit():
    reputation = Reputation()
    for failures in range(1, 40):
        reputation.failed(b"a", 1000.0)
        assert reputation.until(b"a") == 1000 + min(BACK_OFF_FIRST * 2 ** (failures - 1), BACK_OFF_MAX)


def test_whom_we_got_no_link_to_is_avoided_for_longer():
    reputation = Reputation()
    reputation.failed(b"a", 0.0, unreached=True)
    assert reputation.until(b"a") == BACK_OFF_FIRST * 2 ** (UNREACHED - 1)


def test_avoided_ones_are_sorted_by_when_their_time_is_up():
    reputation = Reputation()
    reputation.failed(b"a", 0.0)
    reputation.failed(b"a", 0.0)
    reputation.failed(b"b", 10.0)
    assert reputation.avoided(11.0) == [b"b", b"a"]
    assert reputation.avoided(10 + BACK_OFF_FIRST) == [b"a"]
    assert reputation.avoided(2 * BACK_OFF_FIRST) == []
    assert reputation.until(b"c") == 0


def test_success_forgives_and_time_forgets():
    reputation = Reputation()
    reputation.failed(b"a", 0.0)
    reputation.worked(b"a")
    reputation.worked(b"never failed")
    assert reputation.avoided(1.0) == []
    reputation.failed(b"b", 0.0)
    reputation.failed(b"b", FORGET_AFTER + 1)
    assert reputation.until(b"b") == FORGET_AFTER + 1 + BACK_OFF_FIRST


def test_memory_of_failures_is_bounded():
    reputation = Reputation()
    for number in range(MAX_REMEMBERED + 10):
        reputation.failed(number.to_bytes(4, "big"), 0.0)
    avoided = reputation.avoided(1.0)
    assert len(avoided) == MAX_REMEMBERED
    assert (9).to_bytes(4, "big") not in avoided


# What relays do with each other


RELAYS = [bytes([number]) for number in range(10)]


def network(reputation, stands):
    """Every relay was extended to every other one; stands(before, after) says how it went."""
    for before, after in permutations(RELAYS, 2):
        reputation.extended(before, after, stands(before, after), 0.0)


def test_one_refusal_says_nothing_of_either_end():
    reputation = Reputation()
    for _ in range(100):
        reputation.extended(b"a", b"b", False, 0.0)
    assert reputation.avoided(1.0) == []


def test_relays_that_refuse_all_but_their_own_kind_are_found_and_nobody_else_is():
    bad = RELAYS[:4]
    for refuses in (
        lambda before, after: before in bad and after not in bad,  # they will not extend
        lambda before, after: after in bad and before not in bad,  # they will not answer
        lambda before, after: (before in bad) != (after in bad),  # both
    ):
        reputation = Reputation()
        network(reputation, lambda before, after, refuses=refuses: not refuses(before, after))
        assert sorted(reputation.avoided(1.0)) == bad


def test_most_of_a_network_that_is_dead_is_no_fault_of_those_who_cannot_reach_it():
    alive = RELAYS[:3]
    reputation = Reputation()
    for before in alive:
        for after in RELAYS:
            if after != before:
                reputation.extended(before, after, after in alive, 0.0)
    assert sorted(reputation.avoided(1.0)) == RELAYS[3:]


def test_who_refuses_is_avoided_for_a_time_and_what_it_did_last_counts():
    reputation = Reputation()
    for number, partner in enumerate(RELAYS[1 : REFUSED_PARTNERS + 1]):
        assert reputation.avoided(number) == []
        reputation.extended(RELAYS[0], partner, False, number)
    last = REFUSED_PARTNERS - 1
    assert reputation.avoided(last) == RELAYS[:1]
    assert reputation.avoided(last + FORGET_AFTER - 1) == RELAYS[:1]
    assert reputation.avoided(last + FORGET_AFTER) == []
    reputation.extended(RELAYS[0], RELAYS[1], True, 10.0)
    assert reputation.avoided(11.0) == []


def test_proven_are_those_who_extended_and_never_refused():
    reputation = Reputation()
    reputation.extended(b"a", b"b", True, 0.0)
    reputation.extended(b"b", b"c", True, 0.0)
    reputation.extended(b"c", b"d", False, 1.0)
    assert reputation.proven(2.0) == {b"a", b"b"}
    assert reputation.proven(FORGET_AFTER + 0.5) == set()


def test_memory_of_extensions_is_bounded():
    reputation = Reputation()
    for number in range(MAX_EXTENSIONS + 1):
        reputation.extended(b"a", number.to_bytes(2, "big"), True, 0.0)
    assert len(reputation.proven(1.0)) == 1 + MAX_EXTENSIONS
    assert bytes(2) not in reputation.proven(1.0)
