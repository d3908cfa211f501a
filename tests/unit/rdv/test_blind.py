from hashlib import sha256
from hmac import new as hmac_new

from hypothesis import given
from hypothesis import strategies as st

from convergence.rdv.blind import DAY, OVERLAP, blinded, blinded_names, days_in_use, next_change

NAME = b"n" * 32


def test_blinding_is_the_hmac_of_the_design() -> None:
    message = b"convergence:rdv" + b"i" * 32 + (20000).to_bytes(4, "big")
    assert blinded(NAME, b"i" * 32, 20000) == hmac_new(NAME, message, sha256).digest()


def test_names_differ_by_point_day_and_file() -> None:
    names = {
        blinded(name, point, day) for name in (NAME, b"m" * 32) for point in (b"i" * 32, b"j" * 32) for day in (1, 2)
    }
    assert len(names) == 8


def test_two_days_names_are_in_use_around_midnight() -> None:
    midnight = 20000 * DAY
    assert days_in_use(midnight) == (20000, 19999)
    assert days_in_use(midnight + OVERLAP - 1) == (20000, 19999)
    assert days_in_use(midnight + OVERLAP) == (20000,)
    assert days_in_use(midnight - OVERLAP - 1) == (19999,)
    assert days_in_use(midnight - OVERLAP) == (19999, 20000)


@given(st.floats(0, 1e9), st.floats(-OVERLAP, OVERLAP, exclude_min=True, exclude_max=True))
def test_clocks_that_differ_by_less_than_the_overlap_meet(now: float, skew: float) -> None:
    now += DAY
    assert set(days_in_use(now)) & set(days_in_use(now + skew))


@given(st.floats(0, 1e9))
def test_the_set_of_days_stays_the_same_until_next_change_and_then_differs(now: float) -> None:
    change = next_change(now)
    assert change > now
    assert set(days_in_use(change)) != set(days_in_use(now))
    if change - now > 2:
        assert set(days_in_use(change - 1)) == set(days_in_use(now))


def test_names_in_use_have_todays_first() -> None:
    assert blinded_names(NAME, b"i" * 32, 20000 * DAY) == [
        blinded(NAME, b"i" * 32, 20000),
        blinded(NAME, b"i" * 32, 19999),
    ]
