"""Which header is in use, and facilitators that say two things."""

import contextlib
from dataclasses import replace

import pytest

from convergence.errors import ClockError, CryptoError, ParseError, RemoteError
from convergence.netdir.headers import EPOCH, KEPT, MAX_CLOCK_SKEW, TELL_BEFORE, Headers, contradict
from convergence.wire.buckets import EpochHeader, Ring, SharedValue
from tests.unit.netdir.buckets import BEFORE, CRYPTO, DAY, FACILITATOR, NOW, SEED, VALUE

HOUR = 3600
ZERO = bytes(32)
RINGS = (Ring(1, 0, 7, ZERO),)
ANCIENT = SharedValue(b"a" * 32, BEFORE.fixed - DAY)


def header_at(
    time=NOW, *, seed=SEED, lifetime=3 * HOUR, epoch=None, value=VALUE, before=BEFORE, committed=ZERO, rings=()
):
    epoch = int(time // EPOCH) if epoch is None else epoch
    signer = CRYPTO.ed25519_public(seed)
    header = EpochHeader(epoch, int(time), int(time) + lifetime, value, before, committed, rings, signer)
    return header.sign(lambda message: CRYPTO.ed25519_sign(seed, message))


@pytest.fixture
def headers():
    return Headers(CRYPTO, lambda: FACILITATOR)


def test_the_newest_header_is_in_use_and_some_before_it_are_kept(headers):
    made = [header_at(NOW + number * EPOCH) for number in range(KEPT + 2)]
    for header in made:
        assert headers.take(header.encode(), NOW + KEPT * EPOCH)
        assert not headers.take(header.encode(), NOW + KEPT * EPOCH)
    assert headers.newest == made[-1]
    assert [headers.at(header.epoch) for header in made] == [None, None, *made[2:]]
    assert headers.contradiction is None


def test_an_older_header_does_not_replace_a_newer_one(headers):
    """Nobody brings back nodes that left."""
    newest = header_at()
    assert headers.take(newest.encode(), NOW)
    older = header_at(NOW - EPOCH)
    assert not headers.take(older.encode(), NOW)
    assert headers.newest == newest and headers.at(older.epoch) == older
    with pytest.raises(RemoteError, match="older"):
        headers.take(header_at(NOW - KEPT * EPOCH).encode(), NOW)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (header_at(seed=b"e" * 32), CryptoError),  # somebody else's, however well signed
        (replace(header_at(), signature=bytes(64)), CryptoError),
        (replace(header_at(), value=BEFORE), CryptoError),
        (header_at(epoch=5), CryptoError),
        (header_at(lifetime=7 * HOUR), CryptoError),
        (header_at(NOW + MAX_CLOCK_SKEW + 1), ClockError),
        (header_at(NOW - 3 * HOUR, value=BEFORE, before=ANCIENT), ClockError),
        (header_at(value=SharedValue(b"v" * 32, VALUE.fixed + 1)), CryptoError),  # drawn when its day had begun, nearly
        (header_at(value=SharedValue(b"v" * 32, 1 << 40)), CryptoError),
        (header_at(before=SharedValue(b"b" * 32, VALUE.fixed + 1)), CryptoError),
        (header_at(rings=(Ring(1, 16, 1000, ZERO),)), CryptoError),
    ],
)
def test_what_our_facilitator_does_not_sign_now_is_refused(headers, header, error):
    with pytest.raises(error):
        headers.take(header.encode(), NOW)
    with pytest.raises(ParseError):
        headers.take(header.encode()[:-1], NOW)
    assert headers.newest is headers.contradiction is None


# Two words

