"""dir-spec, appendix C. Real keys: those of tests/vectors/tor (see test_routersign.py)."""

import random

import pytest

from convergence.crypto.crosscert import ed25519_of, sign_with_ntor
from convergence.errors import CryptoError
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
P = 2**255 - 19


def test_a_secret_signs_as_the_ed25519_form_of_its_public_key():
    rng = random.Random("crosscert")
    signs = set()
    for _ in range(20):
        secret, message = rng.randbytes(32), rng.randbytes(rng.randrange(200))
        sign_bit, signature = sign_with_ntor(CRYPTO, secret, message)
        public = CRYPTO.x25519_public(secret)
        assert CRYPTO.ed25519_verify(ed25519_of(public, sign_bit), signature, message)
        assert not CRYPTO.ed25519_verify(ed25519_of(public, 1 - sign_bit), signature, message)
        assert not CRYPTO.ed25519_verify(ed25519_of(public, sign_bit), signature, message + b"x")
        assert sign_with_ntor(CRYPTO, secret, message) == (sign_bit, signature), "the nonce is of key and message"
        signs.add(sign_bit)
    assert signs == {0, 1}


def test_nonces_of_two_messages_differ():
    points = {sign_with_ntor(CRYPTO, bytes(range(32)), bytes([number]))[1][:32] for number in range(20)}
    assert len(points) == 20


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
