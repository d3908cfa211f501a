"""The outbox: numbers, answers, timers and flushes."""

import pytest

from convergence.effects import Connect, Load, Protocol, Resolve, Scan, Store
from convergence.events import Nodes, Registered
from convergence.outbox import FEW_TIMERS, Outbox

NOW = 1_800_000_000.0


class Flushed:
    def __init__(self, outbox, again=0, then=None):
        self.count = 0
        self._outbox = outbox
        self._again = again
        self._then = then

    def flush(self, now):
        self.count += 1
        self._outbox.emit(Nodes(self.count))
        if self._then is not None:
            self._outbox.flush_later(self._then)
        self._again -= 1
        return self._again >= 0


def kinds(outbox):
    return [effect.kind for effect in outbox.poll(NOW)]


def test_effects_come_once_and_in_order():
    outbox = Outbox()
    outbox.emit(Nodes(1))
    outbox.emit(Registered())
    assert outbox.poll(NOW) == [Nodes(1), Registered()]
    assert outbox.poll(NOW) == []


def test_channels_are_odd_and_never_reused():
    outbox = Outbox()
    channels = [outbox.connect(Protocol.TCP, "host:80") for _ in range(3)]
    assert channels == [1, 3, 5]
    assert outbox.poll(NOW) == [Connect(channel, Protocol.TCP, "host:80") for channel in channels]


def test_each_request_is_answered_once():
    outbox = Outbox()
    answers = []
    outbox.store([("meta", b"k", b"v")], lambda result, now: answers.append(("store", result, now)))
    outbox.load("meta", b"k", lambda result, now: answers.append(("load", result, now)))
    outbox.scan("meta", b"", lambda result, now: answers.append(("scan", result, now)))
    outbox.resolve("host", lambda result, now: answers.append(("resolve", result, now)))
    store, load, scan, resolve = outbox.poll(NOW)
    assert [type(effect) for effect in (store, load, scan, resolve)] == [Store, Load, Scan, Resolve]
    outbox.done(load.request, b"v", 2.0)
    outbox.done(load.request, b"again", 3.0)
    outbox.done(999, None, 3.0)
    outbox.done(store.request, None, 4.0)
    assert answers == [("load", b"v", 2.0), ("store", None, 4.0)]


def test_an_answer_may_ask_again():
    outbox = Outbox()
    outbox.load("meta", b"k", lambda result, now: outbox.load("meta", result, lambda result, now: None))
    [first] = outbox.poll(NOW)
    outbox.done(first.request, b"next", 1.0)
    assert [effect.key for effect in outbox.poll(NOW)] == [b"next"]


def test_timers_fire_in_order_of_time_then_of_setting():
    outbox = Outbox()
    fired = []
    for name, when in (("c", 3.0), ("a", 1.0), ("b1", 2.0), ("b2", 2.0), ("late", 9.0)):
        outbox.call_at(when, lambda now, name=name: fired.append((name, now)))
    assert outbox.deadline() == 1.0
    outbox.run_timers(5.0)
    assert fired == [("a", 5.0), ("b1", 5.0), ("b2", 5.0), ("c", 5.0)]
    assert outbox.deadline() == 9.0


def test_a_cancelled_timer_neither_fires_nor_wakes_the_shell():
    outbox = Outbox()
    fired = []
    timer = outbox.call_at(1.0, fired.append)
    outbox.call_at(2.0, fired.append)
    assert timer.pending
    timer.cancel()
    timer.cancel()
    assert not timer.pending and outbox.deadline() == 2.0
    outbox.run_timers(2.0)
    assert fired == [2.0] and outbox.deadline() is None


def test_a_timer_may_cancel_another_that_is_due():
    outbox = Outbox()
    fired = []
    outbox.call_at(1.0, lambda now: second.cancel())
    second = outbox.call_at(1.0, fired.append)
    outbox.run_timers(1.0)
    assert fired == []


def test_a_timer_that_sets_itself_for_now_does_not_hang_the_node():
    outbox = Outbox()
    fired = []

    def again(now):
        fired.append(now)
        outbox.call_at(now, again)

    outbox.call_at(1.0, again)
    outbox.run_timers(1.0)
    assert fired == [1.0] and outbox.deadline() == 1.0


def test_timers_go_on_when_the_clock_jumps():
    outbox, fired, told = Outbox(), [], []
    outbox.on_shift(told.append)
    for when in (130.0, 105.0, 110.0):
        outbox.call_at(when, lambda now, when=when: fired.append((when, now)))
    outbox.shift(-50.0)
    assert outbox.deadline() == 55.0 and told == [-50.0]
    outbox.run_timers(60.0)
    assert fired == [(105.0, 60.0), (110.0, 60.0)]
    outbox.shift(86400.0)
    outbox.run_timers(86470.0)
    assert len(fired) == 2 and outbox.deadline() == 86480.0


def test_timers_that_were_cancelled_take_no_memory():
    outbox, fired = Outbox(), []
    for number in range(10):
        outbox.call_at(1000.0 - number, fired.append)
    for number in range(10_000):
        outbox.call_at(2000.0 + number, fired.append).cancel()
    assert len(outbox._timers) <= FEW_TIMERS
    outbox.run_timers(1000.0)
    assert len(fired) == 10 and outbox.deadline() is None


def test_a_timer_that_fails_takes_no_other_with_it():
    outbox, fired = Outbox(), []

    def fail(now):
        raise RuntimeError("a bug")

    outbox.call_at(1.0, lambda now: fired.append(1))
    outbox.call_at(2.0, fail)
    outbox.call_at(3.0, lambda now: fired.append(3))
    with pytest.raises(RuntimeError):
        outbox.run_timers(5.0)
    assert fired == [1] and outbox.deadline() == 3.0
    outbox.run_timers(5.0)
    assert fired == [1, 3] and outbox.deadline() is None


def test_a_flush_that_fails_takes_no_other_with_it():
    outbox = Outbox()

    class Failing:
        def flush(self, now):
            raise RuntimeError("a bug")

    before, behind = Flushed(outbox, again=1), Flushed(outbox)
    for item in (before, Failing(), behind):
        outbox.flush_later(item)
    with pytest.raises(RuntimeError):
        outbox.poll(NOW)
    assert len(outbox.poll(NOW)) == 3 and (before.count, behind.count) == (2, 1)


def test_what_is_to_be_flushed_is_flushed_once_before_the_poll_ends():
    outbox = Outbox()
    item = Flushed(outbox)
    for _ in range(3):
        outbox.flush_later(item)
    assert kinds(outbox) == ["nodes"] and kinds(outbox) == []


def test_a_flush_may_cause_another_in_the_same_poll():
    outbox = Outbox()
    below = Flushed(outbox)
    outbox.flush_later(Flushed(outbox, then=below))
    assert kinds(outbox) == ["nodes", "nodes"] and below.count == 1


def test_what_wants_another_turn_gets_it_with_the_next_poll():
    outbox = Outbox()
    item = Flushed(outbox, again=2)
    outbox.flush_later(item)
    assert [len(outbox.poll(NOW)) for _ in range(4)] == [1, 1, 1, 0]
