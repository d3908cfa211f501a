"""One end of a stream and of a splice by themselves, with an owner that only records."""

import pytest

from convergence.circuit.flow import STREAM_INCREMENT, STREAM_WINDOW, StreamWindows
from convergence.circuit.streams import MAX_OPTIMISTIC, SEND_BUFFER_HIGH, SEND_BUFFER_LOW, SpliceEnd, Stream
from convergence.errors import EndReason, LocalError, RemoteError, StreamError
from convergence.link.meter import Meter
from convergence.wire.relay import MAX_DATA, V0, RelayCommand, pack_message, unpack_message
from tests.unit.circuit.rig import Recorder

NOW = 5.0
SENDME_9 = (RelayCommand.SENDME, 9, b"")


class Owner:
    def __init__(self):
        self.woken = []
        self.messages = []
        self.forgotten = []

    def wake(self, entry):
        self.woken.append(entry)

    def send_message(self, command, stream_id, payload=b""):
        self.messages.append((command, stream_id, payload))

    def forget(self, stream_id):
        self.forgotten.append(stream_id)


@pytest.fixture
def owner():
    return Owner()


@pytest.fixture
def stream(owner):
    made = Stream(owner, 7, StreamWindows(), V0)
    made.handler = Recorder(made)
    made.on_connected(b"", NOW)
    return made


def data_of(cells):
    return [unpack_message(cell)[2] for cell in cells]


def data_cell(data, stream_id=9):
    return pack_message(RelayCommand.DATA, stream_id, data)


def give(entry, count, data=b"x"):
    for _ in range(count):
        assert not entry.flow.received(len(data))
        entry.on_data(data_cell(data), len(data))


# -- Stream


