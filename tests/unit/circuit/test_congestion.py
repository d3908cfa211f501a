"""TOR_VEGAS and XON/XOFF (proposal 324) by themselves, over a path that is a rate, a delay and a queue."""

import heapq
import itertools
from hashlib import sha256

import pytest

from convergence.circuit.congestion import (
    CLOCK_JUMP,
    CWND_MAX,
    MAX_EARNED,
    MAX_UNREAD,
    UNLIMITED,
    XOFF_BYTES,
    XOFF_COST,
    XOFF_HIGHEST,
    XOFF_LIMIT,
    Parameters,
    Vegas,
)
from convergence.circuit.flow import STREAM_WINDOW, FixedWindows
from convergence.errors import DestroyReason, EndReason, ParseError, RemoteError, Scope, StreamError
from convergence.wire.relay import MAX_DATA, RelayCommand

INC = Parameters().sendme_inc
XOFF = (RelayCommand.XOFF, b"\0")
XON = (RelayCommand.XON, bytes(5))


def tag(flow, number):
    return sha256(b"%d %d" % (id(flow), number)).digest()[:20]


class Path:
    """A link of `rate` cells/s, which serves the queues of circuits in turn, as relays do; a round trip takes `rtt`
    seconds more.

    Args:
        batch: cells that the link carries at a time.
    """

    def __init__(self, rate, rtt, batch=1):
        self.rate, self.rtt, self.batch = rate, rtt, batch
        self.now = 0.0
        self.most_queued = 0
        self._busy = False
        self._queues = {}  # by what is called when cells arrive: how many wait, in turn order
        self._events = []
        self._order = itertools.count()

    def at(self, when, call, *arguments):
        heapq.heappush(self._events, (when, next(self._order), call, arguments))

    def carry(self, cells, arrived):
        """Hand `cells` to the link; `arrived(count)` is called at the far end."""
        self._queues[arrived] = self._queues.get(arrived, 0) + cells
        self.most_queued = max(self.most_queued, sum(self._queues.values()))
        if not self._busy:
            self._serve()

    def _serve(self):
        self._busy = bool(self._queues)
        if self._busy:
            arrived = next(iter(self._queues))
            waiting = self._queues.pop(arrived)
            count = min(waiting, self.batch)
            if waiting > count:
                self._queues[arrived] = waiting - count
            self.at(self.now + count / self.rate, self._serve)
            self.at(self.now + count / self.rate + self.rtt / 2, arrived, count)

    def run(self, until):
        while self._events and self._events[0][0] <= until:
            self.now, _, call, arguments = heapq.heappop(self._events)
            call(*arguments)
        self.now = until


class Sender:
    """One circuit with much to send, and its far end, which reads all at once."""

    def __init__(self, path, near, far, begins=0.0):
        self.path, self.near, self.far = path, near, far
        self.sent = self.arrived = 0
        self.in_flight_most = 0
        path.at(begins, self.send)

    def send(self):
        cells = max(self.near.burst, 0)
        if cells:
            self.near.sent([tag(self, number) for number in range(self.sent, self.sent + cells)], self.path.now)
            self.sent += cells
            self.path.carry(cells, self.come)
            self.in_flight_most = max(self.in_flight_most, self.sent - self.arrived)

    def come(self, cells):
        for _ in range(cells):
            if self.far.received():
                self.path.at(self.path.now + self.path.rtt / 2, self.acknowledged, tag(self, self.arrived))
            self.arrived += 1

    def acknowledged(self, digest):
        self.near.acknowledge(digest, False, self.path.now)
        self.send()


def vegas(path, begins=0.0):
    return Sender(path, Vegas(), Vegas(), begins)


def rate_of(sender, seconds):
    """Cells per second that arrive within so many seconds from now."""
    before, start = sender.arrived, sender.path.now
    sender.path.run(start + seconds)
    return (sender.arrived - before) / seconds


LINE = 100_000  # cells/s, about 50 MB/s


def test_over_a_long_way_it_is_much_faster_than_fixed_windows():
    """50 MB/s and 300 ms: a stream with fixed windows gets 0.8 MB/s."""
    path = Path(LINE, 0.3)
    sender = vegas(path)
    path.run(5)
    reached = rate_of(sender, 10)
    assert reached >= 8 * STREAM_WINDOW / path.rtt
    assert path.most_queued < 2 * LINE * path.rtt, "less than two bandwidth-delay products wait"
    assert sender.in_flight_most <= CWND_MAX


@pytest.mark.parametrize("batch", [1, 31, 127])
@pytest.mark.parametrize(("rate", "rtt"), [(2_000, 0.3), (20_000, 0.05), (20_000, 0.3), (2_000, 0.02)])
def test_a_slow_line_is_used_and_its_queue_stays_short(rate, rtt, batch):
    path = Path(rate, rtt, batch)
    sender = vegas(path)
    path.run(20)
    path.most_queued = 0
    reached = rate_of(sender, 20)
    assert reached > 0.85 * rate
    assert path.most_queued <= Parameters().delta + 2 * batch + INC


