"""The arithmetic of edwards25519, beside libsodium's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings as sodium

from convergence.crypto.edwards import BASE, COFACTOR, NEUTRAL, ORDER, P, Point
from convergence.errors import CryptoError

SCALARS = st.integers(1, ORDER - 1)
# Of order 8, 4 and 2 (Curve25519's paper, "Known points of low order", in Edwards form), and the neutral point.
LOW_ORDER = [
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0100000000000000000000000000000000000000000000000000000000000000",
]


def little(scalar: int) -> bytes:
    return scalar.to_bytes(32, "little")


@settings(max_examples=25)
@given(SCALARS, SCALARS)
def test_multiples_and_sums_are_those_of_libsodium(one, other):
    p, q = BASE * one, BASE * other
    assert p.encode() == sodium.crypto_scalarmult_ed25519_base_noclamp(little(one))
    assert (p * other).encode() == sodium.crypto_scalarmult_ed25519_noclamp(little(other), p.encode())
    assert (p + q).encode() == sodium.crypto_core_ed25519_add(p.encode(), q.encode())
    assert (p - q).encode() == sodium.crypto_core_ed25519_sub(p.encode(), q.encode())
    assert (p + p).encode() == (p * 2).encode()
    assert Point.decode(p.encode()).encode() == p.encode()


def test_the_base_point_has_its_order():
    assert BASE.encode().hex() == "58" + 31 * "66"
    assert (BASE * ORDER).neutral and not (BASE * (ORDER - 1)).neutral
    assert (BASE * (ORDER - 1) + BASE).encode() == NEUTRAL.encode() == (BASE * 0).encode()
    assert (BASE + NEUTRAL).encode() == BASE.encode()


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_vanish_with_the_cofactor(point):
    assert (Point.decode(bytes.fromhex(point)) * COFACTOR).neutral


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BASE.encode()[:31],
        BASE.encode() + b"\0",
        little(P),  # 0 that is not reduced
        little(P + 1),
        little(2),  # on the twist
        little(1 | 1 << 255),  # x is 0, which has no sign
        b"\xff" * 32,
    ],
)
def test_what_is_no_point_or_another_encoding_of_one_is_refused(data):
    with pytest.raises(CryptoError):
        Point.decode(data)