def test_bytes_wait_for_connected(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    stream.handler = Recorder()
    stream.write(b"early", NOW)
    assert not stream.ready and not owner.woken
    stream.on_connected(b"", NOW)
    assert stream.ready and owner.woken and stream.handler.calls == ["opened"]
    assert data_of(stream.take(10)) == [b"early"]


def test_bytes_wait_until_the_begin_is_accepted(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    stream.handler = Recorder()
    stream.write(b"early", NOW)
    assert not stream.ready and not owner.woken
    stream.accept(NOW)
    assert stream.ready and owner.woken and stream.handler.calls == ["opened"]
    assert data_of(stream.take(10)) == [b"early"]


def test_optimistic_bytes_go_out_before_connected_up_to_a_limit_and_none_twice(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    stream.handler = Recorder()
    stream.optimistic = MAX_OPTIMISTIC
    data = bytes(index % 251 for index in range(MAX_OPTIMISTIC + 1000))
    stream.write(data[:100], NOW)
    stream.write(data[100:], NOW)
    assert stream.ready and owner.woken and not stream.handler.calls
    early = b"".join(data_of(stream.take(10) + stream.take(1000)))
    assert early == data[:MAX_OPTIMISTIC] and not stream.ready and stream.take(1000) == []
    stream.on_connected(b"", NOW)
    assert early + b"".join(data_of(stream.take(1000))) == data


def test_data_before_accept_waits_for_it(owner):
    stream = Stream(owner, 9, StreamWindows(), V0)
    handler = stream.handler = Recorder(stream)
    stream.holds = True
    give(stream, 2)
    stream.settle(NOW)
    assert handler.calls == [] and not handler.received
    stream.accept(NOW)
    assert handler.calls == ["opened"] and handler.received == b"xx"
    assert owner.messages == [(RelayCommand.CONNECTED, 9, b"")]


def test_data_before_accept_is_dropped_with_its_stream(owner):
    stream = Stream(owner, 9, StreamWindows(), V0)
    handler = stream.handler = Recorder(stream)
    stream.holds = True
    give(stream, 2)
    stream.on_end(EndReason.DONE, NOW)
    assert handler.calls == ["ended"] and not handler.received


def test_cells_are_filled_before_the_next_is_begun(stream):
    for size in (10, 600, 300, 100):
        stream.write(b"x" * size, NOW)
    assert [len(data) for data in data_of(stream.take(10))] == [MAX_DATA, MAX_DATA, 1010 - 2 * MAX_DATA]
    assert not stream.ready


def test_take_keeps_what_is_beyond_the_limit(stream):
    data = bytes(index % 251 for index in range(5000))
    stream.write(data, NOW)
    first, rest = stream.take(3), stream.take(100)
    assert len(first) == 3 and b"".join(data_of(first + rest)) == data


def test_the_stream_window_limits_what_may_go(stream):
    stream.write(bytes(MAX_DATA * (STREAM_WINDOW + 20)), NOW)
    assert len(stream.take(10_000)) == STREAM_WINDOW
    assert not stream.ready
    stream.on_control(RelayCommand.SENDME, b"")
    assert len(stream.take(10_000)) == 20


def test_a_stream_sendme_that_is_not_due_is_an_error(stream):
    stream.write(bytes(MAX_DATA * (STREAM_INCREMENT - 1)), NOW)
    stream.take(100)
    with pytest.raises(StreamError, match="not due"):
        stream.on_control(RelayCommand.SENDME, b"")


def test_congestion_and_its_end_are_told_once(stream):
    stream.write(bytes(SEND_BUFFER_HIGH), NOW)
    assert not stream.congested
    stream.write(b"x", NOW)
    assert stream.congested
    while stream._queued >= SEND_BUFFER_LOW:
        assert "drained" not in stream.handler.calls
        stream.take(STREAM_WINDOW)
        for _ in range(STREAM_WINDOW // STREAM_INCREMENT):
            stream.on_control(RelayCommand.SENDME, b"")
        stream.settle(NOW)
    stream.settle(NOW)
    assert stream.handler.calls.count("drained") == 1


def test_data_is_handed_over_once_a_run(stream, owner):
    give(stream, 3, b"ab")
    assert stream.handler.received == b""
    stream.settle(NOW)
    assert stream.handler.received == b"ababab" and owner.messages == []


def test_credit_is_given_for_what_was_consumed(stream, owner):
    give(stream, 2 * STREAM_INCREMENT)
    stream.settle(NOW)
    assert owner.messages == [(RelayCommand.SENDME, 7, b"")] * 2


@pytest.mark.parametrize("size", [1, 7, MAX_DATA])
@pytest.mark.parametrize("step", [1, 13, 10_000])
def test_credit_follows_what_was_consumed(stream, owner, size, step):
    """The same part of the cells as of the bytes, whatever the cells hold, and in whatever steps they are consumed."""
    stream.handler.pipe = None
    give(stream, 4 * STREAM_INCREMENT, b"x" * size)
    stream.settle(NOW)
    give(stream, 2 * STREAM_INCREMENT, b"y" * size)
    stream.settle(NOW)
    left = 6 * STREAM_INCREMENT * size
    while left:
        part = min(step, left)
        stream.consumed(part, NOW)
        left -= part
        consumed = (6 * STREAM_INCREMENT * size - left) // size  # cells that were consumed whole
        assert len(owner.messages) == consumed // STREAM_INCREMENT
        assert stream.flow.late == STREAM_WINDOW - 6 * STREAM_INCREMENT + STREAM_INCREMENT * len(owner.messages)
    assert owner.messages == [(RelayCommand.SENDME, 7, b"")] * 6


@pytest.mark.parametrize("runs", [[], [3], [3, 5]])
def test_more_cannot_be_consumed_than_was_handed_up(stream, runs):
    stream.handler.pipe = None
    for cells in runs:
        give(stream, cells, b"ab")
        stream.settle(NOW)
    stream.consumed(2 * sum(runs), NOW)
    with pytest.raises(LocalError, match="more was consumed"):
        stream.consumed(1, NOW)


def test_what_waits_to_be_handed_up_cannot_be_consumed(stream):
    give(stream, 1)
    with pytest.raises(LocalError, match="more was consumed"):
        stream.consumed(1, NOW)


def test_empty_cells_give_their_credit_at_once(stream, owner):
    """There is nothing in them to be consumed; others beside them still wait for it."""
    stream.handler.pipe = None
    give(stream, 1)
    give(stream, STREAM_INCREMENT - 1, b"")
    assert owner.messages == []
    give(stream, 1, b"")
    assert owner.messages == [(RelayCommand.SENDME, 7, b"")]
    stream.settle(NOW)
    assert stream.handler.received == b"x"
    give(stream, 2 * STREAM_INCREMENT - 1, b"")
    stream.settle(NOW)
    assert stream.handler.received == b"x" and len(owner.messages) == 2
    stream.consumed(1, NOW)
    assert len(owner.messages) == 3


def test_a_reader_that_consumes_nothing_gets_one_window(stream, owner):
    stream.handler.pipe = None
    give(stream, STREAM_WINDOW)
    stream.settle(NOW)
    assert owner.messages == [] and len(stream.handler.received) == STREAM_WINDOW
    with pytest.raises(RemoteError, match="beyond the window"):
        stream.flow.received(1)
    stream.consumed(STREAM_WINDOW, NOW)
    assert len(owner.messages) == STREAM_WINDOW // STREAM_INCREMENT
    stream.consumed(0, NOW)
    assert len(owner.messages) == STREAM_WINDOW // STREAM_INCREMENT
    give(stream, STREAM_WINDOW)


def test_end_waits_for_what_is_queued(stream, owner):
    stream.write(b"last words", NOW)
    handler = stream.handler
    stream.end(NOW)
    stream.settle(NOW)
    assert owner.messages == [] and handler.reason is None
    assert data_of(stream.take(10)) == [b"last words"]
    assert handler.reason is None
    stream.settle(NOW)
    assert owner.messages == [(RelayCommand.END, 7, bytes([EndReason.DONE]))] and owner.forgotten == [7]
    assert handler.calls == ["opened", "ended"] and stream.handler is None


def test_end_before_the_far_end_accepted_waits_for_what_is_queued(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    handler = stream.handler = Recorder()
    stream.write(b"last words", NOW)
    stream.end(NOW)
    assert owner.messages == [] and handler.calls == []
    stream.on_connected(b"", NOW)
    assert owner.woken == [stream] and data_of(stream.take(10)) == [b"last words"]
    stream.settle(NOW)
    assert owner.messages == [(RelayCommand.END, 7, bytes([EndReason.DONE]))] and handler.calls == ["opened", "ended"]


def test_end_with_nothing_queued_goes_at_once(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    handler = stream.handler = Recorder()
    stream.end(NOW)
    assert owner.messages == [(RelayCommand.END, 7, bytes([EndReason.DONE]))] and handler.calls == ["ended"]


def test_abort_drops_what_waits_and_tells_nothing_more(stream, owner):
    handler = stream.handler
    stream.write(bytes(SEND_BUFFER_HIGH + 1), NOW)
    give(stream, 1)
    stream.abort(EndReason.MISC, NOW)
    assert owner.messages == [(RelayCommand.END, 7, bytes([EndReason.MISC]))] and owner.forgotten == [7]
    assert not stream.ready and not stream.congested and stream.take(10) == []
    stream.settle(NOW)
    stream.write(b"too late", NOW)
    stream.consumed(1, NOW)
    stream.abort(EndReason.DONE, NOW)
    stream.end(NOW)
    stream.on_end(EndReason.DONE, NOW)
    assert len(owner.messages) == 1 and not stream.ready
    assert handler.calls == ["opened"] and handler.received == b"" and handler.reason is None


def test_abort_does_not_wait_for_an_end(stream, owner):
    handler = stream.handler
    stream.write(b"last words", NOW)
    stream.end(NOW)
    stream.abort(EndReason.MISC, NOW)
    assert owner.messages == [(RelayCommand.END, 7, bytes([EndReason.MISC]))]
    assert not stream.ready and handler.reason is None


def test_after_end_nothing_more_is_sent_or_told(stream, owner):
    handler = stream.handler
    stream.end(NOW)
    stream.end(NOW)
    stream.abort(EndReason.MISC, NOW)
    stream.write(b"too late", NOW)
    stream.on_end(EndReason.DONE, NOW)
    assert len(owner.messages) == 1 and handler.calls == ["opened", "ended"] and not stream.ready


def test_nothing_is_queued_behind_an_end_that_waits(stream):
    stream.write(b"last words", NOW)
    stream.end(NOW)
    stream.write(b"too late", NOW)
    assert data_of(stream.take(10)) == [b"last words"]


def test_data_while_end_waits_is_handed_up(stream, owner):
    handler = stream.handler
    stream.write(b"last words", NOW)
    stream.end(NOW)
    give(stream, STREAM_INCREMENT)
    stream.settle(NOW)
    assert handler.received == b"x" * STREAM_INCREMENT and owner.messages == [(RelayCommand.SENDME, 7, b"")]
    assert handler.reason is None


def test_what_came_before_our_end_is_handed_up(stream, owner):
    """Even when END goes out before the run of cells is over."""
    handler = stream.handler
    give(stream, 2, b"ab")
    stream.end(NOW)
    assert handler.received == b"abab" and handler.calls == ["opened", "ended"]
    assert owner.messages == [(RelayCommand.END, 7, bytes([EndReason.DONE]))]


@pytest.mark.parametrize(
    ("reason", "call"), [(EndReason.DONE, "ended"), (EndReason.DESTROY, "aborted"), (200, "aborted")]
)
def test_the_far_end_may_end_first_while_ours_waits(stream, owner, reason, call):
    handler = stream.handler
    stream.write(b"last words", NOW)
    stream.end(NOW)
    give(stream, 1, b"tail")
    stream.on_end(reason, NOW)
    stream.settle(NOW)
    assert handler.received == b"tail" and handler.calls == ["opened", call] and handler.reason == reason
    assert owner.messages == [] and not stream.ready


def test_an_end_from_the_far_side_comes_after_its_data(stream):
    handler = stream.handler
    give(stream, 2, b"ab")
    stream.on_end(EndReason.CONNRESET, NOW)
    assert handler.received == b"abab" and handler.calls == ["opened", "aborted"]
    assert handler.reason == EndReason.CONNRESET
    assert stream.handler is None and not stream.ready


def test_the_handler_hears_data_before_the_end(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    handler = stream.handler = Recorder()
    stream.on_connected(b"", NOW)
    give(stream, 1, b"tail")
    stream.on_end(EndReason.DONE, NOW)
    stream.on_end(EndReason.DONE, NOW)
    assert handler.received == b"tail" and handler.calls == ["opened", "ended"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_handler_may_end_or_abort_the_stream_while_it_gets_data(owner, ends):
    stream = Stream(owner, 7, StreamWindows(), V0)
    handler = stream.handler = Recorder(
        stream, on_data=lambda data: stream.end(NOW) if ends else stream.abort(EndReason.DONE, NOW)
    )
    stream.on_connected(b"", NOW)
    give(stream, STREAM_INCREMENT)
    stream.settle(NOW)
    assert owner.messages == [(RelayCommand.END, 7, bytes([EndReason.DONE]))], "no credit after END"
    assert handler.calls == (["opened", "ended"] if ends else ["opened"])


def test_a_handler_may_end_the_stream_while_the_far_end_does(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    handler = stream.handler = Recorder(on_data=lambda data: stream.end(NOW))
    stream.on_connected(b"", NOW)
    give(stream, 1)
    stream.on_end(EndReason.DONE, NOW)
    assert len(owner.messages) == 1 and handler.calls == ["opened", "ended"]


def test_connected_twice_and_data_before_it_are_errors(owner, stream):
    with pytest.raises(StreamError, match="twice"):
        stream.on_connected(b"", NOW)
    with pytest.raises(StreamError, match="before CONNECTED"):
        Stream(owner, 8, StreamWindows(), V0).on_data(data_cell(b"x"), 1)


def test_a_stream_without_a_handler_only_counts(owner):
    stream = Stream(owner, 7, StreamWindows(), V0)
    stream.accept(NOW, b"payload")
    assert owner.messages == [(RelayCommand.CONNECTED, 7, b"payload")]
    give(stream, STREAM_INCREMENT)
    stream.settle(NOW)
    assert owner.messages[1:] == [(RelayCommand.SENDME, 7, b"")]
    stream.write(bytes(SEND_BUFFER_HIGH + 1), NOW)
    stream.take(STREAM_WINDOW)
    stream._queue.clear()
    stream._queued = 0
    stream.settle(NOW)
    stream.on_end(EndReason.DONE, NOW)


# -- SpliceEnd


class Splice:
    """Two joined ends, each with its own owner."""

    def __init__(self, limit=10 * STREAM_WINDOW):
        self.owners = Owner(), Owner()
        self.closed = [0, 0]
        self.meter = Meter(limit)

        def closer(side):
            def closed(end):
                self.closed[side] += 1

            return closed

        self.left = SpliceEnd(self.owners[0], 9, StreamWindows(), V0, closer(0), self.meter)
        self.right = SpliceEnd(self.owners[1], 0x8003, StreamWindows(), V0, closer(1), self.meter)
        self.right.join(self.left)


@pytest.fixture
def splice():
    return Splice()


def test_cells_leave_on_the_other_side_with_its_stream_id(splice):
    give(splice.left, 1, b"hello")
    assert splice.owners[1].woken == [splice.right]
    [cell] = splice.right.take(5)
    assert unpack_message(cell) == (RelayCommand.DATA, 0x8003, b"hello")


def test_no_more_than_a_window_waits(splice):
    give(splice.left, STREAM_WINDOW)
    with pytest.raises(RemoteError, match="beyond the window"):
        give(splice.left, 1)


def test_a_cell_that_leaves_gives_credit_to_the_other_side(splice):
    give(splice.left, 60)
    splice.right.take(STREAM_INCREMENT - 1)
    assert splice.owners[0].messages == []
    splice.right.take(11)
    assert splice.owners[0].messages == [SENDME_9]
    assert splice.left.flow.late == STREAM_WINDOW - 60 + STREAM_INCREMENT


def test_a_reader_that_stops_stops_the_writer_after_a_window_on_each_side(splice):
    give(splice.left, STREAM_WINDOW)
    assert len(splice.right.take(10_000)) == STREAM_WINDOW
    give(splice.left, STREAM_WINDOW)
    assert not splice.right.ready and splice.right.take(10_000) == []
    with pytest.raises(RemoteError, match="beyond the window"):
        give(splice.left, 1)
    splice.right.on_control(RelayCommand.SENDME, b"")
    assert splice.owners[1].woken[-1] is splice.right
    assert len(splice.right.take(10_000)) == STREAM_INCREMENT
    give(splice.left, STREAM_INCREMENT)


def test_sendmes_for_cells_that_are_still_here_are_refused(splice):
    """A reader that takes nothing but acknowledges everything would make cells pile up without limit."""
    give(splice.left, STREAM_WINDOW)
    splice.right.take(STREAM_INCREMENT - 1)
    with pytest.raises(StreamError, match="not due"):
        splice.right.on_control(RelayCommand.SENDME, b"")
    splice.right.take(1)
    splice.right.on_control(RelayCommand.SENDME, b"")
    with pytest.raises(StreamError, match="not due"):
        splice.right.on_control(RelayCommand.SENDME, b"")


def test_end_passes_through_with_its_reason(splice):
    splice.left.on_end(EndReason.RESOURCELIMIT, NOW)
    assert splice.owners[1].messages == [(RelayCommand.END, 0x8003, bytes([EndReason.RESOURCELIMIT]))]
    assert splice.closed == [1, 1] and splice.owners[1].forgotten == [0x8003]


def test_end_goes_out_behind_what_is_pending(splice):
    give(splice.left, 120, b"data")
    splice.left.on_end(EndReason.DONE, NOW)
    assert splice.closed == [1, 0] and splice.owners[1].messages == []
    taken = splice.right.take(50)
    # What the reader says meanwhile must not cost the rest: it cannot know yet that the far side has ended.
    splice.right.on_control(RelayCommand.SENDME, b"")
    give(splice.right, 3, b"late")
    splice.right.settle(NOW)
    taken += splice.right.take(1000)
    splice.right.settle(NOW)
    splice.right.settle(NOW)
    assert len(taken) == 120
    assert splice.owners[1].messages == [(RelayCommand.END, 0x8003, bytes([EndReason.DONE]))]
    assert splice.closed == [1, 1]


def test_both_ends_may_end_while_data_is_pending(splice):
    give(splice.left, 10)
    splice.left.on_end(EndReason.DONE, NOW)
    splice.right.on_end(EndReason.DONE, NOW)
    splice.right.settle(NOW)
    splice.left.settle(NOW)
    splice.right.finish(EndReason.DONE)
    splice.left.on_end(EndReason.DONE, NOW)
    assert splice.closed == [1, 1] and not splice.right.ready
    assert splice.owners[0].messages == splice.owners[1].messages == []


def test_finish_is_said_once(splice):
    give(splice.left, 1)
    splice.right.finish(EndReason.DONE)
    splice.right.finish(EndReason.MISC)
    splice.right.take(1)
    splice.right.settle(NOW)
    assert [payload for _, _, payload in splice.owners[1].messages] == [bytes([EndReason.DONE])]


def test_an_aborted_end_drops_what_waits_and_ends_both_sides(splice):
    give(splice.left, 5, b"x")
    give(splice.right, 4, b"y")
    assert (splice.right.waiting, splice.left.waiting) == (5, 4)
    splice.right.abort(EndReason.RESOURCELIMIT)
    splice.right.abort(EndReason.RESOURCELIMIT)
    assert splice.closed == [0, 1] and splice.meter.used == 4
    assert [payload for _, _, payload in splice.owners[1].messages] == [bytes([EndReason.RESOURCELIMIT])]
    assert len(splice.left.take(9)) == 4, "what the other side has to read still goes out"
    splice.left.settle(NOW)
    assert splice.closed == [1, 1]
    assert [payload for _, _, payload in splice.owners[0].messages] == [bytes([EndReason.RESOURCELIMIT])]


def test_what_waits_counts_until_it_has_gone_or_is_dropped(splice):
    give(splice.left, 5, b"x")
    give(splice.right, 4, b"x")
    assert splice.meter.used == 9
    splice.right.take(2)
    assert splice.meter.used == 7
    splice.right.on_end(EndReason.DONE, NOW)
    assert splice.meter.used == 4
    splice.left.take(9)
    splice.left.settle(NOW)
    assert splice.meter.used == 0


def test_an_end_that_is_not_joined_accepts_only_the_answer(owner):
    closed, events = [], []
    end = SpliceEnd(owner, 3, StreamWindows(), V0, lambda end: closed.append(1), Meter(STREAM_WINDOW))
    end.on_connected_hook = lambda now: events.append("connected")
    end.on_refused = lambda reason, now: events.append(reason)
    with pytest.raises(StreamError):
        end.on_data(data_cell(b"x"), 1)
    with pytest.raises(StreamError):
        end.on_control(RelayCommand.SENDME, b"")
    end.on_connected(b"", NOW)
    with pytest.raises(StreamError):
        end.on_connected(b"", NOW)
    end.on_end(EndReason.MISC, NOW)
    assert events == ["connected"] and closed == [1]


def test_a_refusal_is_told_to_who_waits(owner):
    closed, events = [], []
    end = SpliceEnd(owner, 3, StreamWindows(), V0, lambda end: closed.append(1), Meter(STREAM_WINDOW))
    end.on_connected_hook = lambda now: events.append("connected")
    end.on_refused = lambda reason, now: events.append((reason, len(closed)))
    end.on_end(EndReason.HIBERNATING, NOW)
    assert events == [(EndReason.HIBERNATING, 1)], "counts are right when the next one is chosen"
