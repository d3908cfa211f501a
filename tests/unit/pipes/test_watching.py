"""A meter counts, a tee copies, and what passes knows nothing of either."""

import pytest

from convergence.errors import EndReason
from convergence.pipes.stage import HIGH, Plain, Stage
from convergence.pipes.watching import Meter, Tee
from tests.unit.pipes.memory import Keeper


def test_a_meter_counts_each_way_and_when():
    meter = Meter()
    near, far = Keeper(meter.near), Keeper(meter.far)
    assert (meter.sent.first, meter.sent.last, meter.sent.ended) == (None, None, None)
    near.end.write(b"12345", 1.0)
    near.end.write(b"678", 2.5)
    far.end.write(b"ab", 4.0)
    near.end.end(9.0)
    sent, received = meter.sent, meter.received
    assert (sent.bytes, sent.first, sent.last, sent.ended) == (8, 1.0, 2.5, 9.0)
    assert (received.bytes, received.first, received.last, received.ended) == (2, 4.0, 4.0, None)
    assert far.heard == [b"12345", b"678"] and near.heard == [b"ab"] and far.calls == ["ended"]


def test_a_meter_keeps_times_as_it_is_told():
    meter = Meter(lambda now: now - 100)
    Keeper(meter.far)
    meter.near.write(b"x", 130.0)
    assert meter.sent.last == 30.0


def teed():
    """A tee, its two users, and the stages that are its sinks."""
    sinks = Stage(Plain(), Plain()), Stage(Plain(), Plain())
    tee = Tee(sinks[0].near, sinks[1].near)
    return tee, Keeper(tee.near, reads=True), Keeper(tee.far, reads=True), [Keeper(sink.far) for sink in sinks]


def test_a_tee_copies_each_way_into_its_sink_with_the_end():
    tee, near, far, (sent, received) = teed()
    near.end.write(b"question", 1.0)
    far.end.write(b"answer", 1.0)
    near.end.end(1.0)
    assert sent.heard == far.heard == [b"question"] and received.heard == near.heard == [b"answer"]
    assert sent.calls == ["ended"] and received.calls == []
    far.end.end(1.0)
    assert received.calls == ["ended"]


@pytest.mark.parametrize("aborts", ["near", "far"])
def test_an_abort_reaches_the_sinks(aborts):
    tee, near, far, sinks = teed()
    {"near": near, "far": far}[aborts].end.abort(EndReason.HIBERNATING, 1.0)
    assert [sink.calls for sink in sinks] == [[EndReason.HIBERNATING]] * 2


def test_a_sink_that_is_slow_is_given_up_and_what_passes_is_not():
    """Its copy is whole up to some place; what waits for it is bounded."""
    tee, near, far, (sent, received) = teed()
    pieces = [bytes([number]) * 10_000 for number in range(200)]
    for piece in pieces:
        near.end.write(piece, 1.0)
        far.end.write(b"tick", 1.0)
    assert far.heard == pieces and far.calls == near.calls == []
    assert sent.calls == [EndReason.RESOURCELIMIT]
    assert b"".join(pieces).startswith(b"".join(sent.heard)) and sent.size <= HIGH
    assert len(received.heard) == 200 and received.calls == []


def test_a_sink_that_aborts_is_left_alone():
    tee, near, far, (sent, _) = teed()
    sent.end.abort(EndReason.MISC, 1.0)
    near.end.write(b"more", 1.0)
    near.end.end(1.0)
    assert far.heard == [b"more"] and far.calls == ["ended"] and sent.calls == []


def test_a_tee_needs_no_sink():
    tee = Tee()
    far = Keeper(tee.far)
    tee.near.write(b"x", 1.0)
    tee.near.abort(1, 1.0)
    assert far.heard == [b"x"] and far.calls == [1]
