"""Pipes joined into a chain: what is written at one end comes out at the other, and so do ends, aborts and stops."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import EndReason, LocalError
from convergence.pipes.duplex import MAX_DROPPED, Pipe, join

NOW = 5.0


class End(Pipe):
    """One end of a pipe in memory.

    Args:
        window: bytes that may be handed up at the far end and not consumed.
        high: bytes; when more wait here, this end is congested, until no more than half as many wait.
        eager: whether bytes pass within the calls that allow it, not only when `step` is called.
    """

    def __init__(self, window, high, eager):
        self.window = window
        self.high = high
        self.handler = None
        self.peer = None
        self.queue = bytearray()
        self.unused = 0  # bytes handed up here and not consumed
        self.heard_end = False
        self.over = False
        self._eager = eager
        self._ending = False
        self._told_end = False
        self._was_congested = False
        self._far_code = None  # the far end aborted, and we have not heard it

    @property
    def closed(self):
        return self.over

    @property
    def congested(self):
        return len(self.queue) > self.high

    def write(self, data, now):
        if not self._ending and not self.over:
            self.queue += data
            self._was_congested = self._was_congested or self.congested
            self._pass()

    def end(self, now):
        self._ending = True
        self._pass()

    def abort(self, code, now):
        if not self.over:
            self._close()
            self.peer._far_code = code
            if self._eager:
                self.peer.step()

    def consumed(self, size, now):
        if size > self.unused:
            raise LocalError("more was consumed than was handed up")
        self.unused -= size
        self.peer._pass()

    def _pass(self):
        while self._eager and self.step():
            pass

    def _close(self):
        self.over = True
        self.queue.clear()
        handler, self.handler = self.handler, None
        return handler

    def step(self):
        """Carry one thing; returns whether there was one."""
        peer = self.peer
        room = peer.window - peer.unused
        if self.over:
            return False
        if self._far_code is not None:
            self._close().aborted(self._far_code, NOW)
        elif self.queue and room and not peer.over:
            data = bytes(self.queue[:room])
            del self.queue[:room]
            peer.unused += len(data)
            peer.handler.data(data, NOW)
        elif self._was_congested and len(self.queue) <= self.high // 2:
            self._was_congested = False
            self.handler.drained(NOW)
        elif self._ending and not self.queue and not self._told_end and not peer.over:
            self._told_end = peer.heard_end = True
            peer.handler.ended(NOW)
        else:
            return False
        return True


class User:
    """Writes what it has to say while its end takes it, reads while it may, and keeps what it is told."""

    def __init__(self, end, pieces=()):
        self.end = end
        self.left = list(pieces)
        self.said = b"".join(pieces)
        self.heard = bytearray()
        self.calls = []
        self.reads = True
        self._owed = 0
        end.handler = self

    def opened(self, now): ...

    def data(self, data, now):
        assert data and not self.calls
        self.heard += data
        self._owed += len(data)
        if self.reads:
            self.read()

    def read(self):
        """What was handed up is consumed, and whatever comes from then on."""
        self.reads = True
        owed, self._owed = self._owed, 0
        self.end.consumed(owed, NOW)

    def drained(self, now):
        self.write()

    def ended(self, now):
        self.calls.append("ended")

    def aborted(self, code, now):
        self.calls.append(code)

    def write(self):
        while self.left and not self.end.congested:
            self.end.write(self.left.pop(0), NOW)


class Chain:
    """Two users and the pipes between them, joined end to end."""

    def __init__(self, shapes, said=(), answered=(), *, eager=False, order=None):
        self.pipes = [(End(*shape, eager), End(*shape, eager)) for shape in shapes]
        for near, far in self.pipes:
            near.peer, far.peer = far, near
        for (_, one), (other, _) in zip(self.pipes, self.pipes[1:], strict=False):
            join(one, other)
        self.near, self.far = User(self.pipes[0][0], said), User(self.pipes[-1][1], answered)
        self._order = order or random.Random(0)

    @property
    def ends(self):
        return [end for pipe in self.pipes for end in pipe]

    @property
    def limit(self):
        """Bytes that the pipes may hold for one way: a window, and a buffer that is congested, of each."""
        return sum(near.window + near.high for near, _ in self.pipes)

    @property
    def held(self):
        """Bytes on the way from near to far, what the reader has not consumed among them."""
        return sum(len(near.queue) for near, _ in self.pipes) + self.pipes[-1][1].unused

    def settle(self, check=lambda: None):
        """Carry everything, in any order, until all is quiet."""
        while True:
            ends = self.ends
            self._order.shuffle(ends)
            if not any(end.step() for end in ends):
                return
            check()


PIECE = 40  # bytes at most in what is written at once
SHAPES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=5)
SAID = st.lists(st.binary(min_size=1, max_size=PIECE), max_size=12)
ORDERS = st.randoms(use_true_random=False)
WINDOWS = [(50, 20), (7, 90), (33, 0), (60, 60)]


@pytest.fixture(params=[False, True], ids=["step by step", "within the calls"])
def eager(request):
    return request.param


@given(SHAPES, SAID, SAID, st.booleans(), ORDERS)
def test_what_is_written_comes_out_whole_and_in_order(shapes, said, answered, eager, order):
    chain = Chain(shapes, said, answered, eager=eager, order=order)
    for user in (chain.near, chain.far):
        user.write()
    chain.settle()
    assert (chain.far.heard, chain.near.heard) == (chain.near.said, chain.far.said)
    assert not any(end.queue or end.unused for end in chain.ends), "all credit is given back"


@given(SHAPES, SAID, st.booleans(), ORDERS)
def test_a_reader_that_stops_stops_the_writer_however_many_pipes_are_between(shapes, answered, eager, order):
    plenty = sum(window + high for window, high in shapes) + 2 * PIECE
    chain = Chain(shapes, [bytes([number % 251]) * PIECE for number in range(plenty // PIECE + 1)], answered)
    near, far = chain.near, chain.far
    far.reads = False

    def bounded():
        assert chain.held <= chain.limit + PIECE

    near.write()
    far.write()
    chain.settle(bounded)
    assert near.left, "the writer is stopped"
    assert far.heard == near.said[: far.end.window], "one window has come"
    assert near.heard == far.said, "the other way goes on"
    far.read()
    chain.settle(bounded)
    assert not near.left and far.heard == near.said


@given(SHAPES, SAID, st.integers(0, 4), ORDERS)
def test_a_reader_may_stop_and_go_on_at_any_time(shapes, said, stops, order):
    chain = Chain(shapes, said, order=order)
    chain.near.write()
    for _ in range(stops):
        chain.far.reads = False
        chain.settle()
        chain.far.read()
        chain.pipes[order.randrange(len(shapes))][0].step()
    chain.settle()
    assert chain.far.heard == chain.near.said


@given(SHAPES, SAID, SAID, st.booleans(), ORDERS)
def test_each_way_ends_by_itself(shapes, said, answered, eager, order):
    """The end of one way comes behind all that was written, and leaves the other way as it is."""
    chain = Chain(shapes, said, eager=eager, order=order)
    near, far = chain.near, chain.far
    while near.left:
        near.end.write(near.left.pop(0), NOW)
    near.end.end(NOW)
    chain.settle()
    assert far.heard == near.said and far.calls == ["ended"]
    assert near.calls == [] and not any(end.over for end in chain.ends)
    assert [end.heard_end for end in chain.ends] == [False, True] * len(shapes), "one way only"
    for piece in answered:
        far.end.write(piece, NOW)
    far.end.end(NOW)
    chain.settle()
    assert near.heard == b"".join(answered) and near.calls == far.calls == ["ended"]


def test_an_end_waits_behind_what_a_stopped_reader_holds_back(eager):
    chain = Chain(WINDOWS, eager=eager)
    chain.far.reads = False
    said = bytes(range(250))
    chain.near.end.write(said, NOW)
    chain.near.end.end(NOW)
    chain.settle()
    assert chain.far.calls == []
    chain.far.read()
    chain.settle()
    assert chain.far.heard == said and chain.far.calls == ["ended"]


@pytest.mark.parametrize("from_near", [True, False])
@pytest.mark.parametrize("ended", [[], ["near"], ["far"]])
def test_an_abort_travels_the_whole_chain_with_its_code(eager, from_near, ended):
    """Whether a way has ended or not. Who aborts hears no more; who hears of it is told once."""
    chain = Chain(WINDOWS, eager=eager)
    for name in ended:
        getattr(chain, name).end.end(NOW)
    chain.settle()
    aborts, hears = (chain.near, chain.far) if from_near else (chain.far, chain.near)
    before = list(aborts.calls), list(hears.calls)
    aborts.end.abort(EndReason.HIBERNATING, NOW)
    chain.settle()
    assert (aborts.calls, hears.calls) == (before[0], [*before[1], EndReason.HIBERNATING])
    assert all(end.over for end in chain.ends)


def test_an_abort_does_not_wait_for_what_a_stopped_reader_holds_back(eager):
    chain = Chain(WINDOWS, eager=eager)
    chain.far.reads = False
    chain.near.end.write(bytes(1000), NOW)
    chain.settle()
    held = len(chain.far.heard)
    chain.near.end.abort(200, NOW)
    chain.settle()
    assert chain.far.calls == [200] and len(chain.far.heard) == held
    assert all(end.over and not end.queue for end in chain.ends)


@pytest.mark.parametrize("broken", range(len(WINDOWS)))
def test_a_pipe_that_breaks_is_told_both_ways(eager, broken):
    """As when something in the middle of a chain gives up: both its ends hear of it."""
    chain = Chain(WINDOWS, eager=eager)
    for end in chain.pipes[broken]:
        end._far_code = EndReason.DESTROY
    chain.settle()
    assert chain.near.calls == chain.far.calls == [EndReason.DESTROY]
    assert all(end.over for end in chain.ends)


def test_what_is_written_into_a_pipe_that_is_over_goes_nowhere_and_the_writer_is_told():
    """What the pipe brought before goes out the other way meanwhile."""
    chain = Chain(WINDOWS)
    closed = chain.pipes[-1][0]  # its own handler has heard all that came
    chain.far.end.write(b"last words", NOW)
    chain.settle()
    closed.over = True
    piece = bytes(MAX_DROPPED // 4)
    for _ in range(4):
        chain.near.end.write(piece, NOW)
        chain.settle()
    assert chain.near.heard == b"last words" and chain.near.calls == []
    chain.near.end.write(b"one more", NOW)
    chain.settle()
    assert chain.near.calls == [EndReason.CONNRESET]