ONE = header_at(committed=b"c" * 32)
OTHER = SharedValue(b"w" * 32, VALUE.fixed)
LIES = {
    "two lists of nodes in one epoch": header_at(NOW + 1, committed=b"c" * 32),
    "another value on the same day": header_at(NOW + EPOCH, value=OTHER, committed=b"c" * 32),
    "the same value as if it were older": header_at(
        NOW + EPOCH, value=SharedValue(VALUE.value, VALUE.fixed - 5), committed=b"c" * 32
    ),
    "another value before": header_at(NOW + EPOCH, before=OTHER, committed=b"c" * 32),
    "other commitments once they were complete": header_at(NOW + EPOCH, committed=b"d" * 32),
    "no commitments once they were complete": header_at(NOW + EPOCH),
    "another value of the day before": header_at(NOW + DAY, value=OTHER, before=BEFORE),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_contradiction_is_found_whatever_comes_first_and_proves_itself(headers, lie):
    later = LIES[lie]
    assert contradict(ONE, later) and contradict(later, ONE)
    now = later.published
    for first, second in ((ONE, later), (later, ONE)):
        if first.expires <= now or second.expires <= now:
            continue
        headers = Headers(CRYPTO, lambda: FACILITATOR)
        headers.take(first.encode(), now)
        headers.take(second.encode(), now)
        found = headers.contradiction
        assert (found.first, found.second) == (first, second)
        assert found.first.verify(CRYPTO.ed25519_verify) and found.second.verify(CRYPTO.ed25519_verify)
        assert contradict(found.first, found.second)


def test_the_value_of_a_day_is_the_one_before_on_the_next(headers):
    headers.take(ONE.encode(), NOW)
    headers.take(LIES["another value of the day before"].encode(), NOW + DAY)
    assert headers.contradiction is not None
    honest = Headers(CRYPTO, lambda: FACILITATOR)
    honest.take(ONE.encode(), NOW)
    honest.take(header_at(NOW + DAY, value=OTHER, before=VALUE).encode(), NOW + DAY)
    honest.take(header_at(NOW + EPOCH + DAY, value=OTHER, before=VALUE).encode(), NOW + DAY)
    assert honest.contradiction is None


def test_headers_that_an_honest_facilitator_signs_contradict_nothing():
    announced = header_at(NOW + EPOCH, committed=b"c" * 32)
    assert not contradict(header_at(), announced)  # the commitments were not complete before
    assert not contradict(announced, header_at(NOW + 2 * EPOCH, committed=b"c" * 32))
    assert not contradict(header_at(), header_at())
    other = header_at(seed=b"e" * 32, value=BEFORE)
    assert not contradict(header_at(), other)  # another facilitator's


def test_a_header_that_is_not_our_facilitators_proves_nothing(headers):
    """Nobody can make a facilitator look like a liar."""
    headers.take(ONE.encode(), NOW)
    for forged in (
        replace(LIES["two lists of nodes in one epoch"], signature=ONE.signature),
        header_at(seed=b"e" * 32),
    ):
        with pytest.raises(CryptoError):
            headers.take(forged.encode(), NOW)
    assert headers.contradiction is None


# What spreads


def hears(node, other, now):
    """What a neighbour tells."""
    for raw in other.to_tell(now):
        with contextlib.suppress(RemoteError):
            node.take(raw, now)


def test_a_false_header_that_was_shown_to_one_at_the_end_of_an_epoch_is_found_out_in_the_next():
    """By then the facilitator shows everybody the same."""
    victim, other = Headers(CRYPTO, lambda: FACILITATOR), Headers(CRYPTO, lambda: FACILITATOR)
    other.take(header_at(NOW).encode(), NOW)
    victim.take(header_at(NOW, rings=RINGS).encode(), NOW + EPOCH - 1)
    later = header_at(NOW + EPOCH)
    for node in (victim, other):
        node.take(later.encode(), NOW + EPOCH)
    assert victim.contradiction is other.contradiction is None
    hears(victim, other, NOW + EPOCH + TELL_BEFORE)
    assert victim.contradiction is None, "told no more: it costs every node as much as the newest one"
    hears(victim, other, NOW + EPOCH + TELL_BEFORE - 1)
    assert victim.contradiction is not None
    hears(other, victim, NOW + EPOCH + TELL_BEFORE)
    assert other.contradiction is not None and len(other.to_tell(NOW)) == 3


def test_a_proof_is_one_after_its_headers_have_expired():
    finder, other = Headers(CRYPTO, lambda: FACILITATOR), Headers(CRYPTO, lambda: FACILITATOR)
    for header in (header_at(), header_at(rings=RINGS)):
        finder.take(header.encode(), NOW)
    hears(other, finder, NOW + 30 * DAY)
    assert other.contradiction is not None and other.newest is None
    other.take(header_at(NOW, rings=RINGS).encode(), NOW)  # known: costs no check


def test_a_node_that_slept_for_a_day_compares_what_it_knew():
    headers = Headers(CRYPTO, lambda: FACILITATOR)
    headers.take(header_at().encode(), NOW)
    honest = header_at(NOW + DAY, value=SharedValue(b"n" * 32, VALUE.fixed + DAY), before=VALUE)
    assert headers.take(honest.encode(), NOW + DAY) and headers.contradiction is None
    other = Headers(CRYPTO, lambda: FACILITATOR)
    other.take(header_at().encode(), NOW)
    false = header_at(NOW + DAY, value=SharedValue(b"n" * 32, VALUE.fixed + DAY), before=OTHER)
    assert other.take(false.encode(), NOW + DAY) and other.contradiction is not None


def test_what_was_said_yesterday_is_compared_all_day():
    headers = Headers(CRYPTO, lambda: FACILITATOR)
    headers.take(header_at().encode(), NOW)
    value = SharedValue(b"n" * 32, VALUE.fixed + DAY)
    for number in range(2 * KEPT):
        now = NOW + DAY + number * EPOCH
        headers.take(header_at(now, value=value, before=VALUE).encode(), now)
    with pytest.raises(ClockError):
        headers.take(header_at(NOW + EPOCH, before=ANCIENT).encode(), now)
    assert headers.contradiction is not None


def test_a_restart_forgets_no_header_that_was_in_use():
    """A facilitator must not wait for that to change its word."""
    headers = Headers(CRYPTO, lambda: FACILITATOR)
    headers.recall(header_at().encode(), NOW + EPOCH)
    headers.take(header_at(NOW + EPOCH, value=OTHER).encode(), NOW + EPOCH)
    assert headers.contradiction is not None


def test_what_a_facilitator_must_not_sign_is_refused_and_still_proves_that_it_lied():
    headers = Headers(CRYPTO, lambda: FACILITATOR)
    headers.take(header_at().encode(), NOW)
    with pytest.raises(CryptoError):
        headers.take(header_at(value=SharedValue(b"x" * 32, 1 << 40)).encode(), NOW)
    assert headers.contradiction is not None
    assert headers.newest == header_at()
