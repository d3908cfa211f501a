"""Commitments and draws as bytes."""

from dataclasses import replace

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.sharedrandom import MAX_FACILITATORS, Commit, Draw

ONE, OTHER = (Commit(5, bytes([number]) * 32, b"c" * 32, b"s" * 64) for number in (1, 2))


def test_a_draw_comes_back():
    assert Commit.parse(ONE.encode()) == ONE
    for parts in ((), ((ONE, None),), ((ONE, b"n" * 32), (OTHER, None))):
        assert Draw.parse(Draw(parts).encode()) == Draw(parts)


def test_a_signature_is_over_everything():
    signed = ONE.sign(lambda message: message[-64:])
    assert signed.verify(lambda key, signature, message: key == ONE.facilitator and message.endswith(ONE.body()))


@pytest.mark.parametrize(
    "parts",
    [
        ((OTHER, None), (ONE, None)),  # not in order
        ((ONE, None), (ONE, b"n" * 32)),  # one facilitator twice
        ((ONE, None), (replace(OTHER, day=6), None)),  # of two days
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts):
    with pytest.raises(ParseError):
        Draw.parse(Draw(parts).encode())


def test_limits():
    many = tuple((replace(ONE, facilitator=bytes([number]) * 32), None) for number in range(MAX_FACILITATORS + 1))
    with pytest.raises(LocalError):
        Draw(many).encode()
    with pytest.raises(ParseError):
        Draw.parse(b"".join(commit.encode() + b"\0" for commit, _ in many))
    for raw in (ONE.encode() + b"\2", ONE.encode() + b"\1" + bytes(31), ONE.encode()):
        with pytest.raises(ParseError):
            Draw.parse(raw)
