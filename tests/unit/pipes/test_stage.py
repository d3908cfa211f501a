"""Stages in chains of pipes: what passes, who ends and aborts, and what waits for a reader that stops."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import EndReason, LocalError, StreamError
from convergence.pipes import coding, stage
from convergence.pipes.framing import framing
from convergence.pipes.stage import CHUNK, HIGH, LOW, Flaw, Plain, Stage, StageError
from convergence.pipes.watching import Meter, Tee
from tests.unit.pipes.memory import NOW, Chain, Keeper, Reversed, User

PIECE = 40  # bytes at most in what is written at once
MAKERS = {"plain": lambda: Stage(Plain(), Plain()), "gzip": coding.gzip, "deflate": coding.deflate} | {
    "framing": framing,
    "meter": Meter,
    "tee": Tee,
}
SAID = st.lists(st.binary(min_size=1, max_size=PIECE), max_size=12)
ORDERS = st.randoms(use_true_random=False)
NAMES = st.lists(st.sampled_from(sorted(MAKERS)), max_size=5)
WINDOWS = st.tuples(st.integers(1, 60), st.integers(0, 60))


def chain_through(names, shapes, said=(), answered=(), **options):
    """near -> the stages -> a pipe -> the same stages backwards -> far. `shapes`: of the three pipes."""
    there, back = ([MAKERS[name]() for name in names] for _ in range(2))
    between = [there, [Reversed(each) for each in reversed(back)]]
    chain = Chain(shapes, said, answered, between=between, **options)
    chain.stages = there + back
    return chain


THREE = st.lists(WINDOWS, min_size=3, max_size=3)


@given(NAMES, THREE, SAID, SAID, st.booleans(), ORDERS)
def test_what_goes_through_stages_and_back_comes_out_whole(names, shapes, said, answered, eager, order):
    """The pipes between cut it anywhere."""
    chain = chain_through(names, shapes, said, answered, eager=eager, order=order)
    for user in (chain.near, chain.far):
        user.write()
    chain.settle()
    assert (chain.far.heard, chain.near.heard) == (chain.near.said, chain.far.said)
    assert not any(end.queue or end.unused for end in chain.ends), "all credit is given back"
    for way in ways(chain):
        assert (way._account, way._unused, len(way._marks)) == (0, 0, 0)


def ways(chain):
    return [way for each in chain.stages for way in (each.outgoing, each.incoming)]


@given(NAMES, THREE, SAID, SAID, st.booleans(), st.booleans(), ORDERS)
def test_each_way_ends_by_itself(names, shapes, said, answered, near_first, eager, order):
    chain = chain_through(names, shapes, said, answered, eager=eager, order=order)
    first, second = (chain.near, chain.far) if near_first else (chain.far, chain.near)
    for user, other, ends in ((first, second, 1), (second, first, 2)):
        while user.left:
            user.end.write(user.left.pop(0), NOW)
        user.end.end(NOW)
        chain.settle()
        assert other.heard == user.said and other.calls == ["ended"]
        assert [each.closed for each in chain.stages] == [ends == 2] * len(chain.stages)
    assert all(each.failure is None for each in chain.stages)


@given(NAMES, THREE, SAID, st.integers(0, 6), st.booleans(), ORDERS)
def test_an_abort_reaches_both_ends_from_any_place(names, shapes, said, place, eager, order):
    chain = chain_through([*names, "plain"], shapes, said, eager=eager, order=order)
    chain.near.write()
    spots = [chain.near.end, chain.far.end, *chain.stages]
    spot = spots[place % len(spots)]
    by = [user for user in (chain.near, chain.far) if user.end is spot]
    spot.abort(EndReason.HIBERNATING, NOW)
    chain.settle()
    for user in (chain.near, chain.far):
        assert user.calls == ([] if user in by else [EndReason.HIBERNATING])
    assert all(each.closed and each.near.handler is each.far.handler is None for each in chain.stages)
    assert all(end.over for end in chain.ends)
    assert not any(way._input or way._account for way in ways(chain))


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_reader_that_stops_stops_the_writer(name):
    """What waits in a stage is HIGH bytes of input, what the pipe before it hands up without credit (HIGH for a
    stage), and HIGH bytes of output."""
    size, window = 1 << 14, 1000
    noise = random.Random(1)
    pieces = [noise.randbytes(size) for _ in range(200)]
    chain = chain_through([name] * 2, [(window, window)] * 3, pieces, [b"answer"])
    near, far = chain.near, chain.far
    far.reads = False

    most = 0

    def bounded():
        nonlocal most
        for way in ways(chain):
            most = max(most, way._account, way._unused)
            assert way._account <= 2 * HIGH
            assert way._unused <= HIGH

    near.write()
    far.write()
    chain.settle(bounded)
    bounded()
    assert near.left and most > HIGH, "the writer is stopped"
    assert len(far.heard) == window and near.heard == b"answer", "the other way goes on"
    far.read()
    chain.settle(bounded)
    assert not near.left and far.heard == near.said


# -- one stage by itself


def both(one):
    return Keeper(one.near), Keeper(one.far)


def test_credit_comes_back_as_output_is_consumed():
    one = Stage(Plain(), Plain())
    near, far = both(one)
    for _ in range(10):
        near.end.write(bytes(CHUNK), NOW)
    assert near.end.congested and far.size == HIGH
    for consumed in range(1, 11):
        far.end.consumed(CHUNK, NOW)
        assert one.outgoing._account == (10 - consumed) * CHUNK
        assert near.calls == (["drained"] if (10 - consumed) * CHUNK <= LOW else [])
    assert far.size == 10 * CHUNK and not near.end.congested


def test_half_of_the_output_of_an_input_gives_none_of_its_credit():
    one = Stage(Plain(), Plain())
    near, far = both(one)
    near.end.write(bytes(100), NOW)
    far.end.consumed(99, NOW)
    assert one.outgoing._account == 100
    far.end.consumed(1, NOW)
    assert one.outgoing._account == 0
    with pytest.raises(LocalError):
        far.end.consumed(1, NOW)


def test_nothing_is_lost_that_is_written_before_there_is_a_reader():
    one = Stage(Plain(), Plain())
    one.near.write(b"early", NOW)
    one.near.end(NOW)
    far = Keeper(one.far)
    one.near.joint_opened(NOW)
    assert far.heard == [b"early"] and far.calls == ["opened", "ended"]


def test_that_a_pipe_opens_is_told_through_all_stages():
    first, second = Stage(Plain(), Plain()), Stage(Plain(), Plain())
    far = Keeper(first.pipe(second))
    near = Keeper(first.near)
    far.end.joint_opened(NOW)
    assert near.calls == ["opened"] and far.calls == []


def test_a_pipe_may_open_while_nobody_listens():
    one = Stage(Plain(), Plain())
    one.far.joint_opened(NOW)
    near, far = both(one)
    near.end.write(b"x", NOW)
    assert far.heard == [b"x"] and near.calls == []


def test_a_writer_that_has_ended_is_not_told_that_it_may_go_on():
    one = Stage(Plain(), Plain())
    near, far = both(one)
    for _ in range(6):
        near.end.write(bytes(CHUNK), NOW)
    near.end.end(NOW)
    while far.heard:
        far.end.consumed(len(far.heard.pop()), NOW)
    assert near.calls == [] and far.calls == ["ended"]


class Later:
    """A transform whose output comes later."""

    def __init__(self):
        self.ready = []
        self.fed = []

    def feed(self, data, now):
        self.fed.append(data)
        while not self.ready:
            yield None
        yield self.ready.pop(0)

    def finish(self, now):
        while not self.ready:
            yield None
        yield from self.ready


def test_output_may_come_later_than_input():
    later = Later()
    one = Stage(later, Plain())
    near, far = both(one)
    near.end.write(b"one", NOW)
    near.end.write(b"two", NOW)
    near.end.end(NOW)
    assert later.fed == [b"one"] and far.heard == []
    one.outgoing.push(b"hello", NOW)
    assert far.heard == [b"hello"], "what is pushed passes by"
    for number, output in enumerate((b"ONE", b"TWO", b"END")):
        assert far.calls == []
        later.ready.append(output)
        one.resume(NOW)
        assert far.heard[1 + number :] == [output]
    assert far.calls == ["ended"]


def test_nothing_comes_after_the_end_of_a_way_not_even_what_is_pushed():
    one = Stage(Plain(), Plain())
    near, far = both(one)
    near.end.end(NOW)
    one.outgoing.push(b"late", NOW)
    assert far.calls == ["ended"] and far.heard == [] and one.outgoing.pushed == 0


def test_what_is_pushed_waits_for_the_reader_as_all_does():
    one = Stage(Plain(), Plain())
    near, far = both(one)
    near.end.write(bytes(HIGH), NOW)
    one.outgoing.push(b"hello", NOW)
    assert far.size == HIGH
    far.end.consumed(HIGH, NOW)
    assert far.heard[1:] == [b"hello"]


class Failing:
    """Gives what it is fed, then fails."""

    def __init__(self, error):
        self.error = error

    def feed(self, data, now):
        yield data
        raise self.error

    def finish(self, now):
        raise self.error


@pytest.mark.parametrize("error", [StageError(Flaw.GARBAGE), StageError(Flaw.MISUSE), StreamError("why", 77)])
@pytest.mark.parametrize("ends", [True, False])
def test_a_failure_aborts_both_ends_behind_what_came_before(error, ends):
    one = Stage(Plain(), Failing(error))
    near, far = both(one)
    if ends:
        far.end.end(NOW)
    else:
        far.end.write(b"data", NOW)
    assert near.heard == ([] if ends else [b"data"])
    assert near.calls == far.calls == [error.reason] and one.closed and one.failure is error
    assert StageError(Flaw.GARBAGE).reason == EndReason.TORPROTOCOL
    assert StageError(Flaw.MISUSE).reason == EndReason.INTERNAL


def test_a_failure_behind_an_abort_changes_nothing():
    """As when the user aborts from within what the transform caused, and the transform then fails."""
    one = Stage(Plain(), Plain())
    near, far = both(one)
    near.end.abort(EndReason.MISC, NOW)
    one.fail(StageError(Flaw.GARBAGE), NOW)
    assert far.calls == [EndReason.MISC] and near.calls == [] and one.failure is None


def test_whoever_has_ended_and_heard_the_end_hears_no_more():
    """The far end aborts what it has not read yet."""
    one = Stage(Plain(), Plain())
    near, far = both(one)
    near.end.write(bytes(3 * HIGH), NOW)
    near.end.write(b"more", NOW)
    near.end.end(NOW)
    far.end.end(NOW)
    assert near.calls == ["ended"] and far.calls == [] and not one.closed
    far.end.abort(EndReason.MISC, NOW)
    assert near.calls == ["ended"] and far.calls == [] and one.closed


@pytest.mark.parametrize("call", ["write", "end", "abort", "consumed"])
@pytest.mark.parametrize("aborted", [True, False])
def test_an_end_that_is_over_ignores_everything(call, aborted):
    one = Stage(Plain(), Plain())
    near, far = both(one)
    if aborted:
        far.end.abort(EndReason.MISC, NOW)
    else:
        far.end.end(NOW)
        near.end.end(NOW)
    before = list(near.calls), list(far.calls)
    arguments = {"write": (b"x", NOW), "end": (NOW,), "abort": (1, NOW), "consumed": (5, NOW)}[call]
    getattr(near.end, call)(*arguments)
    one.outgoing.push(b"x", NOW)
    assert (near.calls, far.calls) == before and far.heard == [] and near.end.closed


def test_handlers_may_call_back_at_any_depth():
    """Each user answers each byte with the next number, from within the call that brings it."""
    one = Stage(Plain(), Plain())
    near, far = both(one)

    def answer(user):
        def data(data, now):
            user.heard.append(data)
            user.end.consumed(len(data), now)
            if data[0] < 200:
                user.end.write(bytes([data[0] + 1]), now)

        return data

    near.data, far.data = answer(near), answer(far)
    near.end.write(b"\0", NOW)
    assert b"".join(itertools.chain(*zip(far.heard, near.heard, strict=False))) == bytes(range(200))
    assert far.heard[-1] == bytes([200])


def test_a_handler_may_abort_while_it_is_given_data():
    one = coding.gzip()
    near, far = both(one)
    packer = Keeper(coding.gzip().near)
    other = packer.end._stage
    packed = Keeper(other.far)
    packer.end.write(bytes(4 * CHUNK), NOW)
    near.data = lambda data, now: near.end.abort(EndReason.MISC, now)
    far.end.write(b"".join(packed.heard), NOW)
    assert far.calls == [EndReason.MISC] and one.closed


def test_a_chain_reads_as_the_proposal_writes_it():
    http, parser, gzip, tls, tor = (Stage(Plain(), Plain()) for _ in range(5))
    end = http.far.pipe(parser).pipe(gzip).pipe(tls).pipe(tor.near)
    assert end is tor.near
    user, network = Keeper(http.near), User(tor.far)
    user.end.write(b"GET", NOW)
    network.end.write(b"200", NOW)
    assert network.heard == b"GET" and user.heard == [b"200"]


def test_the_limits_are_as_they_must_be():
    assert 0 < LOW < HIGH and CHUNK <= HIGH and stage.CHUNK == CHUNK
