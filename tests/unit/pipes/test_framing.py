"""Messages in, messages out, whatever the pipe between does to their bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import EndReason, LocalError
from convergence.pipes.framing import MAX_MESSAGE, framing
from convergence.pipes.stage import Flaw
from tests.unit.pipes.memory import NOW, Keeper


def through(data, cuts=(), limit=MAX_MESSAGE):
    """What comes out of these bytes, ended, and the stage."""
    one = framing(limit)
    near, far = Keeper(one.near, reads=True), Keeper(one.far)
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in zip(borders, borders[1:], strict=False):
        far.end.write(data[start:stop], NOW)
    far.end.end(NOW)
    return one, near


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.lists(st.integers(0, 500), max_size=9))
def test_messages_stay_apart(messages, cuts):
    one = framing()
    near, far = Keeper(one.near), Keeper(one.far, reads=True)
    for message in messages:
        near.end.write(message, NOW)
    _, reader = through(b"".join(far.heard), cuts)
    assert reader.heard == messages and reader.calls == ["ended"]


def test_the_format():
    one = framing()
    near, far = Keeper(one.near), Keeper(one.far)
    near.end.write(b"hello", NOW)
    assert far.heard == [b"\0\0\0\x05hello"]


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (b"\0\0\0\x0b", Flaw.TOO_LONG),
        (b"\0\0\0\x01a\xff\xff\xff\xff", Flaw.TOO_LONG),
        (b"\0\0\0\0", Flaw.GARBAGE),
        (b"\0\0\0", Flaw.TRUNCATED),
        (b"\0\0\0\x05hell", Flaw.TRUNCATED),
        (b"\0\0\0\x0a0123456789", None),
        (b"", None),
    ],
)
@pytest.mark.parametrize("cuts", [(), range(20)])
def test_what_is_no_message_fails(data, flaw, cuts):
    one, near = through(data, cuts, limit=10)
    assert (one.failure and one.failure.flaw) == flaw
    assert near.calls == (["ended"] if flaw is None else [EndReason.TORPROTOCOL])


def test_a_message_that_is_too_long_is_not_written():
    one = framing(10)
    near, far = Keeper(one.near), Keeper(one.far)
    near.end.write(bytes(10), NOW)
    near.end.write(bytes(11), NOW)
    assert near.calls == far.calls == [EndReason.INTERNAL] and one.failure.flaw is Flaw.MISUSE
    assert far.heard == [b"\0\0\0\x0a" + bytes(10)]


@pytest.mark.parametrize("limit", [0, -1, 1 << 32])
def test_limits_that_a_length_cannot_have(limit):
    with pytest.raises(LocalError):
        framing(limit)


def test_no_more_than_one_incomplete_message_is_held():
    """A reader that stops leaves the rest with its writer."""
    one = framing(1000)
    far = Keeper(one.far)
    Keeper(one.near)
    message = (1000).to_bytes(4, "big") + bytes(1000)
    while not far.end.congested:
        far.end.write(message + message[:500], NOW)
        far.end.write(message[500:], NOW)
    assert len(one.incoming._transform._buffer) < 3 * len(message)
