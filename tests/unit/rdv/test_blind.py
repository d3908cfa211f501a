from collections import Counter
from hashlib import sha3_256, sha256
from hmac import new as hmac_new

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto.blinding import blinded_key
from convergence.errors import RemoteError
from convergence.rdv.blind import (
    DAY,
    OVERLAP,
    check_advert,
    common_name,
    common_names,
    day_begins,
    day_of,
    days_in_use,
    next_change,
    owners_advert,
    owners_name,
    owners_names,
)
from convergence.rdv.keys import Subject
from convergence.wire.rdv import Advert, Name, Proof
from tests.unit.ordb.memory import CRYPTO

NAME = b"n" * 32
POINT = b"i" * 32
CHANGE = 20000 * DAY + day_begins(POINT)  # when its day 20000 begins


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


def test_two_days_names_are_in_use_around_the_change() -> None:
    assert days_in_use(CHANGE, POINT) == (20000, 19999)
    assert days_in_use(CHANGE + OVERLAP - 1, POINT) == (20000, 19999)
    assert days_in_use(CHANGE + OVERLAP, POINT) == (20000,)
    assert days_in_use(CHANGE - OVERLAP - 1, POINT) == (19999,)
    assert days_in_use(CHANGE - OVERLAP, POINT) == (19999, 20000)


def test_the_days_of_points_begin_all_through_the_day() -> None:
    hours = Counter(day_begins(number.to_bytes(32, "big")) * 24 // DAY for number in range(2400))
    assert sorted(hours) == list(range(24)) and all(50 < points < 150 for points in hours.values())


@given(st.floats(0, 1e9), st.binary(min_size=32, max_size=32))
def test_a_points_day_began_less_than_a_day_ago(now: float, point: bytes) -> None:
    now += 2 * DAY
    assert 0 <= now - day_of(now, point) * DAY - day_begins(point) < DAY
    for day in days_in_use(now, point):
        advert = Advert.add(Name(bytes(32), owned=True), Proof(day, bytes(64)))
        with pytest.raises(RemoteError, match="did not make"):  # not for its day
            check_advert(CRYPTO, advert, b"k" * 20, now)


@given(
    st.floats(0, 1e9),
    st.floats(-OVERLAP, OVERLAP, exclude_min=True, exclude_max=True),
    st.binary(min_size=32, max_size=32),
)
def test_clocks_that_differ_by_less_than_the_overlap_meet(now: float, skew: float, point: bytes) -> None:
    now += DAY
    assert set(days_in_use(now, point)) & set(days_in_use(now + skew, point))


@given(st.floats(0, 1e9), st.binary(min_size=32, max_size=32))
def test_the_set_of_days_stays_the_same_until_next_change_and_then_differs(now: float, point: bytes) -> None:
    change = next_change(now, point)
    assert change > now
    assert set(days_in_use(change + 1e-3, point)) != set(days_in_use(now, point))
    if change - now > 2:
        assert set(days_in_use(change - 1, point)) == set(days_in_use(now, point))


def test_names_in_use_have_todays_first() -> None:
    assert common_names(NAME, POINT, CHANGE) == [common_name(NAME, POINT, day) for day in (20000, 19999)]


SECRET = b"o" * 32
OWNER = CRYPTO.x25519_public(SECRET)


def test_an_owners_name_is_known_to_who_has_the_key_and_signed_for_by_who_has_the_secret() -> None:
    name = owners_name(CRYPTO, OWNER, b"i" * 32, 20000)
    advert = owners_advert(CRYPTO, SECRET, b"i" * 32, 20000, b"k" * 20)
    assert advert.name == name and name.owned and OWNER not in advert.encode()
    check_advert(CRYPTO, advert, b"k" * 20, 20000.5 * DAY)
    with pytest.raises(RemoteError):
        check_advert(CRYPTO, advert, b"l" * 20, 20000.5 * DAY)


def test_an_owners_name_and_proof_are_those_of_the_protocol() -> None:
    """The key is in the factor. Without it a point, which knows all else, could take the factor off again, and would
    have the key; so would whoever sees names of two points."""
    day = (20000).to_bytes(4, "big")
    factor = sha3_256(b"convergence:owner" + OWNER + POINT + day).digest()
    advert = owners_advert(CRYPTO, SECRET, POINT, 20000, b"k" * 20)
    assert owners_name(CRYPTO, OWNER, POINT, 20000).blinded == advert.blinded == blinded_key(CRYPTO, OWNER, factor)
    message = b"convergence:advert:1" + b"k" * 20 + day + advert.blinded
    assert advert.proof is not None and CRYPTO.ed25519_verify(advert.blinded, advert.proof.signature, message)


def test_an_owners_advert_without_a_proof_is_refused() -> None:
    name = owners_name(CRYPTO, OWNER, POINT, 20000)
    with pytest.raises(RemoteError):
        check_advert(CRYPTO, Advert.add(name), b"k" * 20, 20000.5 * DAY)


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
    names = [owners_name(CRYPTO, OWNER, POINT, day) for day in (20000, 19999)]
    assert owners_names(CRYPTO, OWNER, POINT, CHANGE) == names


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")])
def test_a_link_that_nobody_can_own_has_common_names_only(key: bytes) -> None:
    assert owners_names(CRYPTO, key, b"i" * 32, 20000 * DAY) == []
    subject = Subject.file(key, b"k" * 32)
    assert not any(name.owned for name in subject.names(CRYPTO, b"i" * 32, 20000 * DAY))


@given(st.binary(min_size=32, max_size=32))
def test_every_link_has_names(hash_name: bytes) -> None:
    """Those made before there were owners have any 32 bytes."""
    assert Subject.file(hash_name, b"k" * 32).names(CRYPTO, b"i" * 32, 20000.5 * DAY)
