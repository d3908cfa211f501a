"""X25519 keys that sign as Ed25519 keys do, and their blinding (rend-spec-v3, appendix A.2).

Does: convert a public key, blind a public or a secret one, and sign so that every Ed25519 verifier accepts it.
Does not: choose blinding factors, or know what is signed.

X25519 and Ed25519 are one curve in two forms. An X25519 key lacks one bit, the sign of the other form's x coordinate:
as in XEdDSA, a key without it stands for the form with sign bit 0, and whoever signs takes the secret of that one.
Multiples of points are what the platform's X25519 computes, in constant time. Sums and products of secret numbers are
Python's, whose time depends on them a little: it is some microseconds of work a few times a day.
"""

from __future__ import annotations

from hashlib import sha512

from convergence.errors import CryptoError
from convergence.ports import Crypto

KEY_LEN = 32
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_PREFIX = b"Derive temporary signing key hash input"  # RH_BLIND_STRING


def ed25519_of(public: bytes, sign_bit: int = 0) -> bytes:
    """The Ed25519 public key, 32 bytes, of an X25519 public key and a sign: y = (u - 1) / (u + 1).

    Raises:
        CryptoError: there is none.
    """
    u = int.from_bytes(public, "little") & ((1 << 255) - 1)
    if len(public) != KEY_LEN or (u + 1) % _P == 0 or sign_bit not in (0, 1):
        raise CryptoError("an X25519 key that has no Ed25519 form")
    y = (u - 1) * pow(u + 1, -1, _P) % _P
    return (y | sign_bit << 255).to_bytes(KEY_LEN, "little")


def scalar_of(secret: bytes) -> int:
    """The number that an X25519 secret stands for (RFC 7748, section 5)."""
    return int.from_bytes(secret, "little") & ((1 << 254) - 8) | 1 << 254


def sign(crypto: Crypto, scalar: int, key: bytes, prefix: bytes, message: bytes) -> bytes | None:
    """An Ed25519 signature, 64 bytes; None unless `key` is the Ed25519 form of this very scalar, with its sign.

    X25519 gives points without their sign: the right one of the nonce's point is found by verifying. The nonce is a
    product of two X25519 secrets: each alone lacks one bit of 252, their product takes all values alike.

    Args:
        prefix: secret; it makes the nonce, together with the message.
    """
    halves = sha512(prefix + message).digest()
    first, second = halves[:KEY_LEN], halves[KEY_LEN:]
    nonce = scalar_of(first) * scalar_of(second)
    point = ed25519_of(crypto.x25519(second, crypto.x25519_public(first)))
    challenge = int.from_bytes(sha512(point + key + message).digest(), "little")
    for signed_nonce in (nonce, -nonce):
        response = (signed_nonce + challenge * scalar) % _ORDER
        signature = point + response.to_bytes(KEY_LEN, "little")
        if crypto.ed25519_verify(key, signature, message):
            return signature
    return None


def blinded_key(crypto: Crypto, public: bytes, factor: bytes) -> bytes:
    """The Ed25519 form of a blinded key, 32 bytes, with sign bit 0.

    Args:
        public: X25519 public key.
        factor: 32 bytes; X25519 clamps them.

    Raises:
        CryptoError: the key is of low order, or has no Ed25519 form.
    """
    return ed25519_of(crypto.x25519(factor, public))


def blinded_scalar(secret: bytes, factor: bytes) -> int:
    """The secret of the blinded key, or of its negative."""
    return scalar_of(factor) * scalar_of(secret) % _ORDER


def sign_blinded(crypto: Crypto, secret: bytes, factor: bytes, message: bytes) -> bytes:
    """Sign with a blinded key; `blinded_key` of the public key verifies it.

    Args:
        secret: X25519 secret key, 32 bytes.
    """
    scalar = blinded_scalar(secret, factor)
    key = blinded_key(crypto, crypto.x25519_public(secret), factor)
    prefix = sha512(_PREFIX + factor + secret).digest()[:KEY_LEN]
    for signed_scalar in (scalar, -scalar):
        signature = sign(crypto, signed_scalar, key, prefix, message)
        if signature is not None:
            return signature
    raise CryptoError("a blinded key that cannot sign")