@pytest.mark.parametrize("later", [0.0, 10.0])
@pytest.mark.parametrize(("rate", "rtt"), [(20_000, 0.1), (20_000, 0.3), (5_000, 0.1), (5_000, 0.02)])
def test_two_circuits_share_a_line(later, rate, rtt):
    path = Path(rate, rtt)
    one, two = vegas(path), vegas(path, begins=later)
    path.run(later + 60)
    before = two.arrived
    first = rate_of(one, 60)
    second = (two.arrived - before) / 60
    assert first + second > 0.95 * rate
    assert 1 / 1.2 < first / second < 1.2


def test_a_window_that_is_not_full_does_not_grow():
    path = Path(LINE, 0.1)
    flow = Vegas()
    sent = 0
    for step in range(100):  # one SENDME's worth every round trip
        flow.sent([tag(path, sent + number) for number in range(INC)], step * 0.1)
        sent += INC
        flow.acknowledge(tag(path, sent - 1), False, (step + 1) * 0.1)
    assert flow.cwnd == Parameters().cwnd_init and flow.inflight == 0


def test_a_link_that_is_full_ends_the_slow_start():
    flow = Vegas()
    flow.sent([tag(flow, number) for number in range(flow.burst)], 0.0)
    flow.acknowledge(tag(flow, INC - 1), True, 0.1)
    grown = flow.cwnd
    assert grown <= Parameters().cwnd_init
    for number in range(2, 10):
        flow.acknowledge(tag(flow, number * INC - 1), False, 0.1)
    assert flow.cwnd <= grown + Parameters().cwnd_inc


@pytest.mark.parametrize("rtt", [0.0, -1.0])
def test_a_clock_that_stands_still_changes_no_window(rtt):
    flow = Vegas()
    flow.sent([tag(flow, number) for number in range(flow.burst)], 10.0)
    before = flow.cwnd
    flow.acknowledge(tag(flow, INC - 1), False, 10.0 + rtt)
    assert flow.cwnd == before and flow.rtt == 0 and flow.burst == INC


def test_a_round_trip_of_hours_is_a_jump_of_the_clock():
    path = Path(20_000, 0.1)
    sender = vegas(path)
    path.run(20)
    flow = sender.near
    before = (flow.cwnd, flow.rtt)
    assert not flow._slow_start
    flow.acknowledge(flow._tags._tags[0][0], False, path.now + 2 * CLOCK_JUMP * flow.rtt)
    assert (flow.cwnd, flow.rtt) == before


@pytest.mark.parametrize("wrong", [b"", bytes(20)])
def test_a_sendme_with_a_wrong_digest_is_refused(wrong):
    flow = Vegas()
    flow.sent([tag(flow, number) for number in range(INC)], 0.0)
    with pytest.raises(RemoteError, match="wrong digest"):
        flow.acknowledge(wrong, False, 1.0)


def test_a_sendme_that_is_not_due_is_refused():
    """Else whoever acknowledges what did not come would make us flood the relays between."""
    flow = Vegas()
    flow.sent([tag(flow, number) for number in range(INC - 1)], 0.0)
    with pytest.raises(RemoteError, match="not due"):
        flow.acknowledge(tag(flow, INC - 2), False, 1.0)


def test_both_kinds_acknowledge_and_quote_alike():
    """A FixedWindows at 100 and a Vegas at 31 cells for each SENDME differ in the number only."""
    for near, far, increment in ((FixedWindows(), FixedWindows(), 100), (Vegas(), Vegas(), INC)):
        near.sent([tag(near, number) for number in range(increment)], 0.0)
        due = [number for number in range(increment) if far.received()]
        assert due == [increment - 1]
        near.acknowledge(tag(near, increment - 1), False, 0.1)


# -- XON and XOFF


def come(flow, cells, size=MAX_DATA):
    return [message for _ in range(cells) for message in flow.received(size)]


def origin():
    return Vegas().stream(True)


def test_a_reader_that_reads_stops_nobody():
    flow = origin()
    for _ in range(100):
        assert come(flow, XOFF_LIMIT) == [] and flow.consumed(XOFF_LIMIT) == ()


def test_xoff_goes_out_once_and_xon_when_half_is_read():
    flow = origin()
    assert come(flow, XOFF_LIMIT) == []
    assert come(flow, 300) == [XOFF]
    assert flow.consumed(399) == ()
    assert flow.consumed(1) == (XON,)
    assert flow.consumed(400) == ()


