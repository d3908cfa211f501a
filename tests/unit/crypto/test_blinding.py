"""Vectors run in tests/ports/suite.py, on every platform."""

import random
from hashlib import sha512

import pytest

from convergence.crypto.blinding import blinded_key, blinded_scalar, ed25519_of, scalar_of, sign, sign_blinded
from convergence.errors import CryptoError
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
P = 2**255 - 19


def test_the_base_points_are_one():
    """RFC 7748, section 4.1: u = 9 is y = 4/5."""
    y = 4 * pow(5, -1, P) % P
    assert ed25519_of((9).to_bytes(32, "little"), 0) == y.to_bytes(32, "little")


@pytest.mark.parametrize(
    ("key", "sign"), [((P - 1).to_bytes(32, "little"), 0), (bytes(31), 0), (bytes(33), 0), (bytes(32), 2)]
)
def test_what_has_no_ed25519_form_is_refused(key, sign):
    with pytest.raises(CryptoError):
        ed25519_of(key, sign)


def test_the_top_bit_of_an_x25519_key_does_not_count():
    """RFC 7748, section 5: it is masked."""
    key = CRYPTO.x25519_public(bytes(range(32)))
    assert ed25519_of(key[:31] + bytes([key[31] | 128])) == ed25519_of(key)


def test_the_public_and_the_secret_key_blind_to_one_pair():
    rng = random.Random("blinding")
    for _ in range(20):
        secret, factor, message = rng.randbytes(32), rng.randbytes(32), rng.randbytes(rng.randrange(200))
        key = blinded_key(CRYPTO, CRYPTO.x25519_public(secret), factor)
        signature = sign_blinded(CRYPTO, secret, factor, message)
        assert CRYPTO.ed25519_verify(key, signature, message) and key[31] < 128
        assert sign_blinded(CRYPTO, secret, factor, message) == signature, "the nonce is of key and message"


def test_a_wrong_scalar_or_key_signs_nothing():
    secret, factor = bytes(range(32)), bytes(range(1, 33))
    key = blinded_key(CRYPTO, CRYPTO.x25519_public(secret), factor)
    signed = [sign(CRYPTO, sign_bit * blinded_scalar(secret, factor), key, b"", b"m") for sign_bit in (1, -1)]
    assert signed.count(None) == 1, "of the two secrets of a key without a sign, one is that of its form"
    assert sign(CRYPTO, scalar_of(secret), key, b"", b"m") is None


def test_nonces_differ_by_message_key_and_factor():
    points = {
        sign_blinded(CRYPTO, bytes([key]) * 32, bytes([factor]) * 32, bytes([message]))[:32]
        for key in (7, 8)
        for factor in (1, 2)
        for message in range(5)
    }
    assert len(points) == 20


def test_a_nonces_top_bits_take_all_values():
    """One X25519 secret alone is between 2^254 and 2^255, which lets nonces of many signatures tell the key."""
    order = 2**252 + 27742317777372353535851937790883648493
    counts = [0] * 8
    for number in range(4000):
        halves = sha512(number.to_bytes(4, "big")).digest()
        counts[scalar_of(halves[:32]) * scalar_of(halves[32:]) % order * 8 // order] += 1
    assert all(400 < count < 600 for count in counts)
