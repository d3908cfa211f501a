from hashlib import sha256
from hmac import new as hmac_new

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import RemoteError
from convergence.rdv.blind import (
    DAY,
    OVERLAP,
    check_advert,
    common_name,
    common_names,
    days_in_use,
    next_change,
    owners_advert,
    owners_name,
    owners_names,
)
from convergence.rdv.keys import Subject
from tests.unit.ordb.memory import CRYPTO

NAME = b"n" * 32


def test_blinding_is_the_hmac_of_the_design() -> None:
    message = b"convergence:rdv" + b"i" * 32 + (20000).to_bytes(4, "big")
    assert common_name(NAME, b"i" * 32, 20000).blinded == hmac_new(NAME, message, sha256).digest()


def test_names_differ_by_point_day_and_file() -> None:
    names = {
        common_name(name, point, day)
        for name in (NAME, b"m" * 32)
        for point in (b"i" * 32, b"j" * 32)
        for day in (1, 2)
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
    assert common_names(NAME, b"i" * 32, 20000 * DAY) == [
        common_name(NAME, b"i" * 32, 20000),
        common_name(NAME, b"i" * 32, 19999),
    ]


SECRET = b"o" * 32
OWNER = CRYPTO.x25519_public(SECRET)


def test_an_owners_name_is_known_to_who_has_the_key_and_signed_for_by_who_has_the_secret() -> None:
    name = owners_name(CRYPTO, OWNER, b"i" * 32, 20000)
    advert = owners_advert(CRYPTO, SECRET, b"i" * 32, 20000, b"k" * 20)
    assert advert.name == name and name.owned and OWNER not in advert.encode()
    check_advert(CRYPTO, advert, b"k" * 20, 20000.5 * DAY)
    with pytest.raises(RemoteError):
        check_advert(CRYPTO, advert, b"l" * 20, 20000.5 * DAY)


def test_owners_names_differ_by_point_day_and_owner_and_have_nothing_of_common_ones() -> None:
    names = {
        make(key, point, day)
        for key in (OWNER, CRYPTO.x25519_public(b"m" * 32))
        for point in (b"i" * 32, b"j" * 32)
        for day in (1, 2)
        for make in (common_name, lambda *of: owners_name(CRYPTO, *of))
    }
    assert len({name.blinded for name in names}) == 16


def test_owners_names_in_use_are_those_of_the_days_in_use() -> None:
    names = [owners_name(CRYPTO, OWNER, b"i" * 32, day) for day in (20000, 19999)]
    assert owners_names(CRYPTO, OWNER, b"i" * 32, 20000 * DAY) == names


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")])
def test_a_link_that_nobody_can_own_has_common_names_only(key: bytes) -> None:
    assert owners_names(CRYPTO, key, b"i" * 32, 20000 * DAY) == []
    subject = Subject.file(key, b"k" * 32)
    assert not any(name.owned for name in subject.names(CRYPTO, b"i" * 32, 20000 * DAY))


@given(st.binary(min_size=32, max_size=32))
def test_every_link_has_names(hash_name: bytes) -> None:
    """Those made before there were owners have any 32 bytes."""
    assert Subject.file(hash_name, b"k" * 32).names(CRYPTO, b"i" * 32, 20000.5 * DAY)
