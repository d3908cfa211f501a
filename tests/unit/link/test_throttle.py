"""The token bucket: a rate over time, a bounded burst, turns for who waits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.link.throttle import MIN_BURST, Throttle
from convergence.outbox import Outbox
from convergence.wire.cells import CELL_LEN

START = 1_800_000_000.0
RATE = 100 * CELL_LEN


class Sender:
    """Stands for a link: it sends all that it may, in buffers of `unit` bytes, until `left` is nothing."""

    def __init__(self, clock, left, unit=CELL_LEN):
        self.clock = clock
        self.throttle = clock.throttle
        self.left = left
        self.unit = unit
        self.sent = 0
        self.released = 0

    def release(self):
        self.released += 1
        self.flush()

    def flush(self):
        allowance, sent = self.throttle.allowance(self.clock.now), 0
        while sent < allowance and self.left:
            sent += min(self.unit, self.left)
            self.left -= min(self.unit, self.left)
        self.sent += sent
        self.throttle.settle(self, sent, self.left > 0, self.clock.now)


class Clock:
    def __init__(self, rate=RATE):
        self.outbox = Outbox()
        self.now = START
        self.throttle = Throttle(self.outbox, rate)

    def sender(self, left=1 << 40, unit=CELL_LEN):
        sender = Sender(self, left, unit)
        sender.flush()
        return sender

    def pass_by(self, seconds):
        end = self.now + seconds
        while (deadline := self.outbox.deadline()) is not None and deadline <= end:
            self.now = max(deadline, self.now)
            self.outbox.run_timers(self.now)
        self.now = end


def test_without_a_rate_nothing_waits():
    clock = Clock(None)
    assert clock.throttle.allowance(clock.now) == math.inf
    assert clock.outbox.deadline() is None


@pytest.mark.parametrize("rate", [CELL_LEN, 10 * CELL_LEN, RATE, 10_000 * CELL_LEN])
@pytest.mark.parametrize("unit", [CELL_LEN, 127 * CELL_LEN])
def test_a_burst_and_then_the_rate(rate, unit):
    clock = Clock(rate)
    sender = clock.sender(unit=unit)
    burst = max(rate, MIN_BURST)
    assert burst <= sender.sent < burst + unit
    clock.pass_by(1000)
    assert abs(sender.sent - burst - 1000 * rate) <= unit + rate * 0.02 + CELL_LEN


def test_what_is_not_used_is_saved_up_to_the_burst_only():
    clock = Clock()
    clock.sender(left=RATE)
    clock.pass_by(3600)
    assert clock.throttle.allowance(clock.now) == RATE


def test_nobody_is_woken_who_does_not_wait():
    clock = Clock()
    sender = clock.sender(left=RATE)
    assert clock.outbox.deadline() is None and sender.released == 0


def test_wakes_are_not_one_for_each_cell():
    clock = Clock(10_000 * CELL_LEN)
    sender = clock.sender()
    clock.pass_by(1)
    assert sender.released <= 51


def test_who_waits_takes_turns():
    clock = Clock()
    senders = [clock.sender() for _ in range(10)]
    first = senders[0].sent
    clock.pass_by(100)
    rest = [senders[0].sent - first, *(sender.sent for sender in senders[1:])]
    assert max(rest) - min(rest) <= 3 * CELL_LEN
    assert sum(rest) == pytest.approx(100 * RATE, rel=0.01)


def test_who_comes_while_others_wait_waits_behind_them():
    clock = Clock()
    first = clock.sender()
    clock.now += 0.001
    second = clock.sender()
    assert second.sent == 0
    third = clock.sender(left=CELL_LEN)
    assert third.sent == 0
    clock.pass_by(1)
    assert third.sent == CELL_LEN and second.sent > 0 and first.sent > RATE


def test_who_is_gone_is_not_woken():
    clock = Clock()
    gone, other = clock.sender(), clock.sender()
    clock.throttle.forget(gone)
    clock.pass_by(1)
    assert gone.released == 0 and other.sent > 0


def test_the_rate_can_be_changed_while_somebody_waits():
    clock = Clock()
    sender = clock.sender()
    clock.throttle.set_rate(10 * RATE, clock.now)
    before = sender.sent
    clock.pass_by(1)
    assert sender.sent - before == pytest.approx(10 * RATE, rel=0.03)
    clock.throttle.set_rate(RATE, clock.now)
    before = sender.sent
    clock.pass_by(10)
    assert sender.sent - before == pytest.approx(10 * RATE, rel=0.03)
    sender.left = 5 * RATE
    clock.throttle.set_rate(None, clock.now)
    assert sender.left == 0
    clock.pass_by(10)
    assert clock.outbox.deadline() is None


def test_changing_the_rate_gives_no_new_burst():
    clock = Clock()
    sender = clock.sender()
    before = sender.sent
    for _ in range(100):
        clock.throttle.set_rate(RATE, clock.now)
    assert sender.sent - before <= CELL_LEN


def test_a_clock_that_goes_back_stops_nothing():
    clock = Clock()
    sender = clock.sender()
    clock.now -= 3600
    clock.throttle.set_rate(RATE, clock.now)
    before = sender.sent
    clock.pass_by(10)
    assert sender.sent - before == pytest.approx(10 * RATE, rel=0.03)


@given(
    st.integers(CELL_LEN, 1 << 20),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 100), st.integers(1, 65_278)), max_size=30),
)
def test_never_more_than_burst_and_rate_and_one_buffer(rate, steps):
    clock = Clock(rate)
    senders = []
    for pause, count, unit in steps:
        clock.pass_by(pause)
        senders.append(clock.sender(left=count * unit, unit=unit))
        passed = clock.now - START
        assert sum(sender.sent for sender in senders) <= max(rate, MIN_BURST) + passed * rate + 65_278 + 1
    clock.pass_by(1e6)
    assert all(sender.left == 0 for sender in senders)
