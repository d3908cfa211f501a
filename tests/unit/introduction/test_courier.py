"""An offer's way: carriers in turn, each with a head start; nothing is heard of one that was stopped."""

from types import SimpleNamespace

import pytest

from convergence.introduction.courier import (
    ASKING_TIMEOUT,
    HEAD_START,
    LAST_RESORT,
    MAX_CARRIERS,
    PATIENCE,
    Courier,
)
from convergence.introduction.signalling import MAX_REPLIES
from convergence.outbox import Outbox

TO = bytes(32)


class Carrier:
    def __init__(self):
        self.sent = []
        self.answered = self.refused = None

    def signal(self, to, sealed, answered, refused, now):
        assert to == TO
        self.sent.append(sealed)
        self.answered, self.refused = answered, refused


class Rig:
    """`count` carriers and, with `last`, so many last resorts."""

    def __init__(self, count, last=0):
        self.carriers = [Carrier() for _ in range(count)]
        self.last = [Carrier() for _ in range(last)]
        self.outbox = Outbox()
        self.heard = []
        self.failures = []
        given, given_last = iter(self.carriers), iter(self.last)
        self.courier = Courier(
            self.outbox,
            SimpleNamespace(next=lambda now: next(given, None), last=lambda now: next(given_last, None)),
            TO,
            b"offer",
            heard=lambda sealed, carrier, now: self.heard.append((sealed, carrier)),
            failed=lambda reason, now: self.failures.append((reason, now)),
            now=0.0,
        )
        self.courier.start(0.0)

    def run(self, until):
        while (deadline := self.outbox.deadline()) is not None and deadline <= until:
            self.outbox.run_timers(deadline)

    @property
    def asked(self):
        return [len(carrier.sent) for carrier in (*self.carriers, *self.last)]


def test_each_carrier_has_a_head_start_and_a_refusal_ends_it():
    rig = Rig(3)
    assert rig.asked == [1, 0, 0]
    rig.run(HEAD_START)
    assert rig.asked == [1, 1, 0]
    rig.carriers[1].refused("no", HEAD_START + 0.1)
    assert rig.asked == [1, 1, 1]


def test_when_all_have_refused_it_fails_at_once():
    rig = Rig(2, last=1)
    for carrier in (*rig.carriers, *rig.last):
        assert not rig.failures
        carrier.refused("no", 0.5)
    assert rig.failures == [("no", 0.5)]
    rig.run(10 * ASKING_TIMEOUT)
    assert len(rig.failures) == 1


def test_when_the_last_one_refuses_the_silent_ones_have_a_little_more():
    rig = Rig(2)
    rig.run(HEAD_START)
    rig.carriers[1].refused("no", 2.0)
    rig.run(2.0 + PATIENCE - 0.1)
    assert not rig.failures
    rig.run(2.0 + PATIENCE)
    assert rig.failures == [("no", 2.0 + PATIENCE)]


def test_one_that_nobody_follows_may_take_its_time_but_not_for_ever():
    rig = Rig(1)
    rig.run(ASKING_TIMEOUT - 0.1)
    assert not rig.failures
    rig.run(ASKING_TIMEOUT)
    assert [now for _, now in rig.failures] == [ASKING_TIMEOUT]
    rig.carriers[0].answered(b"answer", ASKING_TIMEOUT + 1)
    assert not rig.heard


def test_the_last_resort_is_asked_when_all_others_have_refused():
    rig = Rig(2, last=1)
    rig.carriers[0].refused("no", 0.1)
    assert rig.asked == [1, 1, 0]
    rig.carriers[1].refused("no", 0.2)
    assert rig.asked == [1, 1, 1]


def test_the_last_resort_is_asked_after_a_while_though_there_are_others():
    rig = Rig(MAX_CARRIERS, last=2)
    silent = int(LAST_RESORT / HEAD_START)
    rig.run(LAST_RESORT - 0.1)
    assert rig.asked[MAX_CARRIERS:] == [0, 0] and sum(rig.asked) == silent
    rig.run(LAST_RESORT)
    assert rig.asked[MAX_CARRIERS:] == [1, 0] and sum(rig.asked) == silent + 1
    rig.run(ASKING_TIMEOUT)
    assert rig.asked[: MAX_CARRIERS - 1] == [1] * (MAX_CARRIERS - 1), "then come those that are left"


def test_so_many_are_asked_and_the_last_resorts():
    rig = Rig(MAX_CARRIERS + 2, last=2)
    for carrier in (*rig.carriers[:MAX_CARRIERS], *rig.last):
        carrier.refused("no", 0.1)
    assert rig.asked == [1] * MAX_CARRIERS + [0, 0] + [1, 1] and rig.failures


def test_a_late_refusal_of_one_that_had_its_time_counts_for_nothing():
    rig = Rig(3)
    rig.run(HEAD_START)
    rig.carriers[0].refused("busy", HEAD_START + 0.1)
    assert rig.asked == [1, 1, 0]


def test_every_carrier_that_was_asked_may_bring_the_answer():
    rig = Rig(3)
    rig.run(HEAD_START)
    rig.carriers[0].answered(b"answer", HEAD_START + 1)
    assert rig.heard == [(b"answer", rig.carriers[0])]


def test_the_answer_ends_the_search_and_names_the_way():
    rig = Rig(3)
    rig.courier.settle(rig.carriers[0], 0.5)
    rig.run(10 * ASKING_TIMEOUT)
    rig.carriers[0].refused("closed", 5.0)
    assert rig.asked == [1, 0, 0] and not rig.failures
    rig.courier.follow_up(b"candidates", 5.0)
    assert rig.carriers[0].sent == [b"offer", b"candidates"]
    rig.carriers[0].answered(b"what nobody asked for", 5.0)
    rig.carriers[0].refused("closed", 5.0)
    assert not rig.heard and not rig.failures


def test_nothing_follows_before_the_answer():
    rig = Rig(1)
    rig.courier.follow_up(b"candidates", 0.5)
    assert rig.carriers[0].sent == [b"offer"]


def test_what_one_carrier_brings_is_bounded_and_leaves_the_others_theirs():
    rig = Rig(2)
    for _ in range(MAX_REPLIES + 5):
        rig.carriers[0].answered(b"noise", 1.0)
    assert len(rig.heard) == MAX_REPLIES
    rig.run(HEAD_START)
    rig.carriers[1].answered(b"answer", 5.0)
    assert rig.heard[-1] == (b"answer", rig.carriers[1])


@pytest.mark.parametrize("settled", [False, True])
def test_one_that_was_stopped_asks_and_hears_no_more(settled):
    rig = Rig(3)
    if settled:
        rig.courier.settle(rig.carriers[0], 0.5)
    rig.courier.stop(1.0)
    rig.courier.stop(1.0)
    rig.run(10 * ASKING_TIMEOUT)
    rig.carriers[0].refused("no", 5.0)
    rig.carriers[0].answered(b"answer", 5.0)
    rig.courier.follow_up(b"candidates", 5.0)
    assert rig.asked == [1, 0, 0] and not rig.heard and not rig.failures
