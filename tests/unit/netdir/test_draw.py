"""The shared random value: what comes of a draw, and what a draw that somebody shows proves."""

from dataclasses import replace

import pytest

from convergence.netdir.draw import (
    COMMIT_PHASE,
    Verdict,
    commitment_of,
    committed_hash,
    judge,
    number_of,
    shared_value,
    value_of,
)
from convergence.wire.buckets import DAY, SharedValue
from convergence.wire.sharedrandom import Commit, Draw
from tests.unit.netdir.buckets import CRYPTO

TODAY = 20_000
BEFORE = SharedValue(b"b" * 32, (TODAY - 2) * DAY + COMMIT_PHASE)
SEEDS = [bytes([number]) * 32 for number in range(3)]


def part(seed, number=None, *, day=TODAY):
    identity, number = CRYPTO.ed25519_public(seed), number or number_of(seed, day)
    commit = Commit(day, identity, commitment_of(identity, day, number))
    return commit.sign(lambda message: CRYPTO.ed25519_sign(seed, message)), number


DRAW = Draw(tuple(sorted((part(seed) for seed in SEEDS), key=lambda one: one[0].facilitator)))
ANNOUNCED = committed_hash(commit for commit, _ in DRAW.parts)
VALUE = value_of(DRAW, TODAY, BEFORE)


def verdict(draw, value=VALUE, announced=ANNOUNCED):
    return judge(draw, TODAY, announced, BEFORE, value, CRYPTO.ed25519_verify)


def without(draw, *numbers):
    """The numbers of these parts are not shown."""
    return Draw(tuple((commit, None if at in numbers else number) for at, (commit, number) in enumerate(draw.parts)))


def test_a_value_that_comes_of_what_was_announced_holds():
    assert verdict(DRAW) is Verdict.HOLDS
    left_out = value_of(without(DRAW, 1), TODAY, BEFORE)
    assert verdict(without(DRAW, 1), left_out) is Verdict.HOLDS
    assert verdict(DRAW, left_out) is Verdict.HOLDS  # that number may have come too late
    nothing = value_of(without(DRAW, 0, 1, 2), TODAY, BEFORE)
    assert verdict(DRAW, nothing) is Verdict.HOLDS and nothing.fixed == BEFORE.fixed


@pytest.mark.parametrize(
    "value",
    [
        SharedValue(b"x" * 32, VALUE.fixed),
        replace(VALUE, fixed=VALUE.fixed - 1),  # as if it were older: nodes that came later would count
        SharedValue(shared_value([(b"i" * 32, b"n" * 32)], BEFORE.value), VALUE.fixed),
        value_of(DRAW, TODAY, SharedValue(b"c" * 32, BEFORE.fixed)),
    ],
)
def test_a_value_that_cannot_come_of_what_was_announced_is_proven_false(value):
    assert verdict(DRAW, value) is Verdict.FALSE


def test_whoever_shows_a_draw_cannot_make_others_look_like_liars():
    late = Draw(tuple(sorted((*DRAW.parts, part(b"l" * 32)), key=lambda one: one[0].facilitator)))
    (first, _), *rest = DRAW.parts
    for draw in (
        Draw(),
        late,
        without(DRAW, 1),
        Draw(DRAW.parts[:2]),
        Draw(((first, b"w" * 32), *rest)),
        Draw(((replace(first, signature=bytes(64)), DRAW.parts[0][1]), *rest)),
        Draw((part(SEEDS[0], day=TODAY + 1),)),
    ):
        assert verdict(draw) is Verdict.NOT_SHOWN
        assert verdict(draw, SharedValue(b"x" * 32, 1)) is Verdict.NOT_SHOWN


def test_the_value_is_that_of_tor():
    """tor's src/test/sr_srv_calc_ref.py: three authorities, version 1."""
    numbers = [(ID.encode() * 20, number.encode() * 56) for ID, number in (("41", "A"), ("42", "B"), ("43", "C"))]
    expected = "2A9B1D6237DAB312A40F575DA85C147663E7ED3F80E9555395F15B515C74253D"
    assert shared_value(numbers, b"Z" * 32).hex().upper() == expected


def test_a_number_is_of_one_facilitator_and_one_day():
    assert len({number_of(seed, day) for seed in SEEDS for day in range(3)}) == 9
