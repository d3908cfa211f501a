"""What is stored of guards comes back, and nothing else is taken for it."""

import pytest

from convergence.errors import ParseError
from convergence.path.guardrecord import (
    DAY,
    MAX_GUARDS,
    RETRY_OTHERS,
    RETRY_PRIMARY,
    Guard,
    GuardParams,
    Reachable,
    decode_guards,
    encode_guards,
)
from tests.unit.circuit.rig import SeededRng
from tests.unit.path.tornetwork import TorNetwork

NOW = 1_800_000_000


def guards(count):
    """A sample, of which every third is confirmed, the last one first."""
    sample = [Guard(number.to_bytes(20, "big"), NOW + number) for number in range(1, count + 1)]
    for guard in sample[::3]:
        guard.confirmed = guard.added + 5
    for guard in sample[::4]:
        guard.unlisted = guard.added + 7
    return sample, sample[::3][::-1]


def facts(guards):
    return [(guard.identity, guard.added, guard.confirmed, guard.unlisted) for guard in guards]


@pytest.mark.parametrize("count", [0, 1, 20, MAX_GUARDS])
def test_a_sample_comes_back_in_its_order(count):
    sample, confirmed = guards(count)
    data = encode_guards(sample, confirmed)
    assert len(data) == 1 + 45 * count
    again, again_confirmed = decode_guards(data)
    assert facts(again) == facts(sample) and facts(again_confirmed) == facts(confirmed)
    assert all(guard.reachable is Reachable.MAYBE and not guard.pending for guard in again)


def records(*parts):
    return b"\1" + b"".join(parts)


def entry(number, confirmed=0, place=255):
    return (
        number.to_bytes(20, "big") + b"".join(date.to_bytes(8, "big") for date in (NOW, confirmed, 0)) + bytes([place])
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\2" + entry(1),
        records(entry(1)[:-1]),
        records(entry(1), entry(1)),
        records(entry(1, NOW, 0), entry(2, NOW, 0)),
        records(entry(1, NOW)),
        records(entry(1, 0, 3)),
        records(*map(entry, range(1, MAX_GUARDS + 2))),
    ],
)
def test_what_contradicts_itself_is_refused(data):
    with pytest.raises(ParseError):
        decode_guards(data)


def test_parameters_are_those_of_the_consensus():
    assert GuardParams.of(TorNetwork([]).consensus()) == GuardParams()
    params = GuardParams.of(
        TorNetwork([], params="guard-lifetime-days=30 guard-max-sample-size=5000 guard-n-primary-guards=0").consensus()
    )
    assert params == GuardParams(lifetime=30 * DAY, sample=MAX_GUARDS, primary=1)


@pytest.mark.parametrize(("guards", "most"), [(0, 20), (50, 20), (200, 40), (9000, 60)])
def test_how_many_are_sampled(guards, most):
    assert GuardParams().max_sample(guards) == most


@pytest.mark.parametrize(("primary", "bounds"), [(True, RETRY_PRIMARY), (False, RETRY_OTHERS)])
def test_retries_come_later_and_later_but_never_never(primary, bounds):
    guard, rng, delays = Guard(bytes(20), NOW), SeededRng("retries"), []
    for _ in range(60):
        guard.failed(rng, 1000.0, primary)
        delays.append(guard.retry_at - 1000.0)
    least, most = bounds
    assert min(delays) >= least and max(delays) <= most
    assert all(later <= max(3 * before, least + 1) for before, later in zip(delays, delays[1:], strict=False))
    assert max(delays) > most / 4
    guard.worked(2000.0)
    guard.failed(rng, 2000.0, primary)
    assert guard.retry_at - 2000.0 <= least + 1
