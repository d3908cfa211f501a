"""A relay's ntor key as an Ed25519 key (dir-spec, appendix C): it signs that it belongs to the relay's identity.

Does: sign with the secret key, in a way that every Ed25519 verifier accepts; the sign bit of its other form goes along.
Does not: know certificates, or how such keys sign (blinding.py).
"""

from __future__ import annotations

from hashlib import sha512

from convergence.crypto.blinding import KEY_LEN, ed25519_of, scalar_of, sign
from convergence.errors import CryptoError
from convergence.ports import Crypto

_PREFIX = b"Derive high part of ed25519 key from curve25519 key\0"


def sign_with_ntor(crypto: Crypto, secret: bytes, message: bytes) -> tuple[int, bytes]:
    """Sign with an ntor key. Returns the sign bit of its Ed25519 form and an Ed25519 signature, 64 bytes.

    Args:
        secret: X25519 secret key, 32 bytes.
    """
    public = crypto.x25519_public(secret)
    prefix = sha512(secret + _PREFIX).digest()[:KEY_LEN]
    for sign_bit in (0, 1):
        signature = sign(crypto, scalar_of(secret), ed25519_of(public, sign_bit), prefix, message)
        if signature is not None:
            return sign_bit, signature
    raise CryptoError("an ntor key that cannot sign")
