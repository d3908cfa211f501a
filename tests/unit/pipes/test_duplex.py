"""Pipes joined into a chain: what is written at one end comes out at the other, and so do ends, aborts and stops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import EndReason
from convergence.pipes.duplex import MAX_DROPPED
from tests.unit.pipes.memory import NOW, Chain

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


def test_an_abort_comes_after_what_was_carried_on_before_it(eager):
    """What the first pipe still held is lost; what it had handed on is not, however late it is read."""
    chain = Chain(WINDOWS, eager=eager)
    chain.far.reads = False
    said = bytes(number % 251 for number in range(1000))
    chain.near.end.write(said, NOW)
    chain.settle()
    held = len(chain.near.end.queue)
    chain.near.end.abort(200, NOW)
    chain.settle()
    chain.far.reads = True
    chain.far.read()
    chain.settle()
    assert chain.far.calls == [200] and chain.far.heard == said[: len(said) - held]
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
