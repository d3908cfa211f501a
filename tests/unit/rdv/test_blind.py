from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import new as hmac_new
from ipaddress import IPv4Address

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
    points_of,
    walk,
)
from convergence.rdv.keys import Subject
from convergence.wire.linkspec import tor_specifiers
from convergence.wire.target import Protocols, RelayTarget, Role
from tests.unit.ordb.memory import CRYPTO

NAME = b"n" * 32


@dataclass(frozen=True)
class Point:
    identity: bytes


POINTS = [Point(sha256(bytes([i])).digest()) for i in range(20)]


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


def test_both_ends_find_the_same_points_whatever_the_order_of_their_lists() -> None:
    chosen = points_of(NAME, POINTS)
    assert len(chosen) == 3
    assert points_of(NAME, reversed(POINTS)) == chosen
    assert points_of(NAME, [p for p in POINTS if p != chosen[1]])[:2] == [chosen[0], chosen[2]]
    assert len({tuple(p.identity for p in points_of(bytes([i]) * 32, POINTS)) for i in range(20)}) > 10


def test_few_points_are_all_used() -> None:
    assert len(points_of(NAME, POINTS[:2])) == 2
    assert list(points_of(NAME, [])) == []


def ring_with(*reached: int) -> list[RelayTarget]:
    """Ten points, those of these places with an address for relays of Tor."""
    none = RelayTarget(b"", (), bytes(20), bytes(32), Protocols(0), Role.RDV, frozenset(), False)
    specifiers = tor_specifiers(IPv4Address("192.0.2.7"), 9443, bytes(20), bytes(32))
    return [
        replace(none, identity=bytes([place]) * 32, tor_specifiers=specifiers if place in reached else ())
        for place in range(10)
    ]


def places(chosen: list[RelayTarget]) -> list[int]:
    return [point.identity[0] for point in chosen]


def test_where_some_points_take_links_of_relays_of_tor_each_end_works_with_one_of_them() -> None:
    """So that it meets ends behind Tor, who see no others."""
    assert places(walk(ring_with(5, 7), lambda point: None, 3)) == [0, 1, 2, 5]
    assert places(walk(ring_with(1, 7), lambda point: None, 3)) == [0, 1, 2]
    assert places(walk(ring_with(), lambda point: None, 3)) == [0, 1, 2]
    only = [point for point in ring_with(5, 7) if point.tor_specifiers]
    assert places(walk(only, lambda point: None, 3)) == [5, 7]


def test_one_that_does_not_answer_counts_for_nothing_there() -> None:
    def silent(*numbers: int) -> Callable[[RelayTarget], bool | None]:
        return lambda point: point.identity[0] not in numbers

    assert places(walk(ring_with(5, 7), silent(5), 3)) == [0, 1, 2, 7]
    assert places(walk(ring_with(1, 7), silent(1), 3)) == [0, 1, 2, 3, 7]
    assert places(walk(ring_with(5, 7), silent(5, 7), 3)) == [0, 1, 2]


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