def test_a_far_sender_is_told_to_go_on_before_the_reader_runs_dry():
    flow = origin()
    assert come(flow, 3000) == [XOFF]
    assert flow.consumed(1500) == (XON,)
    assert come(flow, XOFF_LIMIT - 1) == [], "a sender counts what it sent for each XOFF"
    assert come(flow, 1) == [XOFF], "the limit rose to half of what came, not beyond its highest"
    assert flow.consumed(1500 + XOFF_LIMIT) == (XON,)
    assert come(flow, XOFF_LIMIT) == []
    for _ in range(20):
        come(flow, CWND_MAX // 2)
        flow.consumed(flow._unread)
        assert XOFF_LIMIT <= flow._limit <= XOFF_HIGHEST


def test_a_stream_that_was_stopped_has_no_room_until_xon():
    flow = origin()
    flow.sent(XOFF_LIMIT, XOFF_BYTES)
    flow.control(*XOFF)
    assert flow.room == 0
    flow.control(RelayCommand.XON, b"\0\0\0\x10\0")  # a rate, which is advice
    assert flow.room == UNLIMITED


def test_a_reader_in_fits_and_starts_sends_no_more_xoffs_than_the_cells_that_came_allow():
    """Cells may still come that were under way when our XOFF arrived: the far end has sent nothing since."""
    near, far = origin(), Vegas().stream(False)
    near.sent(8 * XOFF_LIMIT, 8 * XOFF_BYTES)
    for _ in range(7):
        for message in [*come(far, XOFF_LIMIT + 1), *far.consumed(XOFF_LIMIT + 1)]:
            near.control(*message)
    assert near.room == UNLIMITED


def test_what_was_sent_long_ago_pays_for_a_bounded_number_of_xoffs():
    flow = origin()
    flow.sent(100 * CWND_MAX, 100 * MAX_EARNED)
    for _ in range(MAX_EARNED // XOFF_COST):
        flow.control(*XOFF)
        flow.control(*XON)
    with pytest.raises(RemoteError, match="not due"):
        flow.control(*XOFF)


@pytest.mark.parametrize("message", [XOFF, XON])
@pytest.mark.parametrize("size", [0, 1, XOFF_COST - 1])
def test_one_that_comes_before_much_was_sent_closes_the_circuit(message, size):
    """It could mark the circuit for somebody who watches it (proposal 324 section 4.1.4). Cells do not count."""
    flow = origin()
    flow.sent(XOFF_LIMIT, size)
    with pytest.raises(RemoteError, match="not due") as error:
        flow.control(*message)
    assert error.value.scope is Scope.CIRCUIT and error.value.reason == DestroyReason.PROTOCOL
    flow = origin()
    flow.sent(1, XOFF_COST)
    flow.control(*message)


def test_rates_alone_come_no_more_often_than_what_was_sent_allows():
    flow = origin()
    flow.sent(XOFF_LIMIT, XOFF_BYTES)
    flow.control(*XOFF)
    flow.control(*XON)  # it ends the stop, so it is not counted
    flow.control(*XON)
    flow.control(*XON)
    with pytest.raises(RemoteError, match="XON that was not due"):
        flow.control(*XON)


def test_a_second_xoff_without_xon_closes_the_circuit():
    flow = origin()
    flow.sent(10 * XOFF_LIMIT, 10 * XOFF_BYTES)
    flow.control(*XOFF)
    with pytest.raises(RemoteError, match="XOFF that was not due"):
        flow.control(*XOFF)


def test_the_far_end_of_a_circuit_does_not_mind_when_its_origin_stops_it():
    """Only origins have something to hide, and a consensus may let clients stop exits sooner (cc_xoff_client)."""
    flow = Vegas().stream(False)
    for message in (XON, XOFF, XOFF):
        flow.control(*message)
    assert flow.room == 0
    flow.control(*XON)
    assert flow.room == UNLIMITED


def test_small_cells_stop_their_sender_only_when_as_many_bytes_have_come_as_tor_allows_for():
    flow = origin()
    cells = XOFF_BYTES // 10
    assert come(flow, cells - 1, 10) == []
    assert come(flow, 1, XOFF_BYTES - 10 * (cells - 1)) == [XOFF]


@pytest.mark.parametrize("command", [RelayCommand.XOFF, RelayCommand.XON])
@pytest.mark.parametrize("payload", [b"", b"\1\0\0\0\0"])
def test_a_malformed_one_is_refused(command, payload):
    flow = origin()
    flow.sent(XOFF_LIMIT, XOFF_BYTES)
    with pytest.raises(ParseError):
        flow.control(command, payload)


def test_windows_of_a_stream_are_no_part_of_it():
    with pytest.raises(RemoteError, match="not expected"):
        origin().control(RelayCommand.SENDME, b"")


def test_who_sends_on_in_spite_of_xoff_loses_the_stream():
    """However many streams: what waits for readers that stopped is bounded for the circuit."""
    circuit = Vegas()
    streams = [circuit.stream(False) for _ in range(3)]
    for stream in streams[:2]:
        come(stream, XOFF_LIMIT + MAX_UNREAD // 2)
    with pytest.raises(StreamError, match="in spite of XOFF") as error:
        come(streams[2], XOFF_LIMIT + 1)
    assert error.value.reason == EndReason.RESOURCELIMIT
    streams[0].ended()
    streams[2].ended()
    assert circuit.overshoot == MAX_UNREAD // 2
    fresh = circuit.stream(False)
    come(fresh, XOFF_LIMIT + MAX_UNREAD // 2)
    streams[1].consumed(XOFF_LIMIT + MAX_UNREAD // 2)
    fresh.ended()
    assert circuit.overshoot == 0
