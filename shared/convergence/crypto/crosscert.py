"""A relay's ntor key as an Ed25519 key (dir-spec, appendix C): it signs that it belongs to the relay's identity.

Does: convert the public key, and sign with the secret one, in a way that every Ed25519 verifier accepts.
Does not: know certificates.

X25519 and Ed25519 are one curve in two forms. An X25519 key lacks one bit, the sign of the other form's x coordinate,
which therefore goes along.
"""

from __future__ import annotations

from hashlib import sha512

from convergence.errors import CryptoError
from convergence.ports import Crypto

KEY_LEN = 32
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_PREFIX = b"Derive high part of ed25519 key from curve25519 key\0"


def ed25519_of(ntor_key: bytes, sign_bit: int) -> bytes:
    """The Ed25519 public key, 32 bytes, of an X25519 public key and a sign: y = (u - 1) / (u + 1).

    Raises:
        CryptoError: there is none.
    """
    u = int.from_bytes(ntor_key, "little") & ((1 << 255) - 1)
    if len(ntor_key) != KEY_LEN or (u + 1) % _P == 0 or sign_bit not in (0, 1):
        raise CryptoError("an ntor key that has no Ed25519 form")
    y = (u - 1) * pow(u + 1, -1, _P) % _P
    return (y | sign_bit << 255).to_bytes(KEY_LEN, "little")


def sign_with_ntor(crypto: Crypto, secret: bytes, message: bytes) -> tuple[int, bytes]:
    """Sign with an ntor key. Returns the sign bit of its Ed25519 form and an Ed25519 signature, 64 bytes.

    The signature is made of what the platform's X25519 computes in constant time. It gives points without their sign,
    so the right one of the signs of the key and of the nonce's point is found by verifying. A nonce is clamped, as
    all X25519 secrets are. That costs it one bit of 252, which tells of the key what one bit can: harmless for the few
    dozen signatures that a key makes in its weeks.

    Args:
        secret: X25519 secret key, 32 bytes.
    """
    public = crypto.x25519_public(secret)
    scalar = _clamp(secret)
    prefix = sha512(secret + _PREFIX).digest()[:KEY_LEN]
    nonce_secret = sha512(prefix + message).digest()[:KEY_LEN]
    nonce = _clamp(nonce_secret)
    point = ed25519_of(crypto.x25519_public(nonce_secret), 0)
    for sign_bit in (0, 1):
        key = ed25519_of(public, sign_bit)
        challenge = int.from_bytes(sha512(point + key + message).digest(), "little")
        for nonce_sign in (1, -1):
            response = (nonce_sign * nonce + challenge * scalar) % _ORDER
            signature = point + response.to_bytes(KEY_LEN, "little")
            if crypto.ed25519_verify(key, signature, message):
                return sign_bit, signature
    raise CryptoError("an ntor key that cannot sign")


def _clamp(secret: bytes) -> int:
    """The number that an X25519 secret stands for (RFC 7748, section 5)."""
    return int.from_bytes(secret, "little") & ((1 << 254) - 8) | 1 << 254
