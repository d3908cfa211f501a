"""dir-spec, appendix C. Real keys: those of tests/vectors/tor (see test_routersign.py)."""

import random

from convergence.crypto.blinding import ed25519_of
from convergence.crypto.crosscert import sign_with_ntor
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()


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
