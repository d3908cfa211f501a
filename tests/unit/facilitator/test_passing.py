"""Signals that wait to be passed to other facilitators."""

import pytest

from convergence.effects import Failure
from convergence.facilitator import passing
from convergence.facilitator.passing import Passing
from convergence.outbox import Outbox
from convergence.wire.facilitator import RecordType, UnreachableReason
from convergence.wire.sharing import NOBODY, Back, Forward

NOW = 1000.0
ONE, TWO = b"1" * 16, b"2" * 16
TO = b"t" * 32


class Rig:
    """A store that answers when it is told to."""

    def __init__(self):
        self.outbox = Outbox()
        self.passing = Passing(self.outbox, self)
        self.told = []  # to whom, and how many refusals and signals
        self.asked = []
        self.lost = []

    def tell(self, to, item, now, then):
        refusals = sum(isinstance(one, Back) for one in item.items)
        self.told.append((to, refusals, len(item.items) - refusals))
        self.asked.append(then)

    def signal(self, count=1, to=ONE, source="a"):
        for number in range(count):
            forward = Forward(1, TO, number, NOBODY, b"")
            self.passing.signal(to, source, forward, lambda why, now: self.lost.append((source, why)), NOW)

    def refuse(self, count, source="a"):
        for _ in range(count):
            self.passing.refuse(ONE, source, Back(1, TO, RecordType.UNREACHABLE, b""), NOW)

    def poll(self):
        """What is told next."""
        self.outbox.poll(NOW)
        told, self.told = self.told, []
        return told

    def answer(self, result=1):
        """What is told once the store has answered all."""
        asked, self.asked = self.asked, []
        for then in asked:
            then(result, NOW)
        return self.poll()


@pytest.fixture
def rig(monkeypatch):
    monkeypatch.setattr(passing, "MAX_PASSED", 4)
    monkeypatch.setattr(passing, "MAX_WAITING", 8)
    return Rig()


def test_what_comes_meanwhile_is_told_in_one_piece_for_each(rig):
    rig.signal()
    assert rig.poll() == [(ONE, 0, 1)]
    rig.signal(2)
    rig.signal(1, TWO)
    assert rig.poll() == []
    assert rig.answer() == [(ONE, 0, 2), (TWO, 0, 1)]
    rig.signal(6)
    asked, rig.asked = rig.asked, []
    asked[0](1, NOW)
    assert rig.poll() == []  # until all have arrived
    asked[1](1, NOW)
    assert rig.poll() == [(ONE, 0, 4)]
    assert rig.answer() == [(ONE, 0, 2)]
    assert rig.answer() == [] and rig.lost == []


def test_refusals_go_first_and_leave_half_to_others(rig):
    rig.signal(3)
    rig.refuse(7)
    assert rig.poll() == [(ONE, 2, 2)]
    assert rig.answer() == [(ONE, 3, 1)]
    assert rig.answer() == [(ONE, 2, 0)]


@pytest.mark.parametrize(
    ("result", "why"), [(0, UnreachableReason.UNKNOWN), (Failure("slow", ""), UnreachableReason.BUSY)]
)
def test_whoever_is_not_heard_learns_why(rig, result, why):
    rig.signal(5, source="a")
    rig.signal(1, source="b")
    assert rig.poll() == [(ONE, 0, 4)]
    again = rig.answer(result)
    if why is UnreachableReason.UNKNOWN:
        assert (sorted(rig.lost), again) == ([("a", why)] * 3 + [("b", why)], [(ONE, 0, 2)])
    else:  # what waits has no better prospects
        assert (sorted(rig.lost), again) == ([("a", why)] * 5 + [("b", why)], [])


def test_all_that_waits_is_bounded(rig):
    rig.signal(20, source="a")
    rig.signal(3, source="b")
    assert rig.lost == [("a", UnreachableReason.BUSY)] * 15
    rig.refuse(passing.MAX_REFUSALS + 9)
    assert len(rig.passing._signals) == 8 and len(rig.passing._refusals) == passing.MAX_REFUSALS
