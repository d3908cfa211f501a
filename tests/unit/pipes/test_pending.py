"""A pipe that looks for its carrier: nothing is lost, nothing goes out too soon, and the search has an end."""

import pytest

from convergence.errors import EndReason
from convergence.outbox import Outbox
from convergence.pipes.pending import CONNECT_LIMIT, Pending

NOW = 5.0


class Carrier:
    """What a pending pipe is bound to; keeps what it is told."""

    def __init__(self, congested=False):
        self.handler = None
        self.calls = []
        self.congested = congested
        self.closed = False

    def write(self, data, now):
        self.calls.append(("write", data))

    def end(self, now):
        self.calls.append(("end",))

    def abort(self, code, now):
        self.closed = True
        self.calls.append(("abort", code))

    def consumed(self, size, now):
        self.calls.append(("consumed", size))


class User:
    def __init__(self):
        self.heard = []

    def opened(self, now):
        self.heard.append("opened")

    def data(self, data, now):
        self.heard.append(data)

    def drained(self, now):
        self.heard.append("drained")

    def ended(self, now):
        self.heard.append("ended")

    def aborted(self, code, now):
        self.heard.append(code)


class Rig:
    def __init__(self):
        self.outbox = Outbox()
        self.refused = []
        self.over = 0
        self.user = User()
        self.pipe = Pending(self.outbox, lambda code, now: self.refused.append(code), self.finished, NOW)
        self.pipe.handler = self.user

    def finished(self, now):
        self.over += 1


def test_what_was_written_early_goes_out_once_a_carrier_opens_and_in_order():
    rig = Rig()
    bad, good = Carrier(), Carrier()
    rig.pipe.write(b"a", NOW)
    assert rig.pipe.congested
    rig.pipe.bind(bad)
    rig.pipe.write(b"b", NOW)
    rig.pipe.end(NOW)
    rig.pipe.aborted(EndReason.RESOLVEFAILED, NOW)
    assert rig.refused == [EndReason.RESOLVEFAILED] and rig.user.heard == [] and bad.calls == []
    rig.pipe.bind(good)
    rig.pipe.opened(NOW)
    assert good.calls == [("write", b"a"), ("write", b"b"), ("end",)]
    assert rig.user.heard == ["opened"]


def test_what_is_sent_ahead_is_kept_for_the_next_carrier():
    rig = Rig()
    bad, good = Carrier(), Carrier()
    rig.pipe.write(b"a", NOW)
    rig.pipe.bind(bad)
    rig.pipe.send_ahead(NOW)
    rig.pipe.write(b"b", NOW)
    assert bad.calls == [("write", b"a"), ("write", b"b")] and rig.pipe.congested
    rig.pipe.aborted(EndReason.EXITPOLICY, NOW)
    rig.pipe.write(b"c", NOW)
    rig.pipe.bind(good)
    rig.pipe.send_ahead(NOW)
    rig.pipe.opened(NOW)
    rig.pipe.write(b"d", NOW)
    assert good.calls == [("write", data) for data in (b"a", b"b", b"c", b"d")]


def test_a_carrier_after_one_that_was_sent_ahead_to_may_have_to_wait():
    rig = Rig()
    bad, good = Carrier(), Carrier()
    rig.pipe.bind(bad)
    rig.pipe.send_ahead(NOW)
    rig.pipe.write(b"a", NOW)
    rig.pipe.aborted(EndReason.EXITPOLICY, NOW)
    rig.pipe.bind(good)
    rig.pipe.write(b"b", NOW)
    assert good.calls == []
    rig.pipe.opened(NOW)
    assert good.calls == [("write", b"a"), ("write", b"b")]


def test_an_open_pipe_passes_everything_both_ways():
    rig = Rig()
    carrier = Carrier()
    rig.pipe.bind(carrier)
    rig.pipe.opened(NOW)
    rig.pipe.write(b"out", NOW)
    rig.pipe.data(b"in", NOW)
    rig.pipe.consumed(2, NOW)
    carrier.congested = True
    assert rig.pipe.congested
    rig.pipe.ended(NOW)
    assert not rig.pipe.closed and rig.over == 0
    carrier.closed = True  # as when both ends have ended
    rig.pipe.end(NOW)
    assert rig.pipe.closed and rig.over == 1
    assert carrier.calls == [("write", b"out"), ("consumed", 2), ("end",)]
    assert rig.user.heard == ["opened", "drained", b"in", "ended"]


@pytest.mark.parametrize("last", ["ended", "drained"])
def test_who_hears_the_last_call_finds_the_pipe_closed(last):
    rig = Rig()
    carrier = Carrier()
    rig.pipe.bind(carrier)
    rig.pipe.opened(NOW)
    rig.pipe.end(NOW)
    setattr(rig.user, last, lambda now: rig.user.heard.append((last, rig.pipe.closed)))
    if last == "drained":
        rig.pipe.ended(NOW)
        assert not rig.pipe.closed and rig.over == 0
    carrier.closed = True
    getattr(rig.pipe, last)(NOW)
    assert rig.user.heard[-1] == (last, True) and rig.over == 1


def test_a_carrier_that_breaks_after_it_opened_is_not_replaced():
    rig = Rig()
    rig.pipe.bind(Carrier())
    rig.pipe.opened(NOW)
    rig.pipe.aborted(EndReason.DESTROY, NOW)
    assert rig.refused == [] and rig.user.heard[-1] == EndReason.DESTROY and rig.over == 1


def test_the_search_has_an_end():
    rig = Rig()
    carrier = Carrier()
    rig.pipe.bind(carrier)
    rig.outbox.run_timers(NOW + CONNECT_LIMIT)
    assert rig.user.heard == [EndReason.TIMEOUT] and carrier.calls == [("abort", EndReason.TIMEOUT)]
    assert rig.pipe.closed and rig.over == 1


@pytest.mark.parametrize("bound", [False, True])
def test_a_user_who_gives_up_hears_no_more(bound):
    rig = Rig()
    carrier = Carrier()
    if bound:
        rig.pipe.bind(carrier)
    rig.pipe.write(b"a", NOW)
    rig.pipe.abort(EndReason.DONE, NOW)
    rig.pipe.write(b"b", NOW)
    rig.pipe.end(NOW)
    rig.pipe.abort(EndReason.DONE, NOW)
    rig.outbox.run_timers(NOW + CONNECT_LIMIT)
    assert rig.user.heard == [] and rig.over == 1
    assert carrier.calls == ([("abort", EndReason.DONE)] if bound else [])
