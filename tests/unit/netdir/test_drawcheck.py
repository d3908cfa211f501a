"""A node looks how each day's value was drawn."""

import pytest

from convergence.codes import FacilitatorWhy
from convergence.events import DrawChecked, Trouble
from convergence.netdir.drawcheck import ATTEMPTS, RETRY, WITHIN, DrawCheck
from convergence.netdir.headers import Headers
from convergence.outbox import Outbox
from convergence.wire.buckets import SharedValue
from convergence.wire.sharedrandom import Draw
from tests.unit.facilitator.world import HashRng
from tests.unit.netdir.buckets import CRYPTO, DAY, FACILITATOR
from tests.unit.netdir.test_draw import ANNOUNCED, BEFORE, DRAW, TODAY, VALUE, without
from tests.unit.netdir.test_headers import header_at

EVENING = TODAY * DAY - 3600.0
MORNING = TODAY * DAY + 60.0


class Rig:
    """`shows`: what the facilitator answers; None: it cannot be asked."""

    def __init__(self, shows=DRAW):
        self.outbox = Outbox()
        self.headers = Headers(CRYPTO, lambda: FACILITATOR)
        self.asked = []
        self.shows = shows
        self.check = DrawCheck(self.outbox, CRYPTO, HashRng(), self.headers, self._ask)

    def _ask(self, day, then, now):
        self.asked.append(day)
        then(self.shows if self.shows is None or isinstance(self.shows, bytes) else self.shows.encode(), now)

    def take(self, header):
        self.headers.take(header.encode(), header.published)
        self.check.header(header.published)

    def evening(self, committed=ANNOUNCED):
        self.take(header_at(EVENING, value=BEFORE, before=SharedValue(b"a" * 32, 1), committed=committed))

    def morning(self, value=VALUE, until=MORNING + DAY / 2):
        self.take(header_at(MORNING, value=value, before=BEFORE))
        while self.outbox.deadline() is not None and self.outbox.deadline() <= until:
            self.outbox.run_timers(self.outbox.deadline())
        return [event for event in self.outbox.poll(until) if event != DrawChecked(TODAY - 1, announced=False)]


def test_a_value_that_was_drawn_as_announced_is_told():
    rig = Rig()
    rig.evening()
    assert rig.morning(until=MORNING + WITHIN) == [DrawChecked(TODAY, True, committed=3, counted=3)]
    assert rig.asked == [TODAY] and rig.check.said == DrawChecked(TODAY, True, committed=3, counted=3)
    rig.take(header_at(MORNING + 600, value=VALUE, before=BEFORE))
    assert rig.outbox.deadline() is None  # once a day


def test_a_value_that_was_not_drawn_as_announced_is_told_with_the_proof():
    rig = Rig()
    rig.evening()
    [event] = rig.morning(SharedValue(b"chosen".ljust(32), VALUE.fixed))
    assert rig.check.said is None
    assert isinstance(event, Trouble) and event.why.code is FacilitatorWhy.FALSE_VALUE
    proof = event.why.values
    assert bytes.fromhex(proof["draw"]) == DRAW.encode()
    assert bytes.fromhex(proof["first"]) == rig.headers.yesterday.encode()
    assert bytes.fromhex(proof["second"]) == rig.headers.newest.encode()


@pytest.mark.parametrize("shows", [b"", b"garbage", Draw(), without(DRAW, 1), Draw(DRAW.parts[1:])])
def test_a_draw_that_is_not_shown_is_told_after_some_attempts(shows):
    rig = Rig(shows)
    rig.evening()
    [event] = rig.morning()
    assert isinstance(event, Trouble) and event.why.code is FacilitatorWhy.HIDES_DRAW
    assert len(rig.asked) == ATTEMPTS


def test_a_facilitator_that_cannot_be_asked_is_accused_of_nothing_and_asked_later():
    rig = Rig(None)
    rig.evening()
    assert rig.morning(until=MORNING + WITHIN + 5 * RETRY) == []
    rig.shows = DRAW
    rig.outbox.run_timers(MORNING + WITHIN + 7 * RETRY)
    assert rig.outbox.poll(0) == [DrawChecked(TODAY, True, committed=3, counted=3)]


@pytest.mark.parametrize("seen", ["nothing", "before noon", "the day before"])
def test_who_did_not_see_the_announcement_says_so(seen):
    rig = Rig()
    if seen == "before noon":
        rig.evening(bytes(32))
    elif seen == "the day before":
        old = SharedValue(b"a" * 32, 1)
        rig.take(header_at(EVENING - DAY, value=old, before=old, committed=ANNOUNCED))
        rig.outbox.poll(0)
    assert rig.morning() == [DrawChecked(TODAY, announced=False)]
    assert rig.asked == []


def test_the_announcement_of_an_earlier_run_counts():
    rig = Rig()
    header = header_at(EVENING, value=BEFORE, before=SharedValue(b"a" * 32, 1), committed=ANNOUNCED)
    rig.headers.recall(header.encode(), MORNING)
    assert rig.morning() == [DrawChecked(TODAY, True, committed=3, counted=3)]


def test_a_day_that_is_over_is_asked_for_no_more():
    rig = Rig(None)
    rig.evening()
    rig.morning(until=MORNING + WITHIN)
    rig.take(header_at(MORNING + DAY, value=SharedValue(b"n" * 32, VALUE.fixed), before=VALUE))
    rig.outbox.run_timers(MORNING + 2 * DAY)
    assert set(rig.asked) == {TODAY}
