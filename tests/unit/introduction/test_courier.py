"""An offer's way: carriers in turn, each with its time; nothing is heard of one that was stopped."""

from types import SimpleNamespace

from convergence.introduction.courier import ANSWER_TIMEOUT, Courier
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
    def __init__(self, count):
        self.carriers = [Carrier() for _ in range(count)]
        self.outbox = Outbox()
        self.heard = []
        self.failures = []
        given = iter(self.carriers)
        self.courier = Courier(
            self.outbox,
            SimpleNamespace(next=lambda now: next(given, None)),
            TO,
            b"offer",
            heard=lambda sealed, carrier, now: self.heard.append((sealed, carrier)),
            failed=lambda reason, now: self.failures.append((reason, now)),
        )
        self.courier.start(0.0)

    @property
    def asked(self):
        return [len(carrier.sent) for carrier in self.carriers]


def test_one_carrier_at_a_time_is_asked():
    rig = Rig(3)
    assert rig.asked == [1, 0, 0]
    rig.outbox.run_timers(ANSWER_TIMEOUT)
    assert rig.asked == [1, 1, 0]
    rig.carriers[1].refused("no", ANSWER_TIMEOUT + 1)
    assert rig.asked == [1, 1, 1]
    rig.outbox.run_timers(2 * ANSWER_TIMEOUT)
    rig.outbox.run_timers(10 * ANSWER_TIMEOUT)
    assert not rig.failures, "there is nobody else to ask: the third may take its time"
    rig.carriers[2].refused("no", 10 * ANSWER_TIMEOUT)
    assert rig.failures == [("no", 10 * ANSWER_TIMEOUT)]


def test_a_late_refusal_of_one_that_had_its_time_counts_for_nothing():
    rig = Rig(3)
    rig.outbox.run_timers(ANSWER_TIMEOUT)
    rig.carriers[0].refused("busy", ANSWER_TIMEOUT + 1)
    assert rig.asked == [1, 1, 0]


def test_every_carrier_that_was_asked_may_bring_the_answer():
    rig = Rig(3)
    rig.outbox.run_timers(ANSWER_TIMEOUT)
    rig.carriers[0].answered(b"answer", ANSWER_TIMEOUT + 1)
    assert rig.heard == [(b"answer", rig.carriers[0])]


def test_the_answer_ends_the_search_and_names_the_way():
    rig = Rig(3)
    rig.courier.settle(rig.carriers[0])
    rig.outbox.run_timers(ANSWER_TIMEOUT)
    rig.carriers[0].refused("closed", 5.0)
    assert rig.asked == [1, 0, 0] and not rig.failures
    rig.courier.follow_up(b"candidates", 5.0)
    assert rig.carriers[0].sent == [b"offer", b"candidates"]
    rig.carriers[0].answered(b"what nobody asked for", 5.0)
    rig.carriers[0].refused("closed", 5.0)
    assert not rig.heard and not rig.failures


def test_nothing_follows_before_the_answer():
    rig = Rig(1)
    rig.courier.follow_up(b"candidates", 5.0)
    assert rig.carriers[0].sent == [b"offer"]


def test_what_one_carrier_brings_is_bounded_and_leaves_the_others_theirs():
    rig = Rig(2)
    for _ in range(MAX_REPLIES + 5):
        rig.carriers[0].answered(b"noise", 1.0)
    assert len(rig.heard) == MAX_REPLIES
    rig.outbox.run_timers(ANSWER_TIMEOUT)
    rig.carriers[1].answered(b"answer", 5.0)
    assert rig.heard[-1] == (b"answer", rig.carriers[1])


def test_one_that_was_stopped_asks_and_hears_no_more():
    rig = Rig(3)
    rig.courier.stop()
    rig.outbox.run_timers(ANSWER_TIMEOUT)
    rig.carriers[0].refused("no", 5.0)
    rig.carriers[0].answered(b"answer", 5.0)
    assert rig.asked == [1, 0, 0] and not rig.heard and not rig.failures
